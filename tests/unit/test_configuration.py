"""The page about settings says what the code reads: every variable, its default, its meaning."""

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from api.config import APISettings
from db.config import Settings
from db.errors import ConfigError
from workers.config import WorkerSettings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
GOOD = {"BUSHEL_DATABASE_URL": "postgresql://u@h/d", "BUSHEL_BROKER_URL": "redis://127.0.0.1/0"}


def row(name: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "required"
    elif field.default is None:
        default = "none"
    else:
        default = f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"
    return f"| `BUSHEL_{name.upper()}` | {default} | {field.description} |"


def rows() -> list[str]:
    shared = Settings.model_fields
    own = [
        (name, field)
        for settings in (APISettings, WorkerSettings)
        for name, field in settings.model_fields.items()
        if name not in shared
    ]
    return [row(name, field) for name, field in [*shared.items(), *own]]


def test_every_setting_has_its_row_and_every_row_its_setting() -> None:
    found = [
        line
        for line in PAGE.read_text().splitlines()
        if re.match(r"\| `BUSHEL_", line) and not re.match(r"\| `BUSHEL_(URL|API_KEY)`", line)
    ]

    assert found == rows()


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)

    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUSHEL_DATABASE_URL", "sqlite:///x.db"),
        ("BUSHEL_BROKER_URL", "amqp://h"),
        ("BUSHEL_DATABASE_POOL", "many"),
        ("BUSHEL_DATABASE_POOL", "0"),
    ],
)
def test_an_unusable_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for variable, good in (GOOD | {name: value}).items():
        monkeypatch.setenv(variable, good)

    with pytest.raises(ConfigError, match=name):
        Settings.from_environment()


def test_a_plain_postgresql_url_is_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)

    assert Settings.from_environment().database_url == "postgresql+psycopg://u@h/d"
