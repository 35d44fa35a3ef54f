"""What every answer says to a browser, and what no answer says to an attacker."""

import re
from email.message import Message
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from api.files import attachment
from api.headers import DASHBOARD, EVERYWHERE
from tests.api.test_tenants import PAGES, PUBLIC
from tests.conftest import LiveAPI
from tests.ledger import Ledger

PAGE = Path(__file__).parents[2] / "api/templates/docs.html"
NOBODYS = "job_00000000000000000000000000"


def every_request(api: LiveAPI) -> list[tuple[str, str, str]]:
    """Method, route and a path of it, for the whole route table, and some that are in no table."""
    routes = [
        (method, rule.rule, re.sub(r"<[^>]+>", NOBODYS, rule.rule))
        for rule in api.app.url_map.iter_rules()
        for method in sorted(rule.methods or ())
    ]
    return [
        *routes,
        ("GET", "", "/nowhere"),
        ("DELETE", "", "/v1/files"),
        ("TRACE", "", "/v1/jobs"),
        ("GET", "", "/%00"),
    ]


def lacking(answer: httpx.Response, route: str) -> list[str]:
    """Headers that are not as they should be."""
    expected = dict(EVERYWHERE)
    if route in ("/docs", "/openapi.json"):
        expected["Cache-Control"] = "no-cache"
    if route in ("/sign-in", "/sign-out") or ("GET", route) in PAGES:
        expected |= {"Content-Security-Policy": DASHBOARD, "Referrer-Policy": "same-origin"}
    if route == "/docs":
        expected["Content-Security-Policy"] = expected["Content-Security-Policy"].replace(
            "default-src 'none';", "default-src 'none'; style-src 'unsafe-inline';"
        )
    return [
        f"{name}: {answer.headers.get_list(name)}"
        for name in expected
        if answer.headers.get_list(name) != [expected[name]]
    ]


def test_every_answer_of_every_route_has_the_headers(api: LiveAPI, client: httpx.Client) -> None:
    requests = every_request(api)
    with api.client(None) as nobody:
        found = {
            f"{method} {path} as {who}": lacking(asking.request(method, path), route)
            for who, asking in (("somebody", client), ("nobody", nobody))
            for method, route, path in requests
        }

    assert len(found) > 100
    assert {request: headers for request, headers in found.items() if headers} == {}


def test_answers_with_content_have_the_headers_too(client: httpx.Client, ledger: Ledger) -> None:
    job_id = ledger.started(10)
    uploaded = client.post("/v1/files", files={"file": ("a.txt", b"one\n")}, data={"purpose": "batch"}).json()["id"]
    paths = [
        "/v1/models",
        "/v1/jobs",
        f"/v1/jobs/{job_id}",
        f"/v1/jobs/{job_id}/results",
        f"/v1/files/{uploaded}/content",
    ]

    answers = [client.get(path) for path in paths]

    assert [answer.status_code for answer in answers] == [200] * len(paths)
    assert [lacking(answer, "") for answer in answers] == [[]] * len(paths)
    assert answers[-1].headers["Content-Disposition"] == "attachment; filename=a.txt"
    assert answers[-2].headers["Content-Disposition"].startswith("attachment; filename=job_")


def test_only_what_is_the_same_for_everybody_may_be_kept(api: LiveAPI) -> None:
    public = {path for _, path in PUBLIC}
    with api.client(None) as nobody:
        kept = {path for path in public if nobody.get(path).headers["Cache-Control"] != "no-store"}

    assert kept == {"/docs", "/openapi.json"}


@pytest.mark.parametrize(
    "name",
    [
        "plain.txt",
        "with space.jsonl",
        'quote".txt',
        "back\\slash.txt",
        "semi;colon=.txt",
        "größe ✓.txt",
        "..%2f..%2fetc%2fpasswd",
        "a" * 200 + ".txt",
        "line\r\nSet-Cookie: a=b.txt",
        "%41.txt",
    ],
)
def test_a_download_comes_under_its_name_whatever_that_is(name: str) -> None:
    message = Message()
    message["Content-Disposition"] = header = attachment(name)

    assert header.isascii() and header.isprintable()
    assert message.get_content_disposition() == "attachment"
    # The standard library reads the plain name first, where RFC 6266 has the other go before it.
    extended = re.search(r"filename\*=UTF-8''(\S+)", header)
    assert (unquote(extended[1]) if extended else message.get_filename()) == name


def test_the_page_needs_nothing_that_its_policy_forbids() -> None:
    """No script, no handler, no picture, no font, no form, no style attribute; links are no loads."""
    page = PAGE.read_text(encoding="utf-8")

    for word in (
        r"<script",
        r"\son\w+=",
        r"<img",
        r"@font-face",
        r"@import",
        r"url\(",
        r"<form",
        r"\sstyle=",
        r"<link",
        r"<iframe",
    ):
        assert not re.search(word, page, re.IGNORECASE), word
