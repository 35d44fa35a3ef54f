"""What holds for all pages: nobody is kept out by them, and nothing leaves the host."""

from collections.abc import Callable

import pytest

from tests.browser.visits import Visit, signed_in
from tests.stack.conftest import Stack

pytestmark = pytest.mark.slow

# What a screen reader would about say of where one is.
FOCUSED = """() => {
    const node = document.activeElement;
    return (node.getAttribute("aria-label") || node.textContent || node.id).trim();
}"""
PAGES = {
    "/": "Jobs",
    "/new": "New job",
    "/models": "Models",
    "/workers": "Workers and queues",
    "/keys": "Keys",
    "/webhooks": "Webhooks",
}


@pytest.fixture(scope="module")
def done(site: Stack) -> str:
    """A job with results and failures, for the pages to show."""
    job_id = site.submit(inputs=["good", "[[fail]] bad", "good too"], metadata={"name": "shown"})
    site.finished(job_id)
    return job_id


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_no_page_has_a_serious_fault_for_those_who_cannot_see_or_point(
    visiting: Callable[..., Visit], done: str, scheme: str, width: int
) -> None:
    visit = visiting(scheme=scheme, width=width)
    found: dict[str, list[str]] = {}
    for path, heading in {**PAGES, f"/jobs/{done}": "shown"}.items():
        visit.page.goto(path)
        visit.page.get_by_role("heading", level=1, name=heading).wait_for()
        visit.page.wait_for_load_state("load")
        if path == f"/jobs/{done}":
            visit.page.locator("#results").get_by_text("good too").first.wait_for()
        if path == "/new":
            visit.page.set_input_files(
                "#file", files=[{"name": "a.csv", "mimeType": "text/csv", "buffer": b"id,text\n1,one\n2,two,three\n"}]
            )
            visit.page.locator("#problems").wait_for()
            visit.page.locator("summary").click()
        found[path] = visit.violations()
        assert visit.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path

    assert {path: faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_door_has_none_either(visiting: Callable[..., Visit], scheme: str) -> None:
    visit = visiting(is_signed_in=False, scheme=scheme)
    visit.page.goto("/sign-in")

    assert visit.violations() == []


def test_signing_in_leads_to_where_one_wanted_to_go_and_signing_out_ends_it(
    visiting: Callable[..., Visit], site: Stack
) -> None:
    visit = visiting(is_signed_in=False)
    page = visit.page
    visit.forgiven.append("401")

    page.goto("/workers")
    page.wait_for_url("**/sign-in?next=*")
    page.get_by_label("API key").fill("bsh_nothing")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    signed_in(page, site.key, "/workers")
    assert page.locator("[data-worker]").first.inner_text()
    # No script can read what opens the API.
    assert page.evaluate("() => document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")

    page.goto("/workers")
    page.wait_for_url("**/sign-in?next=*")


def test_a_job_can_be_made_with_the_keyboard_alone(visit: Visit, site: Stack) -> None:
    page = visit.page
    page.goto("/")
    page.locator("#live").wait_for()

    def tab_to(accessible: str, most: int = 60) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            here = page.evaluate(FOCUSED)
            if here == accessible:
                return
        raise AssertionError(f"{accessible} cannot be reached")

    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to content"
    tab_to("New job")
    page.keyboard.press("Enter")
    page.wait_for_url("**/new")
    page.locator("#models input").first.wait_for()
    tab_to("Text")
    page.keyboard.press("Enter")
    page.keyboard.type("typed by hand\nand a second line")
    page.locator("#checking.good").wait_for()
    tab_to("Submit the job")
    # Where one is can be seen.
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/job_*")

    job = site.finished(page.url.rsplit("/", 1)[1])
    assert job["counts"]["succeeded"] == 2


def test_a_model_is_tried_with_one_input(visit: Visit) -> None:
    page = visit.page
    page.goto("/models")

    page.get_by_role("button", name="Try it: echo", exact=True).click()
    page.locator("#trial-text").fill("Says what it reads.")
    page.get_by_role("button", name="Run it").click()

    page.locator("#answer").get_by_text("Says what it reads.").wait_for()
    assert page.locator("article[data-model=echo-slow]").inner_text().startswith("echo-slow")


def test_the_workers_page_shows_what_waits_and_what_runs(visit: Visit, site: Stack) -> None:
    job_id = site.submit(inputs=[f"[[slow 2]] item {number}" for number in range(30)], model="echo-slow")
    page = visit.page

    page.goto("/workers")

    page.locator("tr[data-queue=echo-slow]").wait_for()
    page.locator("#leases").get_by_role("link", name=job_id).wait_for()
    page.locator("[data-worker] .status.busy").wait_for()
    site.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    page.locator("tr[data-queue=echo-slow]").wait_for(state="detached")
    site.finished(job_id)
