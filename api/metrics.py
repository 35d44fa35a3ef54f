"""What Prometheus scrapes of the API: its requests, and what the ledger knows of the service as a whole.

Labels are route patterns, fixed words and names of models: nothing of a tenant, a job or a text. The numbers of all
processes that gunicorn runs come together in files that they share, so that it does not matter which one is asked.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator

from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api import shared_counts
from api.errors import documented
from api.services import Services
from db import estimates, figures
from db.session import Sessions
from telemetry.serving import registry_of

logger = logging.getLogger(__name__)

tag = Tag(name="health")
bp = APIBlueprint("metrics", __name__, abp_tags=[tag])

_EXTENSION = "bushel.figures"
# However many ask, the ledger is asked no more often.
_FRESH_SECONDS = 5.0
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter("bushel_http_requests", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "bushel_http_request_seconds", "Until the answer begins to be sent", ["method", "route"], buckets=_BUCKETS
)
IN_PROGRESS = Gauge("bushel_http_requests_in_progress", "Requests that threads are at", multiprocess_mode="livesum")
SUBMITTED = Counter("bushel_jobs_submitted", "Jobs taken in, single requests included", ["task", "dialect"])


class ServiceFigures(Collector):
    """Backlog, workers and the track record of estimates, as the ledger has them; remembered for a few seconds."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()
        self._known: list[Metric] = []
        self._known_at = float("-inf")

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._known_at > _FRESH_SECONDS:
                self._known, self._known_at = self._asked(), time.monotonic()
            yield from self._known

    def _asked(self) -> list[Metric]:
        reachable = GaugeMetricFamily("bushel_database_reachable", "Whether the ledger answered this scrape")
        try:
            with self._sessions() as session:
                found = list(_figures(session))
        except SQLAlchemyError as exc:
            # A scrape in an outage tells just that, and the requests of this process.
            logger.warning("no figures: %s", type(exc).__name__, extra={"action": "figures_failed"})
            found = []
        reachable.add_metric([], 1 if found else 0)
        return [reachable, *found]


def _figures(session: Session) -> Iterator[Metric]:
    yield _family("bushel_jobs_open", "Jobs that have not ended", "status", figures.open_jobs(session).items())
    waiting = [(backlog.model or "", backlog) for backlog in figures.backlogs(session)]
    jobs = [(model, each.jobs) for model, each in waiting]
    yield _family("bushel_queue_jobs", "Jobs with items that wait", "model", jobs)
    items = [(model, each.items) for model, each in waiting]
    yield _family("bushel_queue_items", "Items that wait", "model", items)
    tokens = [(model, each.tokens) for model, each in waiting]
    yield _family("bushel_queue_tokens", "Input tokens that wait, as estimated", "model", tokens)
    ages = [(model, each.oldest_seconds) for model, each in waiting]
    yield _family("bushel_queue_oldest_seconds", "Age of the oldest job with items that wait", "model", ages)
    yield _family("bushel_queue_chunks", "Chunks that could be taken", "model", figures.ready_chunks(session).items())
    yield GaugeMetricFamily("bushel_workers_alive", "Processes with a heartbeat", figures.live_workers(session))
    yield _family("bushel_workers_serving", "Those that serve a model", "model", figures.serving(session).items())
    yield _family("bushel_model_tokens_per_second", "Speed of a worker", "model", figures.speeds(session).items())
    yield from _track_record(session)


def _track_record(session: Session) -> Iterator[Metric]:
    """Of each model over the last 30 days; jobs of several models are under the empty one."""
    record = [(each.model or "", each) for each in estimates.track_record(session) if not each.is_all]
    yield _family(
        "bushel_estimates",
        "Estimates whose job has ended",
        "model",
        [(model, each.estimates) for model, each in record],
    )
    inside = [(model, each.inside) for model, each in record]
    yield _family("bushel_estimates_inside_ratio", "Share of them that ended inside their band", "model", inside)
    errors = [(model, each.median_error) for model, each in record]
    yield _family("bushel_estimates_median_error_ratio", "Median error, as a share of the time taken", "model", errors)


def _family(name: str, about: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


def install(extensions: dict[str, object], service: Services) -> None:
    extensions[_EXTENSION] = registry_of(ServiceFigures(service.sessions))


@bp.get(
    "/metrics", operation_id="metrics", responses={200: {"content": {"text/plain": {}}}, **documented(401, 403, 503)}
)
def show() -> Response:
    """Metrics of the API and of the service, for Prometheus

    Workers have metrics of their own, where `BUSHEL_METRICS_PORT` says. With `BUSHEL_METRICS_PUBLIC` it needs no key.
    """
    content = generate_latest(_requests()) + generate_latest(current_app.extensions[_EXTENSION])
    return Response(content, content_type=CONTENT_TYPE)


def _requests() -> CollectorRegistry:
    if shared_counts.VARIABLE not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
