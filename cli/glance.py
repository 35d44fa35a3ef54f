"""One look at the whole service: is it well, who works, what waits, and how the jobs are."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cli import wire
from cli.client import Client
from cli.errors import CLIError, Refused

_NEWEST = 50
# Of each status. Those that run first are the oldest, so that nearly everybody's should be among them; a hundred cost
# a request.
_MOST_OPEN = 1_000
_OPEN = ("in_progress", "validating", "finalizing", "cancelling")
# The server tries its store, its broker and its disks for it.
_READINESS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen at `seen_at`. `trouble` is why nothing could be seen since; then the figures are old.

    With `has_more` there are more open jobs than are in `jobs`: older ones.
    """

    url: str
    version: str | None
    readiness: wire.Readiness
    workers: tuple[wire.Worker, ...]
    queues: tuple[wire.Queue, ...]
    jobs: tuple[wire.Job, ...]
    has_more: bool
    seen_at: float
    trouble: str | None = None

    @property
    def open_jobs(self) -> list[wire.Job]:
        """Those that run first; then in the order in which they will."""
        found = [job for job in self.jobs if not job.is_final]
        return sorted(found, key=lambda job: (not job.counts.running, -job.priority, job.created_at or 0.0, job.id))

    @property
    def ended_jobs(self) -> list[wire.Job]:
        """Those that ended last first."""
        return sorted((job for job in self.jobs if job.is_final), key=lambda job: -(job.ended_at or 0.0))

    def document(self) -> str:
        """One line of JSON, of ASCII alone; what is in the lists is as the API sent it."""
        content = {
            "object": "glance",
            "url": self.url,
            "version": self.version,
            "seen_at": round(self.seen_at, 3),
            "error": self.trouble,
            "readiness": self.readiness.raw,
            "workers": [worker.raw for worker in self.workers],
            "queues": [queue.raw for queue in self.queues],
            "jobs": [job.raw for job in [*self.open_jobs, *self.ended_jobs]],
            "has_more": self.has_more,
        }
        return json.dumps(content)


class Looker:
    """Looks at a server again and again, and asks no more of it than each look needs."""

    def __init__(self, client: Client, most_open: int = _MOST_OPEN) -> None:
        self._client, self._most_open = client, most_open
        self._last: Glance | None = None
        self._checked_at = 0.0

    def look(self) -> Glance:
        """Everything anew. Raises what the client does."""
        known = self._last if self._last is not None and self._last.trouble is None else None
        self._last = Glance(
            self._client.url,
            # A server that was away may have come back as another release.
            known.version if known else self._client.version(),
            self._readiness(known),
            tuple(self._client.workers()),
            tuple(self._client.queues()),
            *self._jobs(),
            time.time(),
        )
        return self._last

    def look_again(self) -> Glance:
        """The same, except that a server which is away or busy is told of in the glance, beside the last figures.

        Refused is raised: asking once more would not help.
        """
        try:
            return self.look()
        except Refused:
            raise
        except CLIError as exc:
            assert self._last is not None
            self._last = replace(self._last, trouble=str(exc))
            return self._last

    def _readiness(self, known: Glance | None) -> wire.Readiness:
        if known is not None and time.monotonic() - self._checked_at < _READINESS_SECONDS:
            return known.readiness
        self._checked_at = time.monotonic()
        return self._client.readiness()

    def _jobs(self) -> tuple[tuple[wire.Job, ...], bool]:
        """The newest, and those that have not ended, as many as there may be; whether there are more of these."""
        newest, is_part = self._client.newest_jobs(_NEWEST)
        found = {job.id: job for job in newest}
        has_more = False
        for status in _OPEN if is_part else ():
            jobs, is_part = self._client.newest_jobs(self._most_open, status)
            found |= {job.id: job for job in jobs}
            has_more |= is_part
        return tuple(found.values()), has_more


class Watchman:
    """Looks every `interval` seconds in a thread of its own, so that whoever draws never waits for the server.

    `told` is called in that thread when there is something new in `glance` or `failure`, and never after the block.
    """

    def __init__(self, looker: Looker, first: Glance, interval: float, told: Callable[[], None]) -> None:
        self.glance = first
        self.failure: Exception | None = None
        self._looker, self._interval, self._told = looker, interval, told
        self._over, self._telling = threading.Event(), threading.Lock()
        # Not waited for at the end: it may be in the middle of a look that takes its time.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watchman":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._telling:
            self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self.glance = self._looker.look_again()
            # Whatever it is, it is for the thread that draws: it ends the command with it.
            except Exception as exc:
                self.failure = exc
                return
            finally:
                with self._telling:
                    if not self._over.is_set():
                        self._told()
