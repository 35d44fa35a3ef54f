"""From a file that is dropped to the bytes that are downloaded, as somebody at a browser does it."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.visits import Visit
from tests.stack.conftest import Stack

pytestmark = pytest.mark.slow

# Drops a file on the page, as a hand would: the browser gives no other way.
DROP = """([name, content]) => {
    const carried = new DataTransfer();
    carried.items.add(new File([content], name, {type: "text/csv"}));
    const target = document.getElementById("drop");
    for (const type of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(type, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""


def test_a_csv_is_dropped_corrected_submitted_watched_and_downloaded(visit: Visit, site: Stack, tmp_path: Any) -> None:
    page = visit.page
    rows = "".join(f"{number},[[slow 0.2]] sentence {number}\n" for number in range(100, 140))
    page.goto("/new")

    # An error line: the third row has a cell too many.
    page.evaluate(DROP, ["hello.csv", f"id,text\n1,one\n2,two,three\n{rows}"])
    problems = page.locator("#problems")
    problems.wait_for()
    assert page.locator("#problems tbody tr").count() == 1
    assert problems.get_by_role("button", name="Go to line 3").is_visible()
    assert page.get_by_role("button", name="Submit the job").is_disabled()
    assert page.locator("#columns .tag").all_inner_texts() == ["id", "text"]
    assert page.locator("#first .text").first.inner_text() == "one"

    # Corrected where it is, by the keyboard.
    problems.get_by_role("button", name="Go to line 3").click()
    area = page.get_by_label("Text", exact=True)
    expect(area).to_be_focused()
    area.fill(area.input_value().replace("2,two,three\n", "2,two\n"))
    page.locator("#checking.good").wait_for()
    assert page.locator("#estimate").inner_text().startswith("Items\n42")
    assert page.locator("#problems").count() == 0
    page.get_by_role("button", name="Submit the job").click()

    # The bar moves, and the page is the same one all the time.
    page.wait_for_url("**/jobs/job_*")
    page.evaluate("() => { window.isSame = true; }")
    bar = page.get_by_role("progressbar")
    seen: set[int] = set()
    while not page.locator("#status[data-status=completed]").is_visible():
        seen.add(int(bar.get_attribute("aria-valuenow") or 0))
        page.wait_for_timeout(100)
    assert page.evaluate("() => window.isSame")
    assert len(seen | {100}) >= 2, seen
    assert bar.get_attribute("aria-valuenow") == "100"

    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    path = tmp_path / "downloaded"
    download.value.save_as(path)
    job_id = page.url.rsplit("/", 1)[1]
    job = site.finished(job_id)
    assert path.read_bytes() == site.http.get(f"/v1/files/{job['output_file_id']}/content").content
    assert job["counts"]["succeeded"] == 42
    assert job["metadata"] == {"name": "hello.csv"}


def test_a_look_leaves_neither_jobs_nor_files_behind(visit: Visit, site: Stack) -> None:
    page = visit.page
    jobs, files = (
        {each["id"] for each in site.http.get(path).json()["data"]} for path in ("/v1/jobs", "/v1/files?limit=100")
    )
    page.goto("/new")
    page.get_by_role("button", name="Text", exact=True).click()

    page.get_by_label("Text", exact=True).fill("one\ntwo\n")
    page.locator("#checking.good").wait_for()
    with page.expect_response(lambda answer: answer.request.method == "DELETE" and "/v1/files/" in answer.url):
        page.get_by_label("Text", exact=True).fill("one\ntwo\nthree\n")
    page.locator("#checking.good").wait_for()
    page.goto("/models")
    page.get_by_role("heading", name="echo-slow").wait_for()

    assert {each["id"] for each in site.http.get("/v1/jobs").json()["data"]} <= jobs
    assert {each["id"] for each in site.http.get("/v1/files?limit=100").json()["data"]} <= files
