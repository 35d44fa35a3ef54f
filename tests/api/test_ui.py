"""The dashboard over HTTP: who gets in, by what, and what a page may hold."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from api.browsers import HEADER
from api.headers import DASHBOARD
from api.scopes import PAGES
from api.ui import assets
from db import keys, sign_ins
from db.keys import Scope
from db.session import Sessions
from tests.api.test_tenants import PAGES as RULES
from tests.conftest import LiveAPI

HERE = Path(assets.__file__).parent
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OURS = {"Sec-Fetch-Site": "same-origin"}
FROM_A_PAGE = OURS | {HEADER: "1"}
JOB = {"task": "translation", "inputs": ["one"]}
PATHS = sorted(path.replace("<job_id>", "job_0mgcxk2l9h4t8v2c6y0q1w5r3") for _, path in RULES)


@pytest.fixture
def browser(api: LiveAPI) -> Iterator[httpx.Client]:
    """A browser that nobody signed in yet."""
    with api.client(None) as client:
        client.headers.update(HTML)
        yield client


@pytest.fixture
def signed_in(browser: httpx.Client, key: str) -> httpx.Client:
    assert sign_in(browser, key).status_code == 303
    return browser


def sign_in(browser: httpx.Client, key: str, **fields: str) -> httpx.Response:
    return browser.post("/sign-in", data={"key": key, **fields}, headers=OURS)


def cookie(answer: httpx.Response) -> tuple[str, set[str]]:
    """The value that is set, and its attributes."""
    [header] = answer.headers.get_list("set-cookie")
    value, *attributes = header.split("; ")
    return value.partition("=")[2], set(attributes)


def is_in(browser: httpx.Client) -> bool:
    return browser.get("/v1/jobs").status_code == 200


def test_a_key_opens_the_dashboard(browser: httpx.Client, key: str) -> None:
    assert not is_in(browser)

    answer = sign_in(browser, key)

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert is_in(browser)
    page = browser.get("/").text
    assert "<h1>Jobs</h1>" in page
    assert 'data-scopes="read submit admin"' in page and 'data-tenant="default"' in page


def test_the_cookie_is_for_this_server_alone_and_out_of_reach_of_scripts(browser: httpx.Client, key: str) -> None:
    value, attributes = cookie(sign_in(browser, key))

    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= attributes
    assert not any(attribute.startswith("Domain") for attribute in attributes)
    assert "Secure" not in attributes
    assert key[17:] not in value


def test_over_tls_the_cookie_is_never_sent_in_the_clear(api: LiveAPI, key: str) -> None:
    answer = api.app.test_client().post(
        "/sign-in", data={"key": key}, headers=OURS, environ_overrides={"wsgi.url_scheme": "https"}
    )

    [header] = answer.headers.getlist("Set-Cookie")
    assert header.startswith("__Host-bushel=") and "; Secure;" in header


def test_of_the_cookie_only_a_hash_is_kept(browser: httpx.Client, key: str, sessions: Sessions) -> None:
    secret, _ = cookie(sign_in(browser, key))

    with sessions() as session:
        [row] = session.connection().exec_driver_sql("SELECT to_jsonb(sign_ins)::text FROM sign_ins").scalars()
    assert secret[13:] not in row and secret[:12] == key[4:16]


@pytest.mark.parametrize("wrong", ["", "nonsense", "bsh_0mgcxk2l9h4t_" + "0" * 49, "<script>alert(1)</script>", "\x00"])
def test_what_is_no_key_opens_nothing_and_is_not_repeated(browser: httpx.Client, wrong: str) -> None:
    answer = sign_in(browser, wrong)

    assert answer.status_code == (401 if wrong else 400)
    assert 'role="alert"' in answer.text
    assert not answer.headers.get_list("set-cookie")
    assert "alert(1)" not in answer.text


def test_a_cookie_that_is_made_up_opens_nothing(browser: httpx.Client, signed_in: httpx.Client, key: str) -> None:
    for value in ("", "x", f"{key[4:16]}_{'A' * 43}", f"0mgcxk2l9h4t_{'A' * 43}", key, "\u00ff" * 9):
        browser.cookies.clear()
        answer = browser.get("/v1/jobs", headers={"Cookie": f"bushel={value}".encode()})

        assert answer.status_code == 401, value


@pytest.mark.parametrize(
    "next",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/\tevil",
        "javascript:alert(1)",
        "",
        "/sign-out",
        "/v1/jobs",
    ],
)
def test_signing_in_never_leads_away_from_here(browser: httpx.Client, key: str, next: str) -> None:
    assert sign_in(browser, key, next=next).headers["location"] == "/"


def test_signing_in_leads_to_where_one_wanted_to_go(browser: httpx.Client, key: str) -> None:
    answer = browser.get("/jobs/job_1?page=2")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fjobs%2Fjob_1%3Fpage%3D2"
    assert 'value="/jobs/job_1?page=2"' in browser.get(answer.headers["location"]).text
    assert sign_in(browser, key, next="/jobs/job_1?page=2").headers["location"] == "/jobs/job_1?page=2"
    assert browser.get("/sign-in?next=/keys").headers["location"] == "/keys"


def test_a_link_on_a_foreign_page_arrives_signed_in(browser: httpx.Client) -> None:
    """The browser holds the cookie back on the way from there; it does not when the page comes again by itself."""
    answer = browser.get("/jobs/job_1", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/jobs/job_1">' in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nothing said"),
        pytest.param({HEADER: "1"}, id="no origin"),
        pytest.param(OURS, id="no header"),
        pytest.param({HEADER: "1", "Sec-Fetch-Site": "cross-site"}, id="another site"),
        pytest.param({HEADER: "1", "Sec-Fetch-Site": "same-site"}, id="another host of the site"),
        pytest.param({HEADER: "1", "Sec-Fetch-Site": "none"}, id="typed in"),
        pytest.param({HEADER: "1", "Origin": "https://evil.example"}, id="another origin"),
        pytest.param({HEADER: "1", "Origin": "http://127.0.0.1:1"}, id="another port"),
        pytest.param({HEADER: "1", "Origin": "null"}, id="a page without an origin"),
        pytest.param({HEADER: "0", "Sec-Fetch-Site": "same-origin"}, id="another header"),
    ],
)
def test_what_no_page_of_ours_sent_changes_nothing(signed_in: httpx.Client, headers: dict[str, str]) -> None:
    answer = signed_in.post("/v1/jobs", json=JOB, headers=headers)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "foreign_page"
    assert signed_in.get("/v1/jobs").json()["data"] == []


def test_what_a_page_of_ours_sent_does(signed_in: httpx.Client, api: LiveAPI) -> None:
    for headers in (FROM_A_PAGE, {HEADER: "1", "Origin": api.url}):
        assert signed_in.post("/v1/jobs", json=JOB, headers=headers).status_code == 202
    assert len(signed_in.get("/v1/jobs").json()["data"]) == 2


def test_a_key_in_the_request_needs_no_page(client: httpx.Client, signed_in: httpx.Client) -> None:
    headers = {"Origin": "https://elsewhere.example", "Cookie": "bushel=nonsense"}

    assert client.post("/v1/jobs", json=JOB, headers=headers).status_code == 202


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
@pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_forms_of_others_sign_nobody_in_or_out(
    signed_in: httpx.Client, key: str, path: str, headers: dict[str, str]
) -> None:
    answer = signed_in.post(path, data={"key": key}, headers=headers)

    assert answer.status_code == 403
    assert not answer.headers.get_list("set-cookie")
    assert is_in(signed_in)


def test_signing_out_ends_the_sign_in_and_not_only_the_cookie(signed_in: httpx.Client) -> None:
    secret = signed_in.cookies["bushel"]

    answer = signed_in.post("/sign-out", headers=OURS)

    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert "Max-Age=0" in cookie(answer)[1]
    signed_in.cookies.set("bushel", secret)
    assert not is_in(signed_in)
    assert signed_in.post("/sign-out", headers=OURS).status_code == 303


def test_signing_out_of_one_browser_leaves_the_others(api: LiveAPI, signed_in: httpx.Client, key: str) -> None:
    with api.client(None) as other:
        sign_in(other, key)
        signed_in.post("/sign-out", headers=OURS)

        assert is_in(other)


def test_a_sign_in_ends_with_its_key(signed_in: httpx.Client, sessions: Sessions, key: str) -> None:
    assert is_in(signed_in)

    with sessions.begin() as session:
        keys.revoke_key(session, key)

    assert not is_in(signed_in)
    assert signed_in.get("/").headers["location"] == "/sign-in"


def test_a_sign_in_ends_when_its_key_expires(signed_in: httpx.Client, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.connection().exec_driver_sql("UPDATE api_keys SET expires_at = now() - interval '1 s'")

    assert not is_in(signed_in)


def test_a_sign_in_ends_with_the_secret_that_made_it(signed_in: httpx.Client, sessions: Sessions, key: str) -> None:
    with sessions.begin() as session:
        keys.rotate_key(session, key, timedelta(hours=1))
    assert is_in(signed_in)

    with sessions.begin() as session:
        keys.rotate_key(session, key, timedelta(hours=1))
    assert not is_in(signed_in)


def test_a_sign_in_lasts_twelve_hours(sessions: Sessions, key: str) -> None:
    now = datetime.now(UTC)
    with sessions.begin() as session:
        begun = sign_ins.begin(session, key, now)
        assert begun is not None
        identity, secret = begun

        assert sign_ins.verify(session, secret, now + timedelta(hours=11, minutes=59)) == identity
        assert sign_ins.verify(session, secret, now + timedelta(hours=12)) is None


def test_a_key_has_so_many_browsers_and_those_that_are_over_are_forgotten(sessions: Sessions, key: str) -> None:
    now = datetime.now(UTC)
    with sessions.begin() as session:
        secrets = [sign_ins.begin(session, key, now + timedelta(seconds=n)) for n in range(sign_ins.MOST + 2)]
        opened = [sign_ins.verify(session, begun[1], now) is not None for begun in secrets if begun is not None]
        assert opened == [False, False] + [True] * sign_ins.MOST

        sign_ins.begin(session, key, now + timedelta(days=1))
        assert session.connection().exec_driver_sql("SELECT count(*) FROM sign_ins").scalar_one() == 1


def test_a_sign_in_has_the_scopes_of_its_key_and_no_more(
    browser: httpx.Client, sessions: Sessions, tenant: str
) -> None:
    with sessions.begin() as session:
        reader = keys.issue_key(session, "default", "reader", scopes=[Scope.READ])
    sign_in(browser, reader)

    assert is_in(browser)
    assert browser.post("/v1/jobs", json=JOB, headers=FROM_A_PAGE).status_code == 403
    assert browser.get("/v1/keys").status_code == 403
    assert 'data-scopes="read"' in browser.get("/keys").text
    assert 'href="/new">New job</a>\n' not in browser.get("/").text


def test_signing_in_is_in_the_audit_log(browser: httpx.Client, client: httpx.Client, key: str) -> None:
    sign_in(browser, key)

    [entry] = client.get("/v1/audit-log", params={"action": "key.signed_in"}).json()["data"]
    assert (entry["actor"], entry["target"], entry["address"]) == (key[4:16], key[4:16], "127.0.0.1")


@pytest.mark.parametrize("path", [*PATHS, "/sign-in"])
def test_a_page_may_load_and_send_to_nobody_but_this_server(signed_in: httpx.Client, path: str) -> None:
    if path == "/sign-in":
        signed_in.cookies.clear()
    answer = signed_in.get(path)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == DASHBOARD
    assert "'unsafe" not in DASHBOARD and "http" not in DASHBOARD and "*" not in DASHBOARD
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"
    for found in re.findall(r"""(?:src|href|action)="([^"]*)""", answer.text):
        assert re.match(r"/(?!/)|#", found), found
        if found.startswith("/static/"):
            assert signed_in.get(found).status_code == 200, found


def test_every_page_has_its_scope_and_its_row() -> None:
    assert len(PAGES) == len(RULES) == len(PATHS)


@pytest.mark.parametrize("template", sorted((HERE / "templates/ui").glob("*.html")), ids=lambda path: path.stem)
def test_no_template_has_a_script_or_a_style_in_it(template: Path) -> None:
    page = template.read_text(encoding="utf-8")

    for forbidden in (
        r"<script(?![^>]*\ssrc=)",
        r"\son\w+\s*=",
        r"<style",
        r"\sstyle\s*=",
        r"javascript:",
        r"\|\s*safe",
    ):
        assert not re.search(forbidden, page, re.IGNORECASE), forbidden


@pytest.mark.parametrize("module", sorted((HERE / "static/js").glob("*.js")), ids=lambda path: path.stem)
def test_no_module_writes_markup_or_asks_anybody_else(module: Path) -> None:
    code = module.read_text(encoding="utf-8")

    for forbidden in (
        "innerHTML",
        "outerHTML =",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
    ):
        assert forbidden not in code, forbidden
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", code))
    assert {address for address in addresses if "example.com" not in address} <= {"http://www.w3.org/2000/svg"}
    for imported in re.findall(r"""from\s+"([^"]+)";""", code):
        assert (module.parent / imported).is_file(), imported


