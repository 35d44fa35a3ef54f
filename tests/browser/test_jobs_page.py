"""What one does with jobs at a browser, and what hostile results can do there: nothing."""

from typing import Any

import pytest

from tests.browser.visits import Visit
from tests.stack.conftest import Stack

pytestmark = pytest.mark.slow

# Each would leave a mark if it were anything but text.
SCRIPT = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'><svg/onload=window.owned=3>"
LINK = '"><a href="javascript:window.owned=4">here</a>{{7*7}}${7*7}<!--'
BACKWARDS = "\u202egnp.exe\u202c \u2066hidden\u2069 שלום \u200f"
EMOJI = "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 \uff45\u0301 \U0001d573 \u0300\u0301\u0302 " * 20


def row(page: Any, job_id: str) -> Any:
    return page.locator(f"tr[data-job={job_id}]")


def test_a_job_is_cancelled_from_the_list(visit: Visit, site: Stack) -> None:
    job_id = site.submit(inputs=[f"[[slow 5]] item {number}" for number in range(50)], model="echo-slow")
    page = visit.page
    page.goto("/")

    row(page, job_id).locator("[data-action=cancel]").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()

    row(page, job_id).locator("[data-status=cancelled]").wait_for()
    assert site.finished(job_id)["status"] == "cancelled"


def test_what_failed_is_retried_from_the_list(visit: Visit, site: Stack) -> None:
    job_id = site.submit(inputs=["good", "[[fail]] bad", "good too"])
    assert site.finished(job_id)["counts"]["failed"] == 1
    page = visit.page
    page.goto("/")

    row(page, job_id).locator("[data-action=retry]").click()

    page.get_by_role("link", name="Open it").click()
    page.wait_for_url("**/jobs/job_*")
    child = site.job(page.url.rsplit("/", 1)[1])
    assert child["parent_id"] == job_id
    site.finished(child["id"])


def test_the_log_of_a_job_says_in_words_what_happened_and_leads_to_what_was_made_of_it(
    visit: Visit, site: Stack
) -> None:
    job_id = site.submit(inputs=["good", "[[fail]] bad", "good too"])
    site.finished(job_id)
    child_id = site.http.post(f"/v1/jobs/{job_id}/retry").raise_for_status().json()["id"]
    site.finished(child_id)
    page = visit.page

    page.goto(f"/jobs/{job_id}")
    page.locator("#log [data-event=retried]").wait_for()

    entries = page.locator("#log li").all()
    assert [entry.locator("> span").text_content() for entry in entries] == [
        f"Retried {child_id}",
        "Completed failed: 1, succeeded: 2",
        "Finalizing",
        "Started items: 3",
        "Created",
    ]
    page.locator("#log").get_by_role("link", name=child_id).click()
    page.wait_for_url(f"**/jobs/{child_id}")
    page.locator("#log [data-event=created]").get_by_role("link", name=job_id).wait_for()


def test_hostile_results_are_shown_as_the_texts_they_are(visit: Visit, site: Stack) -> None:
    texts = [SCRIPT, LINK, BACKWARDS, EMOJI, "x" * 1_000_000]
    job_id = site.submit(inputs=[{"text": text} for text in texts[:4]], metadata={"name": SCRIPT, LINK[:60]: BACKWARDS})
    long_id = site.submit(inputs=[texts[4]], model="echo")
    failed_id = site.submit(inputs=[f"[[fail]] {SCRIPT}"])
    page = visit.page
    for each in (job_id, long_id, failed_id):
        site.finished(each)

    page.goto(f"/jobs/{job_id}")
    page.locator("#status[data-status=completed]").wait_for()
    page.locator("#results").get_by_text("window.owned = 1").first.wait_for()
    # As the engine has it: with its words parted by single blanks.
    outputs = {"".join(each["output"]["text"].split()) for each in site.results(job_id)}
    shown = {"".join(each.split()) for each in page.locator("#results .text").all_text_contents()}
    assert outputs <= shown
    for selector in ("#results", "#facts", "h1"):
        assert page.locator(f"{selector} :is(script, img, svg, a[href^=javascript])").count() == 0
    # A text that turns around stays in its box, and does not turn what stands beside it.
    for box in page.locator("#results .text").all():
        assert box.evaluate("(node) => getComputedStyle(node).unicodeBidi") in (
            "isolate",
            "plaintext",
            "isolate-override",
        )

    page.goto(f"/jobs/{long_id}")
    page.locator("#results [data-cut]").first.wait_for()
    assert all(len(text) <= 5_000 for text in page.locator("#results .text").all_text_contents())
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")

    page.goto(f"/jobs/{failed_id}")
    page.locator("#failures > *").first.wait_for()
    page.goto("/")
    row(page, job_id).wait_for()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")

    assert page.evaluate("() => window.owned") is None


def test_hostile_files_are_shown_as_the_texts_they_are_before_they_run(visit: Visit) -> None:
    page = visit.page
    header = f'id,"{SCRIPT.replace(chr(34), chr(39))}",text\n'
    rows = f'1,a,"{BACKWARDS}"\n2,b,"{SCRIPT}"\n3,c,"{"y" * 1_000_000}"\n4,d,e,<b>f</b>\n'
    page.goto("/new")

    page.set_input_files(
        "#file", files=[{"name": f"{SCRIPT[:20]}.csv", "mimeType": "text/csv", "buffer": (header + rows).encode()}]
    )
    page.locator("#problems").wait_for()

    assert page.locator("#columns .tag").nth(1).inner_text().startswith("<script>")
    assert [text[:8] for text in page.locator("#first .text").all_inner_texts()][1:] == ["<script>", "yyyyyyyy"]
    assert page.locator("#preview :is(script, img, b)").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => window.owned") is None
