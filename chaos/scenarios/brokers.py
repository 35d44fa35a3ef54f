"""The broker forgets, falls silent, fills up: rings are lost, and nothing else."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread

from chaos.arena import Arena, arena, lines
from chaos.faults import broker, processes
from chaos.proxy import Proxy
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.schedule import strikes
from chaos.stack import until
from db.doorbell import WORK
from db.states import JobStatus, is_final

FLUSH_SECONDS, SILENT_SECONDS = 10.0, 15.0
_REST_SECONDS = 0.3


def flushed(terms: Terms) -> Row:
    """FLUSHALL, and kill -9 with an empty start, in the middle of a job."""
    flushes, restarts = terms.size(20, 3), terms.size(20, 1)
    # A broker that died often is started after a pause of 5 s: all that is to fall into the time of the job.
    total = terms.size(100_000, 3_000)
    with arena(f"{flushes} flushes, {restarts} empty starts", terms.folder, seconds_per_item=0.004) as here:
        promise = here.client.submit("echo", lines(total))
        plan = strikes(terms.seed, ["flush"] * flushes + ["restart empty"] * restarts, flushes + restarts)
        hurts = {
            "flush": lambda: broker.flush(here.stack),
            "restart empty": lambda: broker.restart_empty(here.stack),
        }
        with _submitting_beside(here, promise.job_id) as seconds:
            here.under_fire(total, plan, hurts, 900)
        here.judge(allowed=0)
        _check_answers(here, seconds)
        here.row.notes.append(f"{len(seconds)} submissions meanwhile")
        worst = max(here.recoveries.seconds.get("flush", [0.0]))
        here.require(worst <= FLUSH_SECONDS, f"a flush added {worst:.1f} s, {FLUSH_SECONDS:.0f} s is the bar")
        return here.row


def full(terms: Terms) -> Row:
    """maxmemory below what is in use: every ring is refused."""
    total = terms.size(20_000, 2_000)
    with arena("broker out of memory", terms.folder, seconds_per_item=0.003) as here:
        here.strike("maxmemory", lambda: broker.limit_memory(here.stack, "1"))
        slowest = _submits(here, 5)
        here.client.submit("echo", lines(total))
        here.until_done(300)
        here.judge(allowed=0)
        _check_answers(here, slowest)
        return here.row


def silent(terms: Terms) -> Row:
    """Behind a proxy: slow, deaf, cutting answers short, then shut for a minute."""
    seconds = terms.size(60, 12)
    with (
        arena("broker slow, deaf, cut, away", terms.folder, seconds_per_item=0.003) as here,
        Proxy(here.stack.where.valkey.socket) as proxy,
    ):
        slowest: list[float] = []
        # Whoever comes back, comes through the proxy.
        broker.disconnect_all(here.stack)
        for fault, change in _weathers(proxy).items():
            here.client.submit("echo", lines(terms.size(8_000, 1_000), fault))
            here.strike(f"broker {fault}", change)
            slowest += _submits(here, 3)
            over_at = time.monotonic() + (seconds if fault == "away" else seconds / 4)
            here.until_done(300)
            while time.monotonic() < over_at:
                here.recoveries.look()
                time.sleep(0.2)
            proxy.weather.delay, proxy.weather.is_deaf, proxy.weather.cut_after = 0.0, False, None
            proxy.weather.is_shut = False
            proxy.cut()
        here.judge(allowed=0)
        _check_answers(here, slowest)
        worst = max(here.recoveries.all_seconds)
        here.require(worst <= SILENT_SECONDS, f"no result for {worst:.1f} s, {SILENT_SECONDS:.0f} s is the bar")
        return here.row


def _weathers(proxy: Proxy) -> dict[str, Callable[[], tuple[()]]]:
    def deaf() -> tuple[()]:
        proxy.weather.is_deaf = True
        return ()

    def slow() -> tuple[()]:
        proxy.weather.delay = 1.0
        return ()

    def cut() -> tuple[()]:
        proxy.weather.cut_after = 100
        return ()

    def away() -> tuple[()]:
        proxy.weather.is_shut = True
        proxy.cut()
        return ()

    return {"slow": slow, "deaf": deaf, "cut": cut, "away": away}


def forged(terms: Terms) -> Row:
    """Messages doubled, late, out of order, of unknown ids, while a job runs."""
    total = terms.size(20_000, 2_000)
    with arena("rings doubled, late, unknown", terms.folder, seconds_per_item=0.003) as here:
        promise = here.client.submit("echo", lines(total))
        over = Event()
        messages = broker.rings(terms.seed, [promise.job_id], ["echo"], terms.size(3_000, 300))
        thread = Thread(target=_ring_on, args=(here, messages, over))
        thread.start()
        here.until_done(300)
        over.set()
        thread.join()
        here.faults = len(messages)
        # Late: the job has ended.
        broker.ring(here.stack, messages[:100])
        here.judge(allowed=0)
        return here.row


def taken(terms: Terms) -> Row:
    """Rings that frozen workers have taken, and that die with them: no queue and nobody has them any more."""
    rounds, victims = terms.size(10, 2), terms.size(5, 2)
    with arena(f"{rounds * victims} rings taken and lost", terms.folder, workers=0, seconds_per_item=0.003) as here:
        # It never hears a ring: what it does, it has found in the ledger.
        nowhere = f"redis+socket://{terms.folder}/nobody.sock"
        here.stack.await_worker(here.stack.add_worker("deaf", BUSHEL_BROKER_URL=nowhere))
        lost = 0
        for number in range(rounds):
            lost += _take_and_die(here, [f"taker-{number}-{place}" for place in range(victims)])
            here.strike("a ring lost with its worker", partial(_submitted, here, f"round {number}"))
            here.until_done(120)
        here.judge(allowed=0)
        here.row.notes.append(f"{lost} of {rounds * victims} rings were in the hands of workers that died")
        here.require(lost >= rounds, f"only {lost} rings were taken by the frozen")
        worst = max(here.recoveries.all_seconds)
        here.require(worst <= SILENT_SECONDS, f"no result for {worst:.1f} s, {SILENT_SECONDS:.0f} s is the bar")
        return here.row


def _submitted(here: Arena, mark: str) -> tuple[()]:
    here.client.submit("echo", lines(50, mark))
    return ()


def _take_and_die(here: Arena, names: list[str]) -> int:
    """Workers listen, freeze, are rung for and killed; how many rings were lost that way."""
    pids = [here.stack.add_worker(name) for name in names]
    for pid in pids:
        here.stack.await_worker(pid)
    # They, and the one for files.
    until(lambda: broker.listeners(here.stack) > len(pids), 120, "workers that listen")
    for pid in pids:
        processes.freeze(pid)
    # At once: a listener asks anew every second, and one that is frozen does not.
    broker.ring(here.stack, [(WORK, "echo")] * len(pids))
    lost = len(pids) - broker.waiting(here.stack, "echo")
    for name in names:
        processes.kill(here.stack, name)
        here.stack.reap(name)
    return lost


def _ring_on(here: Arena, messages: list[tuple[str, ...]], over: Event) -> None:
    for start in range(0, len(messages), 50):
        broker.ring(here.stack, messages[start : start + 50])
        if over.wait(0.1):
            continue


@contextmanager
def _submitting_beside(here: Arena, job_id: str) -> Iterator[list[float]]:
    """While the block lasts and the job runs, somebody reads it and submits a small one; seconds as of `_submits`."""
    over, seconds = Event(), list[float]()

    def go_on() -> None:
        while not over.wait(_REST_SECONDS) and not is_final(JobStatus(here.client.job(job_id)["status"])):
            seconds.extend(_submits(here, 1))

    with ThreadPoolExecutor(1) as beside:
        asking = beside.submit(go_on)
        try:
            yield seconds
        finally:
            over.set()
    asking.result()


def _submits(here: Arena, count: int) -> list[float]:
    """Seconds that each submission of a small job took."""
    seconds = []
    for number in range(count):
        text = f"small {number} of {time.time_ns()}"
        began = time.monotonic()
        here.client.asked("POST", "/v1/jobs", json={"task": "translation", "model": "echo", "inputs": [text]})
        seconds.append(time.monotonic() - began)
    return seconds


def _check_answers(here: Arena, seconds: list[float]) -> None:
    worst = max(seconds)
    here.row.notes.append(f"slowest answer to a submission {worst:.2f} s")
    # Ringing is done by a thread of its own, so it is the machine that is measured here; a hanging broker takes 10 s.
    here.require(worst < 5.0, f"a submission took {worst:.1f} s: it waited for the broker")
    here.require(not any(name.startswith("5") for name in here.client.refusals), "the API answered with 5xx")


SCENARIOS = (
    Scenario("flushes", flushed),
    Scenario("broker-full", full),
    Scenario("broker-silent", silent),
    Scenario("rings", forged),
    Scenario("rings-taken", taken),
)