def test_hostile_names_are_shown_as_they_are_and_are_nothing_else(api: LiveAPI, sessions: Sessions) -> None:
    with sessions.begin() as session:
        hostile = keys.issue_key(session, '"><script>alert(1)</script>', "'<img src=x onerror=alert(2)>{{ 7 * 7 }}")
    with api.client(None) as browser:
        browser.headers.update(HTML)
        sign_in(browser, hostile)

        pages = [browser.get(path).text for path in PATHS]
        pages.append(browser.get("/jobs/%3Cscript%3Ealert(3)").text)

    for page in pages:
        assert "<script>" not in page and "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;alert(3)" in pages[-1]


def test_programs_that_ask_for_no_page_are_led_to_the_documentation(api: LiveAPI) -> None:
    with api.client(None) as nobody:
        for accept in ("*/*", "application/json"):
            answer = nobody.get("/", headers={"Accept": accept})
            assert (answer.status_code, answer.headers["location"]) == (302, "/docs")
        assert nobody.get("/", headers=HTML).headers["location"] == "/sign-in"


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("style.css", "text/css; charset=utf-8"),
        ("js/api.js", "text/javascript; charset=utf-8"),
        ("bushel.svg", "image/svg+xml; charset=utf-8"),
    ],
)
def test_files_of_pages_are_kept_under_their_hash(browser: httpx.Client, name: str, type: str) -> None:
    answer = browser.get(assets.address(name))
    again = browser.get(assets.address(name), headers={"If-None-Match": answer.headers["etag"]})
    older = browser.get(f"/static/0123456789abcdef/{name}")

    assert (answer.status_code, answer.headers["content-type"]) == (200, type)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.content == (HERE / "static" / name).read_bytes()
    assert (again.status_code, again.content) == (304, b"")
    # During an update the page of another version asks for it: it goes on working, and keeps nothing under that name.
    assert (older.content, older.headers["cache-control"]) == (answer.content, "no-cache")


