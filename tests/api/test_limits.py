"""Counting requests: together in a real broker, and each process for itself while that is away."""

import logging
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api.limits import QUIET_SECONDS, RequestRates
from cli.stack.valkey import Valkey

# The beginning of a second, so that what came before it counts whole.
NOW = 1_800_000_000.0


class Clock:
    """A time that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


def allowed(rates: RequestRates, tenant: str, per_second: int, times: int) -> int:
    return sum(rates.take(tenant, per_second).is_allowed for _ in range(times))


def test_processes_count_together_and_tenants_apart(broker: str, clock: Clock) -> None:
    with closing(RequestRates(broker, clock, clock)) as one, closing(RequestRates(broker, clock, clock)) as other:
        assert allowed(one, "a", 5, 3) == 3
        assert allowed(other, "a", 5, 4) == 2
        assert allowed(other, "b", 5, 9) == 5


def test_what_is_left_is_told(broker: str, clock: Clock) -> None:
    with closing(RequestRates(broker, clock, clock)) as rates:
        assert [rates.take("c", 2).remaining for _ in range(3)] == [1, 0, 0]


def test_the_window_slides_and_refusals_do_not_count(broker: str, clock: Clock) -> None:
    with closing(RequestRates(broker, clock, clock)) as rates:
        assert allowed(rates, "d", 4, 50) == 4
        clock.now += 1
        # All four came less than a second ago, by what two counts can tell.
        assert allowed(rates, "d", 4, 50) == 0
        clock.now += 0.5
        assert allowed(rates, "d", 4, 50) == 2
        clock.now += 1.5
        assert allowed(rates, "d", 4, 50) == 4


def test_without_a_broker_a_process_counts_for_itself_and_asks_again_later(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Valkey(tmp_path)
    with (
        closing(RequestRates(server.url, clock, clock)) as rates,
        closing(RequestRates(server.url, clock, clock)) as other,
    ):
        assert allowed(rates, "a", 5, 9) == 5
        assert allowed(other, "a", 5, 9) == 5
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2

        with server:
            clock.now += 2
            # Left alone for a while: the broker knows nothing of these.
            assert allowed(rates, "a", 5, 9) == 5
            clock.now += QUIET_SECONDS
            assert allowed(rates, "a", 5, 3) + allowed(other, "a", 5, 9) == 5


def test_a_broker_that_says_nothing_costs_one_request_its_timeout_and_not_every_one(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with closing(RequestRates(url, clock, clock)) as rates:
            assert allowed(rates, "a", 5, 100) == 5
            assert len(caplog.records) == 1
            clock.now += QUIET_SECONDS
            rates.take("a", 5)
            assert len(caplog.records) == 2
