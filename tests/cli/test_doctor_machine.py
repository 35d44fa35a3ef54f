"""`bushel doctor` on machines and packages: what a container allows, what is said of a GPU, which versions will do."""

import doctest
import importlib
from pathlib import Path

import pytest

from cli.checkup import machine
from cli.checkup.requirements import fits, needs, requirement

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({}, [], id="no container"),
        pytest.param({"cpu.max": "50000 100000"}, ["allow 0.5"], id="processors"),
        pytest.param(
            {"../../../proc/self/cgroup": "0::/a/b", "a/b/cpu.max": "50000 100000"}, ["allow 0.5"], id="of a service"
        ),
        pytest.param({"cpu.max": "max 100000", "memory.max": "max"}, [], id="no limits"),
        pytest.param({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, ["allow 0.5"], id="old"),
        pytest.param({"memory.max": "1073741824", "memory.current": "1000000000"}, ["73.7 MB of 1.1 GB"], id="memory"),
        pytest.param({"memory/memory.limit_in_bytes": "1073741824"}, ["1.1 GB of 1.1 GB"], id="memory, old"),
    ],
)
def test_what_a_container_allows_is_found(tmp_path: Path, files: dict[str, str], said: list[str]) -> None:
    group = tmp_path / "sys" / "fs" / "cgroup"
    for name, text in {"../../../proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n", **files}.items():
        (group / name).parent.mkdir(parents=True, exist_ok=True)
        (group / name).write_text(f"{text}\n")

    found = [each.found for each in machine.machine(None, tmp_path) if each.outcome == "warning"]  # type: ignore[arg-type]

    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(
            {"torch": ["12.8", 1], "names": ["H200"], "ctranslate2": 1}, ["ok: torch sees H200", "ok"], id="both"
        ),
        pytest.param(
            {"torch": [None, 0], "names": [], "ctranslate2": 1}, ["warning: there is a GPU, and this"], id="cpu"
        ),
        pytest.param({"torch": ["12.8", 0], "names": [], "ctranslate2": 0}, ["warning", "warning"], id="not given"),
        pytest.param({"torch_error": "no torch", "ctranslate2_error": "x"}, ["warning: torch cannot be"], id="missing"),
    ],
)
def test_what_the_libraries_say_of_a_gpu_is_judged(found: dict[str, object], said: list[str]) -> None:
    told = [f"{each.outcome}: {each.found}" for each in machine.judged(found)]

    assert len(told) == 2
    assert all(text.startswith(start) for text, start in zip(told, said, strict=False))


def test_the_libraries_can_be_asked_for_a_gpu() -> None:
    found = machine.asked(250)

    assert found is not None and ("torch" in found or "torch_error" in found)


def test_what_an_extra_brings_is_that_of_other_extras_too() -> None:
    known = [
        requirement(text) for text in ("a>=1", 'b==2.*; extra == "x"', "bushel[x]; extra == 'y'", 'c; extra == "y"')
    ]

    assert [each.name for each in needs(known, "y")] == ["b", "c"]
    assert fits("2.9", needs(known, "y")[0].versions) and not fits("3.0", needs(known, "y")[0].versions)


@pytest.mark.parametrize("module", ["requirements", "finding", "broker"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"cli.checkup.{module}"))

    assert outcome.attempted > 0
    assert outcome.failed == 0
