"""What became of what was promised: lost, doubled, unexpected, redone - by the API, the files and the tables."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.client import Client
from chaos.journal import Promise
from chaos.stack import Stack

# Each is a query that must find nothing, over all jobs that have ended.
INVARIANTS = {
    "an item with two results": "SELECT job_id, idx FROM results GROUP BY 1, 2 HAVING count(*) > 1",
    "an item without a result in a completed job": """
        SELECT i.job_id, i.idx FROM items i JOIN jobs j ON j.id = i.job_id AND j.status = 'completed'
        WHERE NOT EXISTS (SELECT FROM results r WHERE r.job_id = i.job_id AND r.idx = i.idx)""",
    "a result without an item": """
        SELECT r.job_id, r.idx FROM results r
        WHERE NOT EXISTS (SELECT FROM items i WHERE i.job_id = r.job_id AND i.idx = r.idx)""",
    "a result of an attempt that did not finish its chunk": """
        SELECT r.job_id, r.idx FROM results r JOIN chunks c ON c.id = r.chunk_id
        WHERE c.state = 'done' AND r.attempt > c.attempt""",
    "results in one chunk, at one time, of two attempts": """
        SELECT chunk_id FROM results WHERE chunk_id IS NOT NULL
        GROUP BY chunk_id, finished_at HAVING count(DISTINCT attempt) > 1""",
    "counts that are not what the rows say": """
        SELECT j.id FROM jobs j WHERE j.status IN ('completed', 'cancelled', 'expired')
            AND (j.succeeded + j.failed <> (SELECT count(*) FROM results r WHERE r.job_id = j.id)
                OR j.queued <> 0 OR j.running <> 0)""",
    "gaps in the order of results": """
        SELECT job_id FROM results GROUP BY 1 HAVING max(seq) <> count(*) OR count(DISTINCT seq) <> count(*)""",
    "a chunk open in a job that has ended": """
        SELECT c.id FROM chunks c JOIN jobs j ON j.id = c.job_id
        WHERE j.status IN ('completed', 'failed', 'cancelled', 'expired') AND c.state IN ('ready', 'leased')""",
    "a lease beyond its deadline": "SELECT id FROM chunks WHERE state = 'leased' AND lease_expires_at > hard_deadline",
    "a child of another tenant": """
        SELECT j.id FROM jobs j JOIN files f ON f.id IN (j.input_file_id, j.output_file_id, j.error_file_id)
        WHERE f.tenant_id <> j.tenant_id""",
}


@dataclass
class Evidence:
    """Counts of items; `broken` names what else is not as it should be."""

    items: int = 0
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0
    computed: int = 0
    redone: int = 0
    largest_chunk: int = 0
    reclaimed: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.unexpected or self.broken)


def gather(stack: Stack, client: Client, promises: Sequence[Promise], log: Path | None = None) -> Evidence:
    """Look at every promise; `log` is where the echo engine wrote what it computed."""
    found = Evidence()
    for promise in promises:
        _judge(client, promise, found)
    for name, query in INVARIANTS.items():
        if rows := stack.rows(query):
            found.broken.append(f"{name} ({len(rows)})")
            if name == "an item with two results":
                found.doubled = max(found.doubled, len(rows))
    found.largest_chunk = stack.count("SELECT max(items) FROM chunks WHERE parent_id IS NULL")
    found.reclaimed = stack.count("SELECT sum(attempt - 1) FROM chunks WHERE attempt > 1")
    if log is not None and log.exists():
        counts = Counter(log.read_text().splitlines())
        found.computed, found.redone = counts.total(), counts.total() - len(counts)
    return found


def _judge(client: Client, promise: Promise, found: Evidence) -> None:
    # Not by splitlines, which splits at more than line ends.
    inputs, expected = (Path(path).read_text().split("\n")[:-1] for path in (promise.inputs, promise.expected))
    job = client.job(promise.job_id)
    found.items += len(inputs)
    if job["status"] != promise.ends:
        found.broken.append(f"{promise.job_id} is {job['status']}: {job['counts']}")
    audit = client.asked("GET", f"/v1/jobs/{promise.job_id}/audit").json()
    found.broken += [f"audit: {check['name']}: {check['found']}" for check in audit["checks"] if not check["ok"]]
    answered = Counter[int]()
    for line in client.asked("GET", f"/v1/jobs/{promise.job_id}/results").content.splitlines():
        result = json.loads(line)
        place = result["index"]
        answered[place] += 1
        is_right = result["status"] == "succeeded" and result["output"]["text"] == expected[place]
        if not is_right and expected[place] != FAILS:
            found.unexpected += 1
    found.lost += sum(answered[place] == 0 for place in range(len(inputs)))
    found.doubled += sum(count - 1 for count in answered.values() if count > 1)
    # Of inputs that came in the request itself, the file is JSON lines, which were looked at above.
    if job["output_file_id"] and job["input_file_id"]:
        written = client.asked("GET", f"/v1/files/{job['output_file_id']}/content").content
        if written != "".join(f"{'' if line == FAILS else line}\n" for line in expected).encode():
            found.broken.append(f"the output file of {promise.job_id} is not byte for byte what it should be")


# An expected output that says: this item is to fail.
FAILS = "\N{SYMBOL FOR NULL}fails"