@pytest.mark.parametrize(
    "name", ["nothing.js", "../pages.py", "..%2fpages.py", "%2e%2e/doors.py", "js", "js/", "../../config.py"]
)
def test_nothing_else_can_be_had_by_a_path(browser: httpx.Client, name: str) -> None:
    answer = browser.get(f"/static/{assets.digest()}/{name}")

    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"


def test_an_error_on_the_way_to_a_page_is_a_page(api: LiveAPI, sessions: Sessions, key: str) -> None:
    """A tenant that is too fast sees a sentence, not JSON."""
    with sessions.begin() as session:
        session.connection().exec_driver_sql("UPDATE tenants SET requests_per_second = 1")
    with api.client(None) as browser:
        browser.headers.update(HTML)
        sign_in(browser, key)
        answers = [browser.get("/keys") for _ in range(3)]

    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["content-type"] == "text/html; charset=utf-8"
    assert refused.headers["content-security-policy"] == DASHBOARD
    assert "send them more slowly" in refused.text and "Traceback" not in refused.text


def test_templates_and_files_are_in_what_is_installed() -> None:
    from importlib.resources import files

    shipped = files("api.ui")
    assert {each.name for each in (shipped / "templates/ui").iterdir()} >= {"base.html", "jobs.html", "sign_in.html"}
    assert "js/jobs.js" in assets.assets() and "style.css" in assets.assets()
