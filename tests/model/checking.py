"""What is true after every step, of all that is committed."""

from typing import Any

from hypothesis.stateful import invariant
from sqlalchemy import text

from db import chunks, files
from db.states import NEXT_JOB, JobStatus, is_final
from tests.model import shapes
from tests.model.acting import Acting
from tests.model.expectations import ExpectedJob, require


class Checking(Acting):
    """Compares what is there with what was there before, and with what has been promised."""

    @invariant()
    def holds(self) -> None:
        seen = self.world.look()
        require(not seen.broken, f"does not hold: {seen.broken}")
        self._check_jobs(seen.jobs)
        self._check_results(seen.results)
        self._check_leases(seen.chunks)
        self.rows = seen.jobs

    def _check_jobs(self, rows: dict[str, Any]) -> None:
        require(rows.keys() == self.jobs.keys(), f"jobs lost or invented: {rows.keys() ^ self.jobs.keys()}")
        for id, row in rows.items():
            before, status = self.rows.get(id), JobStatus(row.status)
            was = self.jobs[id].begins_as if before is None else JobStatus(before.status)
            require(status is was or status in _reachable(was), f"{id} was {was} and is {status}")
            if before is not None and is_final(was):
                require(row == before, f"{id} had ended as {before} and is now {row}")
            elif is_final(status):
                self.jobs[id].check_end(row)
                self._check_files(row)

    def _check_results(self, results: dict[tuple[str, int], Any]) -> None:
        for key, seen in self.results.items():
            if key[0] in self.jobs:
                require(results.get(key) == seen, f"the outcome of {key} was {seen} and is {results.get(key)}")
        fresh: dict[str, list[int]] = {}
        for key, row in results.items():
            if key not in self.results:
                self._check_result(self.jobs[key[0]], row)
                fresh.setdefault(key[0], []).append(row.seq)
        for job_id, seqs in fresh.items():
            last = max((row.seq for (job, _), row in self.results.items() if job == job_id), default=0)
            require(min(seqs) > last, f"results of {job_id} were numbered {seqs} after {last} had been seen")
        self.results = results

    def _check_result(self, job: ExpectedJob, row: Any) -> None:
        if row.chunk_id is None:
            return require(row.outcome == "succeeded" or job.bad, f"an item of {job.id} failed unread")
        if row.error_code == "worker_crashed":
            require(job.deaths.get(row.idx, 0) >= chunks.MAX_CRASHES, f"item {row.idx} of {job.id} killed nobody")
        else:
            require(
                job.recorded.get(row.idx) == (row.outcome, row.said),
                f"item {row.idx} of {job.id} is {row.outcome} {row.said}; recorded was {job.recorded.get(row.idx)}",
            )

    def _check_leases(self, seen: dict[int, Any]) -> None:
        """See which leases the reconciler took. It may take only those that had run out."""
        self.chunks = seen
        for lease in self.live():
            chunk = self.chunks.get(lease.claim.chunk_id)
            if chunk is not None and (chunk.state, chunk.attempt) == ("leased", lease.claim.attempt):
                require(
                    chunk.lease_owner == lease.worker, f"{lease.key} went from {lease.worker} to {chunk.lease_owner}"
                )
                if chunk.has_lapsed and not lease.has_lapsed:
                    deaths = self.jobs[lease.claim.job_id].deaths
                    deaths.update({item.idx: deaths.get(item.idx, 0) + 1 for item in lease.items})
                lease.has_lapsed = chunk.has_lapsed
            else:
                require(lease.has_lapsed, f"a lease that had not run out was taken: {lease.key} of {lease.worker}")
                lease.is_live = False

    def _check_files(self, row: Any) -> None:
        """Every item stands in the files exactly once, in order, as it was recorded."""
        if row.dry_run or row.interactive or not row.total:
            return
        with self.world.sessions() as session:
            want = list(session.execute(_OUTCOMES, {"job": row.id}))
        for file_id, succeeded in ((row.output_file_id, True), (row.error_file_id, False)):
            ids = [item for item in want if (item.outcome == "succeeded") is succeeded]
            is_text = succeeded and row.kind == "txt"
            if file_id is None:
                require(not ids, f"{row.id} has no file for {len(ids)} items")
                continue
            with self.world.store.open(files.store_key(file_id)) as file:
                lines = file.read().decode().splitlines()
            if is_text:
                # A job of some of a file's lines has empty ones for the others.
                said = [item.said or "" for item in want]
                is_part = self.jobs[row.id].lines is None
                require(
                    lines == said or (is_part and [*filter(None, lines)] == [*filter(None, said)]),
                    f"{row.id} wrote {lines} for {want}",
                )
            else:
                require(
                    shapes.custom_ids(lines) == [item.custom_id for item in ids], f"{row.id} wrote {lines} for {ids}"
                )


def _reachable(status: JobStatus) -> set[JobStatus]:
    found: set[JobStatus] = set()
    todo = [status]
    while todo:
        fresh = NEXT_JOB[todo.pop()] - found
        found |= fresh
        todo += fresh
    return found


_OUTCOMES = text("""
    SELECT item.custom_id, r.outcome, r.output ->> 'text' AS said
    FROM items item LEFT JOIN results r ON r.job_id = item.job_id AND r.idx = item.idx
    WHERE item.job_id = :job ORDER BY item.idx
""")
