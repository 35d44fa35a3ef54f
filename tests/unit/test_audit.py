"""What the audit lets pass, without running its tools."""

import importlib.util
import re
import sys
import tomllib
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/audit"
POLICY = tomllib.loads((FOLDER / "policy.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", FOLDER / "audit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("MIT", True),
        ("Apache Software License; BSD License", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("(MIT OR GPL-3.0-only)", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT License; GNU General Public License v3 (GPLv3)", False),
        ("AGPL-3.0-or-later OR BUSL-1.1", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_a_licence_must_be_one_of_ours_in_every_part(audit: ModuleType, licence: str, is_allowed: bool) -> None:
    assert audit.is_allowed(licence, POLICY["licences"]["allowed"]) is is_allowed


def test_a_waiver_ends_on_its_day(audit: ModuleType) -> None:
    listed = [{"id": "A", "until": date(2026, 12, 31)}, {"id": "B", "until": date(2027, 1, 1)}]

    assert audit.waivers(listed, date(2026, 12, 30)) == (["A", "B"], [])
    assert audit.waivers(listed, date(2026, 12, 31)) == (["B"], ["A"])


def test_every_exception_has_a_reason_and_every_waiver_an_end() -> None:
    assert all(len(reason.split()) >= 3 for reason in POLICY["licences"]["exceptions"].values())
    assert all(len(reason.split()) >= 3 for reason in POLICY["bandit"]["off"].values())
    for rule in POLICY["bandit"]["allowed"]:
        assert rule.keys() == {"test", "files", "reason"}
        assert all((ROOT / file).is_file() for file in rule["files"])
    for waiver in POLICY.get("vulnerabilities", []):
        assert waiver.keys() == {"id", "package", "until", "reason"} and isinstance(waiver["until"], date)


def test_nobody_silences_a_check_without_saying_which() -> None:
    """The policy has the exceptions, with reasons; a bare `nosec` would silence everything on its line."""
    product = ("api", "cli", "db", "dialects", "migrations", "models", "scoring", "training", "workers")
    files = [path for package in product for path in (ROOT / package).rglob("*.py")]

    assert [path for path in files if "# nosec" in path.read_text(encoding="utf-8")] == []


def test_the_audits_tools_are_pinned() -> None:
    lines = (FOLDER / "tools.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))

    assert {"pip_audit", "bandit", "detect-secrets", "cyclonedx-bom", "pip-licenses"} <= set(pinned)


def test_no_code_of_ours_unpickles_or_runs_what_it_loads() -> None:
    """Weights are safetensors, or torch files that may hold nothing but weights; models bring no code."""
    product = [
        path
        for package in ("api", "db", "workers", "models", "migrations", "dialects")
        for path in (ROOT / package).rglob("*.py")
    ]
    forbidden = {
        "pickle": r"^\s*(import|from) (c?pickle|dill|cloudpickle|marshal|shelve)\b|pickle\.load",
        "torch.load": r"torch\.load\((?!.*weights_only=True)",
        "foreign code": r"trust_remote_code\s*=\s*(?!False)",
        "yaml": r"yaml\.(unsafe_|full_)?load\(",
        "evaluation": r"(?<![\w.])(eval|exec)\(",
        "shells": r"shell\s*=\s*True|os\.system\(",
    }

    found = [
        (what, str(path.relative_to(ROOT)), line.strip())
        for path in product
        for line in path.read_text(encoding="utf-8").splitlines()
        for what, pattern in forbidden.items()
        if re.search(pattern, line)
    ]

    assert found == []
