"""What a real service tells of itself while it works: metrics, logs and traces of one set of jobs."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from cli.stack.valkey import Valkey
from tests.conftest import fresh_database
from tests.following import following
from tests.stack.conftest import Stack, _free_port, built
from tests.stack.receivers import Receiver, receiving
from tests.unit.observability import documented_metrics, named_metrics
from tests.waiting import eventually

pytestmark = pytest.mark.slow

TEXT = "the bittern booms before dawn"
FILE = "bittern-ledger.jsonl"
REQUEST = "req-of-the-bittern"
Sample = tuple[str, dict[str, str], float]


@dataclass
class Watched:
    """A service, the jobs it ran, and where it told of them."""

    stack: Stack
    hook: Receiver
    collector: Receiver
    ports: dict[str, int] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def scrape(self) -> dict[str, str]:
        """The metrics of each process."""
        answers = {"api": self.stack.http.get("/metrics")}
        answers |= {name: httpx.get(f"http://127.0.0.1:{port}/metrics") for name, port in self.ports.items()}
        assert {answer.status_code for answer in answers.values()} == {200}
        return {name: answer.text for name, answer in answers.items()}

    def samples(self) -> list[Sample]:
        return [
            (sample.name, sample.labels, sample.value)
            for text in self.scrape().values()
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """Over all processes and other labels."""
        return sum(value for found, has, value in self.samples() if found == name and labels.items() <= has.items())

    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(content) for _, _, content in self.collector.posted]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The log of a process. What Celery prints before it has a log is no record."""
        return [json.loads(line) for line in self.stack.log(name).splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[Watched]:
    with (
        fresh_database(postgres) as database_url,
        receiving() as hook,
        receiving() as collector,
        built(tmp_path_factory.mktemp("watched"), database_url, valkey) as stack,
    ):
        found = Watched(stack, hook, collector, {"io": _free_port(), "models": _free_port()})
        stack.environment |= {
            "BUSHEL_LOG_FORMAT": "json",
            "BUSHEL_TRACING": "true",
            "BUSHEL_WEBHOOK_PRIVATE_ADDRESSES": "true",
            "BUSHEL_API_PROCESSES": "2",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        stack.start_api()
        stack.start_worker("io", "bushel.io", BUSHEL_METRICS_PORT=str(found.ports["io"]))
        models = "bushel.model.echo,bushel.model.echo-slow"
        stack.start_worker("models", models, BUSHEL_METRICS_PORT=str(found.ports["models"]))
        found.jobs = run_jobs(found)
        yield found


def run_jobs(watched: Watched) -> list[dict[str, Any]]:
    """One with bad lines and items that fail, one that is cancelled on its way."""
    stack = watched.stack
    made = stack.http.post("/v1/webhooks", json={"url": f"{watched.hook.url}/", "events": ["job.completed"]})
    assert made.is_success, made.text
    good = [
        json.dumps({"text": f"{TEXT} {number}" + (" [[fail]]" if number % 10 == 0 else "")}) for number in range(50)
    ]
    file_id = stack.upload(FILE, "\n".join([*good, "{", '{"no": "text"}']).encode())
    body = {"task": "translation", "model": "echo", "input_file_id": file_id, "format": "jsonl", "on_error": "skip"}
    answer = stack.http.post("/v1/jobs", json=body, headers={"x-request-id": REQUEST})
    assert answer.status_code == 202, answer.text
    mixed = stack.finished(answer.json()["id"])
    # Longer than any test is patient: what is on the device is broken off.
    endless = [f"{TEXT} {number} [[slow {0.1 if number == 0 else 3600}]]" for number in range(200)]
    slow = stack.submit(model="echo-slow", inputs=endless)
    eventually(lambda: stack.job(slow)["counts"]["running"] > 0, 60)
    stack.http.post(f"/v1/jobs/{slow}/cancel")
    cancelled = stack.finished(slow)
    eventually(lambda: watched.hook.posted, 60)
    return [mixed, cancelled]


def test_counts_after_jobs_are_the_counts_of_the_jobs(watched: Watched) -> None:
    counts = {name: sum(job["counts"][name] for job in watched.jobs) for name in watched.jobs[0]["counts"]}
    assert counts["failed"] == 7 and counts["cancelled"] > 0

    # A worker counts after its commit.
    outcomes = ("succeeded", "failed", "cancelled", "expired")
    eventually(
        lambda: (
            {each: watched.total("bushel_items_total", outcome=each) for each in outcomes}
            == {each: counts[each] for each in outcomes}
        ),
        30,
    )
    for kind in ("input", "output"):
        used = sum(job["usage"][f"{kind}_tokens"] for job in watched.jobs)
        assert watched.total("bushel_tokens_total", kind=kind) == used
    assert watched.total("bushel_jobs_submitted_total") == 2
    assert watched.total("bushel_jobs_ended_total", status="completed") == 1
    assert watched.total("bushel_jobs_ended_total", status="cancelled") == 1


def test_every_stage_of_a_chunk_and_every_step_of_a_job_is_measured(watched: Watched) -> None:
    chunks = watched.total("bushel_chunks_total")

    assert chunks > 0
    for stage in ("queue_wait", "read", "tokenize", "device_wait", "device", "detokenize", "write"):
        assert watched.total("bushel_stage_seconds_count", stage=stage) >= chunks, stage
    for step in ("ingest", "finalize"):
        assert watched.total("bushel_step_seconds_count", step=step) >= 2, step
    # An echo that was told to take 50 ms an item.
    assert watched.total("bushel_stage_seconds_sum", stage="device", model="echo-slow") > 0.05


def test_batches_tell_how_full_they_were_and_what_was_padding(watched: Watched) -> None:
    tokens, padded, room = (
        watched.total(f"bushel_batch_{what}_total") for what in ("tokens", "padded_tokens", "room_tokens")
    )

    assert 0 < tokens <= padded <= room
    # Items that failed were in batches that failed.
    assert watched.total("bushel_batch_prompts_total") >= sum(job["counts"]["succeeded"] for job in watched.jobs)


def test_the_device_is_busy_or_idle_and_never_both(watched: Watched) -> None:
    busy, idle = (watched.total("bushel_device_seconds_total", state=state) for state in ("busy", "idle"))
    later = watched.total("bushel_device_seconds_total")

    assert busy > 0.05 and idle > 0
    assert later > busy + idle
    assert watched.total("bushel_leases_held") == 0


def test_a_webhook_that_arrived_is_counted(watched: Watched) -> None:
    eventually(lambda: watched.total("bushel_webhook_deliveries_total", outcome="delivered") == 1, 30)
    eventually(lambda: watched.total("bushel_webhook_deliveries_waiting") == 0, 30)

    assert watched.total("bushel_webhook_delivery_seconds_count") == 1


def test_what_the_processes_of_the_api_count_comes_together(watched: Watched) -> None:
    before = watched.total("bushel_http_requests_total", route="/v1/models")
    for _ in range(20):
        # On connections of their own, so that both processes get some.
        httpx.get(f"{watched.stack.http.base_url}/v1/models", headers=watched.stack.http.headers)

    eventually(lambda: watched.total("bushel_http_requests_total", route="/v1/models") == before + 20, 30)
    assert watched.total("bushel_http_request_seconds_count", route="/v1/models") == before + 20


def test_the_open_event_streams_of_all_processes_of_the_api_are_added_up(watched: Watched) -> None:
    with ExitStack() as streams:
        for _ in range(6):
            streams.enter_context(following(watched.stack.http, "/v1/events"))
        assert watched.total("bushel_event_streams") == 6

    eventually(lambda: watched.total("bushel_event_streams") == 0, 60)


def test_no_label_names_a_tenant_a_job_or_a_text(watched: Watched, valkey: Valkey) -> None:
    watched.stack.http.get("/v1/nowhere/bittern")
    everything = "".join(watched.scrape().values())
    names = {name for _, labels, _ in watched.samples() for name in labels}

    assert names <= {
        *("model", "outcome", "kind", "stage", "step", "status", "state", "loop", "le", "method", "route", "task"),
        *("dialect", "device", "version", "implementation", "major", "minor", "patchlevel", "generation"),
    }
    for secret in (TEXT, "bittern", FILE, watched.stack.key, "default", *(job["id"] for job in watched.jobs)):
        assert secret not in everything, secret


def test_metrics_are_those_of_the_documents_and_nobody_names_others(watched: Watched) -> None:
    """Of Bushel's own; the client library adds those of the process."""
    told = {
        re.sub(r"_total$", "", found[1])
        for text in watched.scrape().values()
        for found in re.finditer(r"^# TYPE (bushel_\w+) (?:counter|gauge|histogram)$", text, re.MULTILINE)
    }

    # Labels that were never used leave no trace among those of several processes.
    assert told == documented_metrics()
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named_metrics()} <= told


def test_metrics_need_a_key_that_may_administer(watched: Watched) -> None:
    stack = watched.stack
    few = stack.http.post("/v1/keys", json={"name": "few", "scopes": ["read", "submit"]}).json()["key"]
    url = f"{stack.http.base_url}/metrics"

    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {few}"}).status_code == 403


def test_a_heartbeat_tells_what_the_worker_does(watched: Watched) -> None:
    from db.session import connect

    engine = connect(watched.stack.environment["BUSHEL_DATABASE_URL"])
    try:
        with engine.connect() as connection:

            def of_models() -> Any:
                query = "SELECT activity FROM workers WHERE loaded::text LIKE '%%echo-slow%%'"
                return connection.exec_driver_sql(query).scalar()

            activity = eventually(of_models, 30)
    finally:
        engine.dispose()

    assert isinstance(activity, dict)
    assert set(activity) == {"busy", "memory_bytes", "device_memory_bytes", "models", "running"}
    assert 0 <= activity["busy"] <= 1 and activity["memory_bytes"] > 10 * 2**20
    assert activity["models"]["echo"]["load_seconds"] >= 0 and activity["models"]["echo"]["loaded_at"] > 1.7e9


# Logs


def test_every_record_is_a_line_of_json_with_what_it_is_about(watched: Watched) -> None:
    mixed = watched.jobs[0]["id"]
    [submitted] = [
        line for line in watched.lines("api") if line.get("action") == "job_submitted" and line["job_id"] == mixed
    ]
    recorded = [line for line in watched.lines("models") if line.get("action") == "chunk_recorded"]
    access = [line for line in watched.lines("api") if line.get("action") == "request_answered"]

    for name in ("api", "io", "models"):
        assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in watched.lines(name))
    # Not a line that is none, but for Celery's banner.
    assert [line for line in watched.stack.log("api").splitlines() if not line.startswith("{")] == []
    assert submitted["request_id"] == REQUEST
    assert {line["job_id"] for line in recorded} == {job["id"] for job in watched.jobs}
    assert all(isinstance(line["chunk_id"], int) and line["model"].startswith("echo") for line in recorded)
    assert any(line["request_id"] == REQUEST and line["status"] == 202 for line in access)
    # An item that fails inside of the engine is logged by a module that knows no jobs.
    assert any(line.get("action") == "item_failed" and line["job_id"] == mixed for line in watched.lines("models"))
    finalized = [line for line in watched.lines("io") if line.get("action") == "job_completed"]
    assert [line["step"] for line in finalized] == ["finalize"]


