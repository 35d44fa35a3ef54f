"""Hundreds of hostile requests and files against a real API and worker; `make hostile` sends thousands."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.valkey import Valkey
from db.keys import issue_key
from db.session import Sessions
from tests.hostile.campaign import Campaign
from tests.stack.conftest import built

REQUESTS, SEED = 640, 20261123


@pytest.fixture
def campaign(tmp_path: Path, database_url: str, sessions: Sessions, valkey: Valkey) -> Iterator[Campaign]:
    with sessions.begin() as session:
        victim = issue_key(session, "victim", "tests")
    (tmp_path / "data").mkdir()
    with built(tmp_path / "data", database_url, valkey) as stack:
        campaign = Campaign(stack, victim, SEED)
        campaign.start()
        yield campaign
        campaign.close()


@pytest.mark.timeout(600)
def test_hostile_requests_and_files_do_no_harm(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    campaign.run(REQUESTS)

    found = campaign.verdict()

    with capsys.disabled():
        lines = campaign.report.table().splitlines()[-1:] + [memory.line() for memory in campaign.memory[-1:]]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert found == []
    assert campaign.report.sent >= REQUESTS
