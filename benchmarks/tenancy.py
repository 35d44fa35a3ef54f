"""What the wall between tenants costs a request, and whether the time of a key check tells anything about keys.

Method. The embedded PostgreSQL with its default settings, and the API in this process, asked without sockets. A job of
10,000 items with results is written by SQL, beside 1,000 small jobs of another tenant. Each request is made with the
sessions that the API has (confined to the tenant by row-level security) and with sessions of the tables' owner, in
turn, and the medians are shown: so what else the machine does is the same for both.

The key check is asked of the database alone, with a right key, one of a wrong secret and one of an id that is none, in
an order drawn anew each time: their medians, how far apart those of wrong secret and wrong id are, in per cent, and
Welch's t of the two, without the slowest twentieth of all, which is what else the machine did.

    python -m benchmarks.tenancy [--repeat 300] [--keys 10000]
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import text

import migrations
from api.app import create_app
from api.config import APISettings
from api.services import EXTENSION
from benchmarks.tables import markdown
from cli.stack.postgres import Postgres
from db import keys
from db.doorbell import RecordingDoorbell
from db.session import Sessions, connect, sessions

ITEMS = 10_000
_JOB = "job_0mgcxk2l9h4t8v2c6y0q1w5r3"
_WRONG_ID = "bsh_" + "0" * 12 + "_"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=300)
    parser.add_argument("--keys", type=int, default=10_000, help="checks of each kind of key")
    asked = parser.parse_args(words)
    repeat = asked.repeat
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder) / "postgres") as server:
        migrations.upgrade(server.url)
        engine = connect(server.url, application="benchmark")
        owner = sessions(engine)
        key = _filled(owner)
        _measure_requests(APISettings(database_url=server.url, broker_url="redis://127.0.0.1:1/0"), key, repeat)
        _measure_keys(owner, key, asked.keys)
        engine.dispose()
    return 0


def _filled(owner: Sessions) -> str:
    with owner.begin() as session:
        key = keys.issue_key(session, "default")
        values = {"job": _JOB, "own": keys.tenant(session, "default"), "other": keys.tenant(session, "other")}
        columns = "id, tenant_id, task, model, params, format, long_input, on_error, status, total, succeeded"
        rest = "'translation', 'echo', '{}', '{\"type\": \"txt\"}', 'error', 'fail', 'completed'"
        for statement in (
            f"INSERT INTO jobs ({columns}) VALUES (:job, :own, {rest}, {ITEMS}, {ITEMS})",
            f"INSERT INTO jobs ({columns}) SELECT 'job_' || n, :other, {rest}, 0, 0 FROM generate_series(1, 1000) n",
            "INSERT INTO items (job_id, idx, custom_id, line, input, input_tokens) SELECT :job, n, 'line-' || n, n,"
            f" jsonb_build_object('text', repeat('word ', 12)), 15 FROM generate_series(0, {ITEMS - 1}) n",
            "INSERT INTO results (job_id, idx, seq, outcome, output) SELECT :job, n, n + 1, 'succeeded',"
            ' \'{"text": "an output of usual length", "finish_reason": "stop"}\''
            f" FROM generate_series(0, {ITEMS - 1}) n",
        ):
            session.execute(text(statement), values)
    with owner.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return key


def _measure_requests(settings: APISettings, key: str, repeat: int) -> None:
    app = create_app(settings, RecordingDoorbell())
    walled = app.extensions[EXTENSION]
    open_ = replace(walled, sessions=walled.keyring)
    client, headers = app.test_client(), {"Authorization": f"Bearer {key}"}

    def ask(path: str) -> Callable[[], None]:
        def send() -> None:
            with client.get(path, headers=headers) as answer:
                assert answer.status_code == 200, answer.text
                assert answer.data

        return send

    rows = []
    for name, path, times in (
        ("GET a job", f"/v1/jobs/{_JOB}", repeat),
        ("a page of 100 results", f"/v1/jobs/{_JOB}/results?limit=100", repeat),
        ("a page of 1,000 results", f"/v1/jobs/{_JOB}/results?limit=1000", repeat // 3),
        (f"all {ITEMS:,} results", f"/v1/jobs/{_JOB}/results", repeat // 10),
        ("the list of jobs", "/v1/jobs", repeat),
    ):
        taken: dict[str, list[float]] = {"walled": [], "open": []}
        for _ in range(max(times, 5)):
            for word, service in (("walled", walled), ("open", open_)):
                app.extensions[EXTENSION] = service
                taken[word].append(_seconds(ask(path)))
        medians = {word: statistics.median(found) * 1000 for word, found in taken.items()}
        ratio = medians["walled"] / medians["open"]
        rows.append([name, f"{medians['open']:.2f}", f"{medians['walled']:.2f}", f"{ratio:.2f}"])
    print(markdown(["request", "without, ms", "with the wall, ms", "ratio"], rows))
    app.close()


def _measure_keys(owner: Sessions, key: str, repeat: int) -> None:
    kinds = {
        "right": key,
        "wrong secret": keys._with_checksum(key[:17] + "0" * 43),
        "wrong id": keys._with_checksum(_WRONG_ID + key[17:-6]),
    }
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    order, chance = list(kinds), random.Random(35)
    with owner() as session:
        for _ in range(repeat):
            # What comes after what must not be a difference between them.
            chance.shuffle(order)
            for kind in order:
                taken[kind].append(_seconds(partial(keys.verify, session, kinds[kind], datetime.now(UTC))))
        session.rollback()
    medians = {kind: statistics.median(found) * 1e6 for kind, found in taken.items()}
    print()
    print(markdown(["key", "median, µs"], [[kind, f"{median:.0f}"] for kind, median in medians.items()]))
    wrong = taken["wrong secret"], taken["wrong id"]
    apart = abs(medians["wrong secret"] - medians["wrong id"]) / medians["wrong id"]
    print(f"\nwrong secret and wrong id are {apart:.1%} apart, Welch's t {_welch(*map(_usual, wrong)):.1f}")


def _usual(seconds: list[float]) -> list[float]:
    return sorted(seconds)[: len(seconds) * 19 // 20]


def _welch(one: list[float], other: list[float]) -> float:
    """How many standard errors the means are apart.

    >>> _welch([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    0.0
    """
    error = math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))
    return abs(statistics.fmean(one) - statistics.fmean(other)) / error


def _seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
