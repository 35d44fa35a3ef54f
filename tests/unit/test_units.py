"""The systemd units, checked without systemd where there is none."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from db.config import Settings

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
each_unit = pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])

# Where a container has its own root, capabilities and network, a unit says each by itself.
WALLS = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "LimitCORE": "0",
    "UMask": "0077",
    "User": "bushel",
    "StateDirectory": "bushel",
}


def settings(unit: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in unit.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+)=(.*)$", line):
            found[match[1]].append(match[2])
    return found


def test_there_is_a_unit_for_one_machine_and_one_for_each_part_on_many() -> None:
    assert [unit.name for unit in UNITS] == ["bushel-api.service", "bushel-worker@.service", "bushel.service"]


@each_unit
def test_a_unit_has_no_more_rights_than_it_needs(unit: Path) -> None:
    found = settings(unit)

    assert {name: found[name] for name in WALLS} == {name: [value] for name, value in WALLS.items()}
    assert found["Restart"] == ["always"] and len(found["TimeoutStopSec"]) == 1
    # What it writes is under its own folder, as ProtectSystem demands.
    assert found["WorkingDirectory"] == ["/var/lib/bushel"]


@each_unit
def test_no_password_is_in_a_unit_and_variables_are_settings(unit: Path) -> None:
    named = re.findall(r"\b(BUSHEL_[A-Z_]+)=(\S*)", unit.read_text(encoding="utf-8"))
    documented = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")

    assert named
    for name, value in named:
        assert f"`{name.removesuffix('_FILE')}`" in documented
        assert "://" not in value
    if unit.name != "bushel.service":
        assert {"BUSHEL_DATABASE_URL_FILE", "BUSHEL_BROKER_URL_FILE"} <= {name for name, _ in named}
        assert {"database_url", "broker_url"} <= set(Settings.model_fields)


@each_unit
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    # An instance of a template, and programs that exist here; everything else is as it is.
    copy = tmp_path / unit.name.replace("@.", "@io.")
    text = re.sub(r"/opt/bushel/bin/\w+", "/bin/true", unit.read_text(encoding="utf-8"))
    copy.write_text(text, encoding="utf-8")

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )

    said = [line for line in done.stderr.splitlines() if unit.stem.rstrip("@") in line]
    assert said == []
