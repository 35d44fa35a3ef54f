"""The containers, checked without a container engine: compose file, Dockerfile and probes against the code."""

import ast
import importlib.util
import json
import re
import socket
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from cli.stack.valkey import RIGHTS
from db.config import Settings
from db.doorbell import IO_QUEUE, model_queue
from db.models import WorkerRow

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WORKERS = {name: service for name, service in OURS.items() if name.startswith("worker")}
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_of_ours = pytest.mark.parametrize("service", OURS.values(), ids=OURS)


def queues(service: dict[str, Any]) -> set[str]:
    """What a worker consumes when nobody has set the variable."""
    command = service["command"]
    listed = VARIABLE.sub(lambda found: found["rest"], command[command.index("-Q") + 1])
    return set(listed.split(","))


def names_defined_in(module: str) -> set[str]:
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def stages() -> dict[str, str]:
    """Stage name -> its instructions, continuation lines joined."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", re.sub(r"\\\n\s*", "", DOCKERFILE), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# Commands


def test_the_parts_of_a_deployment_are_all_there() -> None:
    ours = {"migrate", "api", "worker-io", "worker-cpu", "worker-gpu"}
    assert set(SERVICES) == ours | {"postgres", "valkey", "prometheus", "grafana"}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert SERVICES["prometheus"]["profiles"] == SERVICES["grafana"]["profiles"] == ["monitoring"]
    assert SERVICES["postgres"]["image"].startswith("postgres:18")
    assert SERVICES["valkey"]["image"].startswith("valkey/valkey:9")


@each_of_ours
def test_a_command_starts_something_that_exists(service: dict[str, Any]) -> None:
    match service["command"]:
        case ["gunicorn", *_, target]:
            module, _, factory = target.removesuffix("()").partition(":")
            assert factory in names_defined_in(module)
        case ["celery", "-A", module, "worker", *_]:
            assert {"app", "celery"} & names_defined_in(module)
        case ["python", "-m", package]:
            assert (ROOT / package / "__main__.py").is_file()
        case other:
            pytest.fail(f"nobody has said what {other} should be")


def test_the_images_start_like_their_services() -> None:
    commands = {
        name: json.loads(found[1]) for name, body in stages().items() if (found := re.search(r"^CMD (.+)$", body, re.M))
    }

    assert commands["api"] == SERVICES["api"]["command"]
    for name in ("worker", "worker-gpu"):
        # The service adds its queues; without -Q a worker serves everything.
        assert commands[name] == SERVICES["worker-cpu"]["command"][: len(commands[name])]


def test_every_queue_is_consumed_and_kinds_of_work_stay_apart() -> None:
    shipped = tomllib.loads((ROOT / "models/registry.toml").read_text(encoding="utf-8"))["models"]
    model_queues = {model_queue(name) for name in shipped}

    assert queues(SERVICES["worker-io"]) == {IO_QUEUE}
    assert queues(SERVICES["worker-cpu"]) == queues(SERVICES["worker-gpu"]) == model_queues


def test_a_gpu_has_one_process_to_itself() -> None:
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]

    assert device["capabilities"] == ["gpu"]
    assert len(device["device_ids"]) == 1
    assert "replicas" not in SERVICES["worker-gpu"]["deploy"]


# Start, health, stop


# A one-off is well when it has left with 0, and stays away.
LASTING = sorted(SERVICES.keys() - {"migrate"})


@pytest.mark.parametrize("name", LASTING)
def test_every_service_says_whether_it_is_well(name: str) -> None:
    kind, *words = SERVICES[name]["healthcheck"]["test"]

    assert kind in {"CMD", "CMD-SHELL"} and words
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        assert words[2] in probe().PROBES


@each_of_ours
def test_nothing_of_ours_starts_before_what_it_needs(service: dict[str, Any]) -> None:
    needs = {name: need["condition"] for name, need in service["depends_on"].items()}

    assert needs["postgres"] == "service_healthy"
    if service["command"] != SERVICES["migrate"]["command"]:
        assert needs == {
            "postgres": "service_healthy",
            "valkey": "service_healthy",
            "migrate": "service_completed_successfully",
        }


@pytest.mark.parametrize("name", LASTING)
def test_a_service_comes_back_and_may_stop_in_peace(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert re.fullmatch(r"[3-9]\d+s", SERVICES[name]["stop_grace_period"])


# Safety


@each_service
def test_a_container_has_no_more_rights_than_it_needs(service: dict[str, Any]) -> None:
    assert service["user"].split(":")[0] not in {"root", "0"}
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid"}


def test_no_image_is_whatever_is_latest() -> None:
    bases = set(re.findall(r"^FROM (\S+:\S+) AS", DOCKERFILE, re.MULTILINE)) | {
        service["image"] for service in SERVICES.values() if "build" not in service
    }

    assert len(bases) == 5
    for base in bases:
        assert re.search(r":\$?\{?(v?\d|PYTHON_VERSION)", base) and "latest" not in base
    assert re.search(r"^ARG PYTHON_VERSION=\d+\.\d+", DOCKERFILE, re.MULTILINE)


def test_images_run_as_the_user_that_compose_names() -> None:
    for name in ("api", "worker", "worker-gpu"):
        (user,) = re.findall(r"^USER (\S+)$", stages()[name], re.MULTILINE)
        assert {service["user"] for service in OURS.values()} == {user}


def test_only_the_api_and_grafana_are_published_and_only_on_this_host() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert {name: VARIABLE.sub(lambda found: found["rest"], port) for name, [port] in published.items()} == {
        "api": "127.0.0.1:8765:8765",
        "grafana": "127.0.0.1:3000:3000",
    }
    assert SERVICES["postgres"]["networks"] == SERVICES["valkey"]["networks"] == ["ledger"]
    assert COMPOSE["networks"]["ledger"]["internal"] is COMPOSE["networks"]["metrics"]["internal"] is True


def test_the_broker_asks_for_a_password_and_never_evicts() -> None:
    shell = SERVICES["valkey"]["command"][-1]

    assert "user default off" in shell and RIGHTS in shell
    assert "--maxmemory-policy noeviction" in shell
    assert "--appendonly yes" in shell
    # As an argument the password would show in the process list.
    assert "--requirepass" not in shell and "/run/secrets/valkey_password" in shell


# Variables and documents


def example_env() -> dict[str, str]:
    """Every variable of .env.example with its value; the optional ones are commented out there."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))


