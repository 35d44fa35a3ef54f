"""Dashboard, alert rules and their page fit together, and Prometheus understands them."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import Counter
from prometheus_client.registry import CollectorRegistry

from api import shared_counts
from telemetry import traces
from telemetry.serving import MetricsServer
from tests.unit.observability import (
    ALERTS,
    DASHBOARD,
    PAGE,
    PROMETHEUS,
    documented_metrics,
    expressions,
    named_metrics,
    rules,
)

PROMTOOL = shutil.which("promtool")


@pytest.fixture
def promtool() -> str:
    """The program, or a skip that is seen: Debian has it in the package `prometheus`."""
    if PROMTOOL is None:
        pytest.skip("promtool is not installed, so nothing checked the rules' syntax: apt-get install prometheus")
    return PROMTOOL


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_configuration_and_rules(promtool: str) -> None:
    run(promtool, "check", "config", PROMETHEUS)


def test_prometheus_takes_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    queries = [expression.replace("$__rate_interval", "5m") for expression in expressions()]
    written = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": written}]}))

    assert f"{len(queries)} rules found" in run(promtool, "check", "rules", file)


def test_a_model_that_nobody_serves_raises_the_alarm_and_one_that_is_served_does_not(
    promtool: str, tmp_path: Path
) -> None:
    """The rule with two vectors, tried on numbers; the others compare one with a bound."""
    series = [
        {"series": 'bushel_queue_oldest_seconds{model="lonely"}', "values": "60+60x20"},
        {"series": 'bushel_queue_oldest_seconds{model="served"}', "values": "60+60x20"},
        {"series": 'bushel_workers_serving{model="served"}', "values": "1x20"},
        {"series": 'bushel_items_total{model="served"}', "values": "0+5x20"},
    ]
    alarms = [{"exp_labels": {"severity": "critical", "model": "lonely"}}]
    said = next(rule for rule in rules() if rule["alert"] == "BushelModelWithoutWorker")["annotations"]["summary"]
    alarms[0]["exp_annotations"] = {"summary": said.replace("{{ $labels.model }}", "lonely")}
    stands = {"eval_time": "18m", "alertname": "BushelModelWithoutWorker", "exp_alerts": alarms}
    test = {"interval": "1m", "input_series": series, "alert_rule_test": [stands]}
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))

    assert "SUCCESS" in run(promtool, "test", "rules", file)


def test_every_metric_that_is_asked_for_is_documented() -> None:
    """That those of the page exist, a real service shows (tests/stack/test_metrics.py)."""
    plain = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named_metrics()}

    assert len(plain) > 25
    assert plain <= documented_metrics()


def test_every_alert_says_what_is_and_the_page_says_what_to_do() -> None:
    page = PAGE.read_text(encoding="utf-8")
    explained = set(re.findall(r"`(Bushel\w+)`", page.partition("What do the alerts mean?")[2]))
    names = [rule["alert"] for rule in rules()]

    assert len(names) == len(set(names))
    assert set(names) == explained
    assert all(rule["labels"]["severity"] in ("critical", "warning", "info") for rule in rules())
    assert all(rule["annotations"]["summary"].endswith(".") for rule in rules())


def test_the_dashboard_has_no_panel_without_a_query_and_no_two_in_one_place() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]

    assert len(places) == len(set(places)) > 20
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] == "row" or panel["targets"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


# The endpoint of workers


def test_metrics_are_served_on_their_path_alone() -> None:
    registry = CollectorRegistry()
    Counter("bushel_tries", "Tries", registry=registry).inc(3)
    server = MetricsServer("127.0.0.1", 0, [registry])
    server.start()
    try:
        url = f"http://127.0.0.1:{server.port}"
        found, other, posted = httpx.get(f"{url}/metrics"), httpx.get(f"{url}/"), httpx.post(f"{url}/metrics")
    finally:
        server.close()

    assert found.status_code == 200 and "bushel_tries_total 3.0" in found.text
    assert found.headers["content-type"].startswith("text/plain")
    assert "Python" not in found.headers["server"]
    assert (other.status_code, posted.status_code) == (404, 501)


def test_a_port_that_is_taken_is_an_error_of_whoever_wants_it() -> None:
    first = MetricsServer("127.0.0.1", 0, [])
    first.start()
    try:
        with pytest.raises(OSError, match="in use"):
            MetricsServer("127.0.0.1", first.port, [])
    finally:
        first.close()


# What several processes of an API count


def test_the_shared_folder_goes_with_its_api_and_those_of_the_killed_with_the_next_start(tmp_path: Path) -> None:
    program = "import os, sys; from api import shared_counts as s; from pathlib import Path; s.begin(Path(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name != shared_counts.VARIABLE}

    def start(then: str) -> list[str]:
        subprocess.run([sys.executable, "-c", f"{program}; {then}", tmp_path], env=environment, timeout=60, check=False)
        return sorted(path.name for path in tmp_path.iterdir())

    [left] = start("os.kill(os.getpid(), 9)")
    [mine] = start("os.kill(os.getpid(), 9)")
    (tmp_path / f"bushel-metrics-{os.getpid()}-of-one-that-lives").mkdir()
    remaining = start("s.end()")

    assert left != mine
    assert remaining == [f"bushel-metrics-{os.getpid()}-of-one-that-lives"]


# Traces


def test_a_process_that_sends_no_traces_imports_nothing_for_it() -> None:
    """Of what we would; redis-py has uses of its own for OpenTelemetry's metrics."""
    program = "import sys, api.app, workers.process; print(*sys.modules)"
    imported = set(run(sys.executable, "-c", program).split())

    assert "telemetry.traces" in imported
    assert not [name for name in imported if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk.trace"))]


def test_tracing_without_its_packages_says_what_to_install() -> None:
    absent = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    program = f"import sys; sys.modules['{absent}'] = None\nfrom telemetry import traces; traces.set_up('x', True)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is not installed: pip install 'bushel[tracing]'")


def test_without_tracing_there_are_no_spans_and_nothing_is_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with traces.span("nothing", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01") as live:
            assert live is None
            assert traces.current() is None
        traces.tell(traces.Moment("chunk", 0.0, 1.0), None, [])

    assert not traces.is_on()
