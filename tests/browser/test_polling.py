"""Pages of a service that has no event stream to spare: they ask every few seconds, and show the same."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.browser.visits import Visit
from tests.following import Followed, following
from tests.stack.conftest import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.slow

Visiting = Callable[..., Visit]
# More than a stream that was refused is left alone for.
_LATER = 60_000


@pytest.fixture
def crowded(site: Stack, tmp_path: Path) -> Iterator[Stack]:
    """Another API of the same service, with room for one stream. Asked for before a window, it outlives it."""
    folder = tmp_path / "crowded"
    folder.mkdir()
    addresses = [site.environment[f"BUSHEL_{name}_URL"] for name in ("DATABASE", "BROKER")]
    stack = Stack(folder, *addresses, site.key)
    stack.environment = site.environment | {"BUSHEL_MAX_STREAMS": "1"}
    try:
        stack.start_api()
        yield stack
    finally:
        stack.close()


@pytest.fixture
def taken(crowded: Stack) -> Iterator[Followed]:
    """The only stream, which is somebody else's."""
    with following(crowded.http, "/v1/events") as stream:
        assert stream.response is not None and stream.response.status_code == 200
        yield stream


@pytest.fixture
def running(site: Stack) -> Iterator[str]:
    """A job that goes on until it is cancelled."""
    job_id = site.submit(inputs=["[[slow 3600]] one", "two"], model="echo-slow")
    yield job_id
    # A test that failed must not leave the worker to it.
    site.http.post(f"/v1/jobs/{job_id}/cancel")
    site.finished(job_id)


def refused(visiting: Visiting, crowded: Stack) -> Visit:
    """A window for which there is no stream; of which the browser complains, and the page does not."""
    visit = visiting(stack=crowded)
    visit.forgiven.append("429")
    return visit


def test_a_page_of_a_job_without_a_stream_shows_how_it_moves_and_ends(
    crowded: Stack, taken: Followed, running: str, visiting: Visiting
) -> None:
    visit = refused(visiting, crowded)
    page = visit.page

    page.goto(f"/jobs/{running}")

    page.locator("#live[data-state=polling]").filter(has_text="asking every 3 s").wait_for()
    page.locator("#status[data-status=in_progress]").wait_for()
    page.locator("#log [data-event=started]").wait_for()
    crowded.http.post(f"/v1/jobs/{running}/cancel").raise_for_status()
    page.locator("#status[data-status=cancelled]").wait_for()
    page.locator("#log [data-event=cancelled]").wait_for()
    # Nothing more will come, so nothing more is asked for.
    page.locator("#live[data-state=over][hidden]").wait_for(state="attached")
    asked = [url for url in visit.requests if url.endswith(f"/v1/jobs/{running}")]
    assert len(asked) > 2


def test_the_list_without_a_stream_asks_until_there_is_one_again(crowded: Stack, visiting: Visiting) -> None:
    page = refused(visiting, crowded).page
    # Only what the page itself waits for is made short.
    page.clock.install()
    with following(crowded.http, "/v1/events"):
        page.goto("/")
        polling = page.locator("#live[data-state=polling]")
        polling.wait_for()
        # Made after the page was: it was asked for.
        first = crowded.submit(inputs=["seen by asking"])
        page.locator(f"tr[data-job={first}] [data-status=completed]").wait_for()
        assert polling.is_visible()

    eventually(lambda: open_streams(crowded) == 0, 60)
    page.clock.fast_forward(_LATER)

    page.locator("#live[data-state=live]").wait_for()
    assert open_streams(crowded) == 1
    second = crowded.submit(inputs=["told by the stream"])
    page.locator(f"tr[data-job={second}] [data-status=completed]").wait_for()
    for each in (first, second):
        crowded.finished(each)


def open_streams(stack: Stack) -> float:
    families = {each.name: each for each in text_string_to_metric_families(stack.http.get("/metrics").text)}
    return float(families["bushel_event_streams"].samples[0].value)
