"""PostgreSQL restarted, cut off, locked, closed to writing, away."""

import collections
import threading
import time
import uuid

import httpx

from chaos.arena import Arena, arena, lines
from chaos.faults import database
from chaos.proxy import Proxy
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.schedule import strikes
from chaos.stack import until
from db.chunks import LEASE_SECONDS

RECOVERY_SECONDS = 30.0


def restarted(terms: Terms) -> Row:
    """`-m immediate` and kill -9 of the postmaster in the middle of a job."""
    count, total = terms.size(10, 2), terms.size(40_000, 8_000)
    with arena(f"{count} restarts of PostgreSQL", terms.folder, seconds_per_item=0.005) as here:
        here.client.submit("echo", lines(total))
        plan = strikes(terms.seed, ["restart -m immediate", "kill postmaster"], count)
        hurts = {
            "restart -m immediate": lambda: database.restart_immediately(here.stack),
            "kill postmaster": lambda: database.kill(here.stack),
        }
        with here.watched():
            here.under_fire(total, plan, hurts, 900)
        here.judge(allowed=0)
        _check_recoveries(here)
        here.require(here.crashes() == 0, f"{here.crashes()} crashes were charged, and no worker died")
        return here.row


def disturbed(terms: Terms) -> Row:
    """Connections cut, deadlocks, failed serializations, a locked table, a full house, nothing but reading."""
    total = terms.size(30_000, 5_000)
    pause = terms.size(15, 4)
    with arena("PostgreSQL cut, locked, full, read-only", terms.folder, seconds_per_item=0.005) as here:
        here.client.submit("echo", lines(total))
        here.until_settled(1)
        for _ in range(terms.size(10, 3)):
            here.strike("connections cut", lambda: database.terminate_backends(here.stack))
            here.until_settled(here.settled() + 1)
        here.row.notes.append(f"{database.deadlock(here.stack, pause)} deadlocks")
        _heal(here, "deadlocks")
        with database.setting(here.stack, "default_transaction_isolation", "'serializable'"):
            _pass(here, pause)
        _heal(here, "serializable")
        with database.locked(here.stack, "jobs"):
            # Longer than the lock timeout of 10 s, in the long form.
            _pass(here, pause)
        _heal(here, "locked table")
        with database.crowded(here.stack, 200) as taken:
            database.terminate_backends(here.stack)
            _pass(here, pause)
        here.row.notes.append(f"{taken} connections taken by strangers")
        _heal(here, "no connection left")
        with database.setting(here.stack, "default_transaction_read_only", "on"):
            answers = _answers(here, 10)
            _pass(here, pause)
        _heal(here, "read-only")
        here.require("500" not in answers, f"while nothing can be written the API answered {dict(answers)}")
        here.row.notes.append(f"submissions while read-only: {dict(answers)}")
        here.until_done(600)
        here.judge(allowed=None)
        _check_recoveries(here)
        return here.row


def crowd(terms: Terms) -> Row:
    """Two hundred clients and a pool of two connections."""
    clients = terms.size(200, 40)
    with arena("pool of 2, many clients", terms.folder, environment={"BUSHEL_DATABASE_POOL": "2"}) as here:
        here.client.submit("echo", lines(terms.size(20_000, 2_000)))
        answers: collections.Counter[str] = collections.Counter()
        threads = [threading.Thread(target=lambda: answers.update(_answers(here, 5))) for _ in range(clients)]
        for thread in threads:
            thread.start()
        here.strike("pool exhausted", tuple)
        for thread in threads:
            thread.join()
        here.until_done(600)
        here.judge()
        here.require(set(answers) <= {"202", "429", "503"}, f"answers: {dict(answers)}")
        here.row.notes.append(f"answers to {clients} clients: {dict(sorted(answers.items()))}")
        return here.row


def away(terms: Terms) -> Row:
    """Nobody reaches the database for longer than a lease lasts; nobody died, so nobody is charged with a crash."""
    seconds = LEASE_SECONDS + 15
    with (
        arena(f"PostgreSQL away for {seconds} s", terms.folder, seconds_per_item=0.01) as here,
        Proxy(here.stack.database_socket) as proxy,
    ):
        here.client.submit("echo", lines(terms.size(10_000, 4_000)))
        here.until_settled(500)
        with here.stack.administrator() as connection:
            proxy.weather.is_shut = True
            database.cut(connection)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(0.2)
        proxy.weather.is_shut = False
        here.strike("database away", tuple)
        here.until_done(300)
        here.judge(allowed=3 * here.stack.workers * here.stack.count("SELECT max(items) FROM chunks"))
        here.require(here.crashes() == 0, f"{here.crashes()} crashes stay charged, and no worker died")
        _check_recoveries(here)
        return here.row


def _pass(here: Arena, seconds: float) -> None:
    """Let the service live with it for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        here.keep_up()
        time.sleep(0.1)


def _heal(here: Arena, fault: str) -> None:
    """A fault that is over: before the next one, all is well again."""
    here.strike(fault, tuple)
    until(lambda: here.recoveries.look() and here.recoveries.is_clear, 120, f"recovery from {fault}")


def _answers(here: Arena, count: int) -> "collections.Counter[str]":
    """Status codes of submissions that are not tried again; where there was none, what went wrong."""
    answers: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        body = {"task": "translation", "model": "echo", "inputs": [f"line {uuid.uuid4()} from the crowd"]}
        try:
            answers[str(here.stack.http.post("/v1/jobs", json=body).status_code)] += 1
        except httpx.TransportError as exc:
            answers[repr(exc)] += 1
    return answers


def _check_recoveries(here: Arena) -> None:
    worst = max(here.recoveries.all_seconds, default=0.0)
    here.require(worst <= RECOVERY_SECONDS, f"a recovery took {worst:.1f} s, {RECOVERY_SECONDS:.0f} s is the bar")


SCENARIOS = (
    Scenario("restarts", restarted),
    Scenario("disturbances", disturbed),
    Scenario("crowd", crowd),
    Scenario("away", away),
)
