"""Deaths and farewells at named points of the code: between two statements, where chance seldom strikes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chaos.arena import Arena, arena, lines
from chaos.errors import ChaosFailed
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from db.faults import POINTS, VARIABLE

# So that a point is reached in the middle of things, and not always by the same process.
# Spread out besides: a chunk that is hit three times is taken for the killer, and one of its items fails.
_NTH = {
    "after claim": 2,
    "after run": 4,
    "before record": 6,
    "between insert and commit": 3,
    "between commit and ring": 5,
}
# At these a SIGKILL throws away what a worker has computed.
_WASTEFUL = ("after run", "before record", "between insert and commit")


def killed_at_points(terms: Terms) -> Row:
    """SIGKILL at every point, one after the other."""
    return _at_points(terms, "kill", "kill -9 at")


def stopped_at_points(terms: Terms) -> Row:
    """SIGTERM at every point: nothing is redone, and nobody is charged with a crash."""
    return _at_points(terms, "term", "SIGTERM at")


def _at_points(terms: Terms, action: str, shown: str) -> Row:
    marks = terms.folder.with_name("marks")
    marks.mkdir(parents=True, mode=0o777)
    orders = [f"{action}:{point}:{_NTH.get(point, 1)}@{marks / point}" for point in sorted(POINTS)]
    allowed = {"BUSHEL_WEBHOOK_PRIVATE_ADDRESSES": "true"}
    more = {VARIABLE: ";".join(orders)} | allowed
    with _receiver() as (url, events), arena("", terms.folder, environment=more, seconds_per_item=0.001) as here:
        here.row.name = f"{shown} {len(POINTS)} named points"
        hook = here.client.asked("POST", "/v1/webhooks", json={"url": url, "events": ["job.completed"]})
        seen: set[str] = set()

        def look() -> None:
            for point in sorted(set(found.name for found in marks.iterdir()) - seen):
                seen.add(point)
                here.faults += 1
                here.recoveries.note(f"{shown} {point!r}")

        # A job's windows, a chunk's steps and its end all come once a job: every point has had its turn after a few.
        for number in range(4):
            here.client.submit("echo", lines(terms.size(20_000, 10_000), f"job {number}"))
            here.until_done(300, look)
            if seen == POINTS - {"in delivery", "after delivery"}:
                break
        _await_deliveries(here, hook.json()["id"], look)
        largest = here.stack.count("SELECT max(items) FROM chunks")
        here.judge(allowed=len(_WASTEFUL) * largest if action == "kill" else largest)
        here.require(seen == POINTS, f"never reached: {', '.join(sorted(POINTS - seen))}")
        told = {event for event, _ in events}
        jobs = here.stack.count("SELECT count(*) FROM jobs WHERE status = 'completed'")
        here.require(len(told) == jobs, f"{len(told)} of {jobs} completions were told to the webhook")
        here.row.notes.append(f"{len(events)} deliveries of {len(told)} events")
        if action == "term":
            here.require(here.crashes() == 0, f"{here.crashes()} crashes were charged for asked-for ends")
        return here.row


def _await_deliveries(here: Arena, webhook_id: str, look: Callable[[], None]) -> None:
    """Until all events are delivered; a try that died is made again after its claim has run out."""
    deadline = time.monotonic() + 240
    while here.stack.count("SELECT count(*) FROM deliveries WHERE state = 'pending'"):
        look()
        here.keep_up()
        if time.monotonic() > deadline:
            raise ChaosFailed(f"webhook {webhook_id}: deliveries are still pending")
        time.sleep(0.2)
    look()


@contextmanager
def _receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A webhook receiver; its URL, and (id, body) of what it was sent."""
    events: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            events.append((self.headers["webhook-id"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """The list is the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", events
    finally:
        server.shutdown()
        server.server_close()


SCENARIOS = (Scenario("points", killed_at_points), Scenario("farewells", stopped_at_points))
