"""What a worker process has at this moment, for its metrics: asked when they are, so that it is never old."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from db import figures
from db.session import Sessions
from workers.activity import device_memory_bytes
from workers.device import DeviceClock

logger = logging.getLogger(__name__)


class Pipeline(Protocol):
    """What is asked of a runner."""

    @property
    def device(self) -> DeviceClock: ...

    def leases_held(self) -> int: ...


class Shelf(Protocol):
    """What is asked of the shelf."""

    def loaded(self) -> list[str]: ...

    def unavailable(self) -> Mapping[str, str]: ...


class ProcessFigures(Collector):
    """Of any worker process."""

    def __init__(self, device: Callable[[], str], version: str) -> None:
        self._device, self._version = device, version

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("bushel_worker_info", "Always 1; its labels tell", labels=["device", "version"])
        info.add_metric([self._device(), self._version], 1)
        yield info


class DeviceFigures(Collector):
    """Of a process that runs models."""

    def __init__(self, pipeline: Pipeline, shelf: Shelf) -> None:
        self._pipeline, self._shelf = pipeline, shelf

    def collect(self) -> Iterator[Metric]:
        busy, idle = self._pipeline.device.seconds()
        seconds = CounterMetricFamily("bushel_device_seconds", "Time of the device, busy or idle", labels=["state"])
        seconds.add_metric(["busy"], busy)
        seconds.add_metric(["idle"], idle)
        yield seconds
        yield GaugeMetricFamily("bushel_leases_held", "Chunks the process holds", self._pipeline.leases_held())
        memory = GaugeMetricFamily("bushel_device_memory_bytes", "What torch holds of a GPU's memory")
        if (held := device_memory_bytes()) is not None:
            memory.add_metric([], held)
        yield memory
        loaded = GaugeMetricFamily("bushel_model_loaded", "1: the model is in memory, 0: it fails to", labels=["model"])
        for name in self._shelf.unavailable():
            loaded.add_metric([name], 0)
        for name in self._shelf.loaded():
            loaded.add_metric([name], 1)
        yield loaded


class DeliveryFigures(Collector):
    """Of a process that delivers webhooks. The same numbers from each: they are the ledger's."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("bushel_webhook_deliveries_waiting", "Deliveries that wait for a try, in all")
        oldest = GaugeMetricFamily(
            "bushel_webhook_overdue_seconds", "How long the delivery that is due longest has been so; 0: none is"
        )
        try:
            with self._sessions() as session:
                found = figures.deliveries(session)
        except SQLAlchemyError as exc:
            # A scrape in an outage: there are no such numbers then, and the rest is told.
            logger.warning("cannot count deliveries: %s", type(exc).__name__, extra={"action": "figures_failed"})
        else:
            waiting.add_metric([], found.waiting)
            oldest.add_metric([], found.overdue_seconds)
        yield waiting
        yield oldest
