"""`bushel cache`, and jobs that use it, from the command line."""

from pathlib import Path

import pytest

from cli.main import run
from tests.cli.fake_bushel import FakeBushel
from tests.conftest import LiveAPI
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def reachable(api: LiveAPI, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands find the server."""
    monkeypatch.setenv("BUSHEL_URL", api.url)
    monkeypatch.setenv("BUSHEL_API_KEY", key)
    monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))


@pytest.mark.usefixtures("reachable")
def test_the_cache_is_shown_and_emptied(ledger: Ledger, capfd: Captured) -> None:
    job_id = ledger.started(2)
    ledger.run(
        "INSERT INTO cached_results (tenant_id, key, job_id, idx) "
        "VALUES (:tenant, 'a', :job, 0), (:tenant, 'b', :job, 1)",
        tenant=ledger.tenant,
        job=job_id,
    )

    assert run(["cache", "show"]) == 0 and capfd.readouterr().out == "2 results\n"
    assert run(["cache", "clear"]) == 0 and "2 results" in capfd.readouterr().err
    assert run(["cache", "show", "--json"]) == 0 and '"entries": 0' in capfd.readouterr().out


@pytest.mark.usefixtures("reachable")
def test_submit_and_clone_ask_for_it(ledger: Ledger, capfd: Captured, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")

    assert run(["submit", str(tmp_path / "in.txt"), "--cache"]) == 0
    first = capfd.readouterr().out.strip()
    assert run(["clone", first]) == 0
    second = capfd.readouterr().out.strip()
    assert run(["clone", first, "--no-cache"]) == 0
    third = capfd.readouterr().out.strip()

    assert [ledger.job(job_id).cache for job_id in (first, second, third)] == [True, True, False]


def test_a_summary_says_what_was_not_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Captured) -> None:
    monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))
    usage = {"input_tokens": 0, "output_tokens": 0, "same_items": 1200, "cached_items": 3}
    with FakeBushel() as fake:
        monkeypatch.setenv("BUSHEL_URL", fake.url)
        monkeypatch.setenv("BUSHEL_API_KEY", fake.state.api_key)
        job_id = fake.add_job(["a"], usage={**usage, "saved_input_tokens": 4000, "saved_output_tokens": 500})

        assert run(["watch", job_id]) == 0

    assert "1,200 equal to others of the job and 3 from the cache: 4,500 tokens not computed" in capfd.readouterr().err
