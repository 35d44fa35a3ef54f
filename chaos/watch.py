"""Somebody who reads results twenty times a second, while everything breaks, and remembers them: none may change."""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx

LOOKS_PER_SECOND = 20
_PAGE = 500


class Watch:
    """Follows jobs in the order in which their items finish, and in turn reads again what it has read before.

    What is not answered is no finding: a look counts when it was. `changes` says in words what was not as before.
    """

    def __init__(self, http: httpx.Client, jobs: Callable[[], Sequence[str]], seed: int = 1) -> None:
        self._http, self._jobs, self._chance = http, jobs, random.Random(seed)
        # By job, the digest of each line in the order of finishing: the line with `seq` n stands at n - 1.
        self._seen: dict[str, list[bytes]] = {}
        self.looks = self.unanswered = self.reread = 0
        self.changes: list[str] = []

    @property
    def results(self) -> int:
        return sum(map(len, self._seen.values()))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the block lasts, by a thread of its own."""
        over = threading.Event()
        thread = threading.Thread(target=self._go_on, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look(self, job_id: str, after: int | None = None) -> None:
        """One page: of what is new, or again of what comes behind the result of this number."""
        after = len(self._seen.setdefault(job_id, [])) if after is None else after
        query: dict[str, str | int] = {"order": "finished", "after": after, "limit": _PAGE}
        try:
            answer = self._http.get(f"/v1/jobs/{job_id}/results", params=query, timeout=10.0)
        except httpx.TransportError:
            self.unanswered += 1
            return
        if answer.status_code != httpx.codes.OK:
            self.unanswered += 1
            return
        self.looks += 1
        self._compare(job_id, after, answer.content.splitlines())

    def _compare(self, job_id: str, after: int, lines: Sequence[bytes]) -> None:
        seen = self._seen[job_id]
        for place, line in enumerate(lines, after):
            try:
                seq = json.loads(line)["seq"]
            except (ValueError, TypeError, KeyError):
                self.changes.append(f"{job_id}: where result {place + 1} should stand is {line[:100]!r}")
                return
            if seq != place + 1:
                self.changes.append(f"{job_id}: result {seq} stands where {place + 1} should")
                return
            digest = hashlib.blake2b(line, digest_size=8).digest()
            if place == len(seen):
                seen.append(digest)
                continue
            self.reread += 1
            if seen[place] != digest:
                self.changes.append(f"{job_id}: result {seq} is not what it was")
        known = min(len(seen), after + _PAGE)
        if after + len(lines) < known:
            self.changes.append(f"{job_id}: results {after + len(lines) + 1} to {known} were there and are not")

    def _go_on(self, over: threading.Event) -> None:
        turn, due = 0, time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            # Looks that were missed while nobody answered are not made up for.
            due = max(due + 1 / LOOKS_PER_SECOND, time.monotonic())
            if jobs := self._jobs():
                # Twice each, once for the new and once for the old.
                job_id = jobs[turn // 2 % len(jobs)]
                seen = self._seen.get(job_id)
                self.look(job_id, self._chance.randrange(len(seen)) if seen and turn % 2 else None)
                turn += 1