def test_passwords_are_in_files_and_nowhere_else() -> None:
    mounted = {name for service in SERVICES.values() for name in service.get("secrets", [])}

    assert mounted == set(COMPOSE["secrets"])
    assert COMPOSE["secrets"] == {name: {"file": f"./secrets/{name}"} for name in mounted}
    # Nothing in the environment of a container: `docker inspect` shows that.
    for service in SERVICES.values():
        values = [str(value) for value in service.get("environment", {}).values()]
        assert not [value for value in values if re.search(r"://[^/]*@|PASSWORD(?!_FILE)", value)]
    assert not re.search(
        r"^#?\w*(PASSWORD|SECRET|KEY)", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE
    )
    for keeper in (".gitignore", ".dockerignore"):
        assert re.search(r"^(/secrets/|\*)$", (ROOT / keeper).read_text(encoding="utf-8"), re.MULTILINE)


@each_service
def test_a_secret_is_read_from_where_it_is_mounted(service: dict[str, Any]) -> None:
    read = set(re.findall(r"/run/secrets/(\w+)", yaml.safe_dump(service)))

    assert read == set(service.get("secrets", []))


def test_the_script_makes_every_secret_once_and_they_fit_together(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "deploy/secrets.sh"), str(tmp_path / "secrets")]
    subprocess.run(command, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    subprocess.run(command, check=True, capture_output=True)

    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    settings = Settings(database_url=made["database_url"], broker_url=made["broker_url"])
    assert settings.passwords == (made["postgres_password"], made["valkey_password"])
    assert all(len(password) == 48 for password in settings.passwords)
    assert urlsplit(settings.database_url).hostname in SERVICES and urlsplit(settings.broker_url).hostname in SERVICES


def test_the_example_environment_lists_what_compose_reads_with_its_defaults() -> None:
    read = {found["name"]: "" if found["kind"] == "?" else found["rest"] for found in VARIABLE.finditer(COMPOSE_TEXT)}

    assert None not in read.values(), "a variable without a default or a reason"
    assert example_env() == read


def test_every_setting_of_the_deployment_is_documented() -> None:
    documented = set(re.findall(r"\bBUSHEL_[A-Z_]+\b", (ROOT / "docs/configuration.md").read_text(encoding="utf-8")))
    written = COMPOSE_TEXT + DOCKERFILE + (ROOT / ".env.example").read_text(encoding="utf-8")
    used = set(re.findall(r"\bBUSHEL_[A-Z_]+\b", written))

    assert {"BUSHEL_DATABASE_URL_FILE", "BUSHEL_BROKER_URL_FILE", "BUSHEL_DATA", "BUSHEL_STORE_URL"} <= used
    assert {name.removesuffix("_FILE") for name in used} <= documented


# Volumes, networks, images


def test_what_is_mounted_is_declared_and_the_other_way_round() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]

    assert {name for name, _ in mounts} == set(COMPOSE["volumes"])
    assert {net for service in SERVICES.values() for net in service["networks"]} == set(COMPOSE["networks"])