def test_no_log_has_a_text_a_file_name_or_a_key(watched: Watched) -> None:
    logs = "".join(watched.stack.log(name) for name in ("api", "io", "models"))

    for secret in (TEXT, "bittern booms", FILE, watched.stack.key):
        assert secret not in logs


# Traces


def test_one_trace_leads_from_the_request_to_the_webhook(watched: Watched) -> None:
    expected = {"POST /v1/jobs", "ingest", "chunk", "device", "write", "finalize", "webhook"}

    def trace() -> list[Span] | None:
        roots = [
            span
            for span in watched.spans()
            if any(one.key == "bushel.request_id" and one.value.string_value == REQUEST for one in span.attributes)
        ]
        mine = [span for span in watched.spans() if roots and span.trace_id == roots[0].trace_id]
        return mine if expected <= {span.name for span in mine} else None

    found = eventually(trace, 60)
    assert isinstance(found, list)
    [root] = [span for span in found if span.name == "POST /v1/jobs"]
    names = {span.span_id: span.name for span in found}
    parents = {span.name: names.get(span.parent_span_id) for span in found}

    assert parents["POST /v1/jobs"] is None
    assert {parents[name] for name in ("ingest", "chunk", "finalize", "webhook")} == {"POST /v1/jobs"}
    assert {parents[name] for name in ("read", "tokenize", "device", "detokenize", "write")} == {"chunk"}
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in found)
    # The receiver can go on with it.
    assert watched.hook.posted[0][1]["traceparent"].split("-")[1] == root.trace_id.hex()
    assert any(line.get("trace_id") == root.trace_id.hex() for line in watched.lines("models"))


def test_no_span_has_a_text_a_tenant_or_a_key(watched: Watched) -> None:
    everything = b"".join(content for _, _, content in watched.collector.posted)

    assert watched.spans()
    for secret in (TEXT, FILE, watched.stack.key, "tenant"):
        assert secret.encode() not in everything
