"""The watch that the fault suite sets over results: it sees what changes, and nothing where nothing does."""

import httpx
import pytest

from chaos.watch import Watch
from tests.ledger import Ledger
from tests.waiting import eventually


@pytest.fixture
def job_id(ledger: Ledger) -> str:
    """With 600 results, more than a page, in the order of three chunks."""
    job_id = ledger.started(900)
    ledger.recut(job_id, 300)
    for _ in range(2):
        claim = ledger.claim(job_id)
        assert claim
        ledger.record(claim)
    return job_id


def test_results_read_again_and_again_while_more_come_are_found_unchanged(
    client: httpx.Client, ledger: Ledger, job_id: str
) -> None:
    watch = Watch(client, lambda: [job_id])
    with watch.watching():
        eventually(lambda: watch.results == 600 and watch.reread > 100, 20)
        claim = ledger.claim(job_id)
        assert claim
        ledger.record(claim)
        eventually(lambda: watch.results == 900, 20)

    assert (watch.changes, watch.unanswered) == ([], 0)
    assert watch.looks >= 4


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ('UPDATE results SET output = \'{"text": "another"}\' WHERE seq = 1', "result 1 is not what it was"),
        ("DELETE FROM results WHERE seq = 1", "result 2 stands where 1 should"),
        ("DELETE FROM results WHERE seq > 100", "results 101 to 500 were there and are not"),
    ],
)
def test_what_changes_is_seen(client: httpx.Client, ledger: Ledger, job_id: str, damage: str, said: str) -> None:
    watch = Watch(client, lambda: [job_id])
    watch.look(job_id)
    assert (watch.results, watch.changes) == (500, [])
    watch.look(job_id, after=0)
    assert (watch.reread, watch.changes) == (500, [])

    ledger.run(damage)
    watch.look(job_id, after=0)

    assert said in watch.changes[0]


def test_a_look_that_nobody_answers_is_no_finding(client: httpx.Client) -> None:
    watch = Watch(client, lambda: ["job_0mgcxk2l9h4t8v2c6y0q1w5r3"])

    watch.look("job_0mgcxk2l9h4t8v2c6y0q1w5r3")

    assert (watch.looks, watch.unanswered, watch.changes) == (0, 1, [])