def test_prometheus_scrapes_what_there_is_and_reads_what_is_mounted() -> None:
    scrapes = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    [api], [workers] = scrapes[0]["static_configs"], scrapes[1]["dns_sd_configs"]
    ports = {service["environment"].get("BUSHEL_METRICS_PORT") for service in WORKERS.values()}
    mounted = {config["source"] for service in SERVICES.values() for config in service.get("configs", [])}

    assert api["targets"] == ["api:8765"]
    assert set(workers["names"]) == set(WORKERS) and {str(workers["port"])} == ports
    for service in (SERVICES["api"], *WORKERS.values()):
        assert set(SERVICES["prometheus"]["networks"]) <= set(service["networks"])
    assert mounted == set(COMPOSE["configs"])
    assert all((ROOT / config["file"]).is_file() for config in COMPOSE["configs"].values())


@each_of_ours
def test_the_data_folder_and_the_file_store_are_shared_volumes(service: dict[str, Any]) -> None:
    mounts = {target: name for name, target in (mount.split(":") for mount in service["volumes"])}

    assert mounts[service["environment"]["BUSHEL_DATA"]] == "data"
    assert mounts[service["environment"]["BUSHEL_STORE_URL"].removeprefix("file://")] == "files"


@each_of_ours
def test_a_service_builds_a_target_of_the_dockerfile_with_arguments_it_knows(service: dict[str, Any]) -> None:
    build = service["build"]

    assert (ROOT / build["dockerfile"]).is_file()
    assert build["target"] in stages()
    assert set(build.get("args", {})) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


def test_defaults_of_build_arguments_are_the_same_in_both_files() -> None:
    in_dockerfile = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    in_compose = {
        name: VARIABLE.sub(lambda found: found["rest"], value)
        for service in OURS.values()
        for name, value in service["build"].get("args", {}).items()
    }

    assert in_compose == {name: in_dockerfile[name] for name in ("TORCH_INDEX", "TORCH_GPU_INDEX")}


def test_the_images_hold_every_package_and_the_build_context_lets_it_in() -> None:
    packages = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = set(re.findall(r"^COPY (\S+) \1$", stages()["runtime"], re.MULTILINE))
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    for_pip = set(re.findall(r"^COPY (.+) \./$", stages()["build"], re.MULTILINE)[0].split())

    assert {f"{package}/" for package in packages} <= copied
    assert {path.rstrip("/") for path in copied | for_pip} == let_in
    assert all((ROOT / path).exists() for path in let_in)


def test_torch_is_the_one_that_the_project_asks_for() -> None:
    (wanted,) = {need for need in PROJECT["project"]["optional-dependencies"]["worker"] if need.startswith("torch=")}

    assert re.findall(r'"(torch[^"]*)"', DOCKERFILE) == [wanted, wanted]


def test_the_image_without_runtimes_runs_nothing_that_imports_one() -> None:
    runtimes = {"torch", "ctranslate2", "transformers", "sentencepiece", "safetensors", "huggingface_hub"}
    packages = ("api", "db", "workers", "models", "migrations")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]

    importing = {path.relative_to(ROOT) for path in files if runtimes & imported_at_once(path)}

    # An engine's own file may, because only a worker that loads such a model imports it; what ships with a model is
    # not run here at all.
    own = {Path("workers/engines")} | {path.parent.relative_to(ROOT) for path in ROOT.glob("models/*/config.json")}
    assert {path for path in importing if path.parent not in own} == set()


def imported_at_once(path: Path) -> set[str]:
    """Top-level names that importing the module imports; not what its functions import when called."""
    found = set()
    pending: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            pending += node.orelse
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


# Probes


def probe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("probe", ROOT / "deploy/probe.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def service_that_answers() -> Iterator[tuple[HTTPServer, dict[str, int]]]:
    answer = {"status": 200}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"] if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b'{"status": "ready"}' if answer["status"] == 200 else b'{"missing": "database"}')

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, answer
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "is_well", "says"), [(200, True, "ready"), (503, False, "database")])
def test_the_api_is_well_when_it_is_ready(
    service_that_answers: tuple[HTTPServer, dict[str, int]], status: int, is_well: bool, says: str
) -> None:
    server, answer = service_that_answers
    answer["status"] = status

    found, what = probe().api(port=server.server_port)

    assert found is is_well
    assert says in what


def test_an_api_that_does_not_listen_is_not_well() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        found, what = probe().api(port=taken.getsockname()[1])

    assert not found
    assert what.startswith("no answer")


def test_the_worker_probe_reads_columns_that_the_ledger_has() -> None:
    read = set(re.findall(r"(?:WHERE|AND) (\w+) [=>]", probe().HEARTBEAT))

    assert f"FROM {WorkerRow.__tablename__} " in probe().HEARTBEAT
    assert read == {"host", "heartbeat_at"} <= set(WorkerRow.__table__.columns.keys())


def test_a_probe_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe().main(["postgres"]) == 2
    assert "usage" in capsys.readouterr().err
