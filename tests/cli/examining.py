"""What the doctor says, in a form that tests can ask."""

import json
from typing import Any

import pytest

from cli.main import run
from tests.ledger import Ledger

Captured = pytest.CaptureFixture[str]
# As one says it, and as a URL spells it.
PASSWORD = "hk2-very%secret"
SPELLED = "hk2-very%25secret"


class Examined:
    """What the doctor said, and how it ended."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        self.content: dict[str, Any] = json.loads(text)
        self.checks = {check["name"]: check for check in self.content["checks"]}

    def told(self, name: str) -> str:
        return "\n".join(
            f"{each['outcome']}: {each['found']} -> {each['advice']}" for each in self.checks[name]["findings"]
        )


def examine(capfd: Captured, *only: str, options: tuple[str, ...] = (), seconds: str = "60") -> Examined:
    words = [word for name in only for word in ("--only", name)]
    code = run([*options, "doctor", "--json", "--seconds", seconds, *words])
    return Examined(code, capfd.readouterr().out)


def hear(ledger: Ledger, id: str, models: list[str], unavailable: dict[str, str] | None = None, ago: int = 0) -> None:
    """A worker's heartbeat."""
    ledger.run(
        "INSERT INTO workers (id, host, pid, device, version, models, loaded, unavailable, heartbeat_at)"
        " VALUES (:id, 'h', 1, 'cpu', '0.1.0', CAST(:models AS jsonb), '[]', CAST(:unavailable AS jsonb),"
        " now() - :ago * interval '1 second')",
        id=id,
        models=json.dumps(models),
        unavailable=json.dumps(unavailable or {}),
        ago=ago,
    )
