"""Settings that every process of the service shares, read once from the environment and from files it names."""

import os
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db import safeguards, secret_files
from db.errors import ConfigError


class Settings(BaseSettings):
    """Every field is the variable `BUSHEL_` + its name in capitals; docs/configuration.md lists them."""

    model_config = SettingsConfigDict(env_prefix="BUSHEL_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str = Field(
        repr=False, description="PostgreSQL 15 or later, as postgresql+psycopg://user:password@host/name"
    )
    broker_url: str = Field(
        repr=False,
        description="Redis or Valkey, as redis://user:password@host:6379/0, rediss://… or redis+socket:///path.sock",
    )
    allow_insecure_broker: bool = Field(
        False, description="start although the broker is on another machine and asks for no password"
    )
    data: Path = Field(Path(".bushel"), description="data folder: converted models, the user's models.toml, files")
    store_url: str | None = Field(
        None, description="where file bytes live: any fsspec URL (s3://… needs the s3 extra); default <data>/files"
    )
    registry: Path | None = Field(
        None, description="registry file read instead of the shipped one; <data>/models.toml still adds to it"
    )
    pause_free_bytes: int = Field(
        128 * 2**20,
        ge=0,
        description="workers begin nothing and write no files while the disk has less room than this, and go on when it"
        " has; keep it below `BUSHEL_MIN_FREE_BYTES`",
    )
    database_pool: int = Field(8, ge=2, le=200, description="database connections a process may hold")
    tenant_queued_items: int | None = Field(
        None, ge=0, description="most items a tenant may have queued, all jobs together; default: any number"
    )
    tenant_queued_tokens: int | None = Field(
        None, ge=0, description="most tokens a tenant may have queued, all jobs together; default: any number"
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: Literal["text", "json"] = Field(
        "text", description="text for people, or json: an object a line, for what collects logs"
    )
    tracing: bool = Field(
        False,
        description="send OpenTelemetry traces (needs the tracing extra) to where the standard OTEL_EXPORTER_OTLP_…"
        " variables say",
    )
    webhook_private_addresses: bool = Field(
        False,
        description="let webhooks point into private networks and at this machine, and speak plain HTTP: for receivers"
        " of your own, where only people you trust have keys",
    )

    @field_validator("database_url")
    @classmethod
    def _speaks_psycopg(cls, url: str) -> str:
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgresql+psycopg", "postgresql", "postgres"):
            raise ValueError("must start with postgresql+psycopg:// (Bushel keeps its ledger in PostgreSQL only)")
        return _with_sound_password(f"postgresql+psycopg://{rest}")

    @field_validator("broker_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("redis", "rediss", "redis+socket"):
            raise ValueError("must be a redis://, rediss:// or redis+socket:// URL")
        return _with_sound_password(url)

    @model_validator(mode="after")
    def _broker_is_ours_alone(self) -> Self:
        problem = safeguards.broker_problem(self.broker_url)
        if problem and not self.allow_insecure_broker:
            raise ValueError(f"BUSHEL_BROKER_URL: {problem}")
        return self

    @field_validator("data")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

    @property
    def passwords(self) -> tuple[str, ...]:
        """Those of the URLs, for whoever must not write them anywhere."""
        return (*safeguards.passwords(self.database_url), *safeguards.passwords(self.broker_url))

    @property
    def file_store(self) -> str:
        return self.store_url or (self.data / "files").as_uri()

    @property
    def registry_files(self) -> tuple[Path, ...]:
        """Files that define models, later ones override earlier ones; the last need not exist."""
        import models

        shipped = self.registry or Path(models.__file__).parent / "registry.toml"
        return (shipped, self.data / "models.toml")

    @classmethod
    def from_environment(cls, **known: Any) -> Self:
        """Raise ConfigError naming each variable that is missing or wrong; no message repeats a value.

        What is `known` is not read. Every variable may be given as a file instead: BUSHEL_DATABASE_URL_FILE and so on.

        Our own error, never KeyError: Celery swallows a KeyError raised in a lazy settings
        callable and silently falls back to its amqp default.
        """
        in_files = [field for field in cls.model_fields if os.environ.get(f"{_variable(field)}_FILE")]
        given = {field: secret_files.setting(_variable(field), os.environ) for field in in_files} | known
        try:
            return cls(**given)
        except ValidationError as exc:
            raise ConfigError("; ".join(_sentence(error) for error in exc.errors())) from exc


def _variable(field: str) -> str:
    return f"BUSHEL_{field.upper()}"


def _with_sound_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # What it says repeats parts of the URL; a password with an `@` or a `/` would be among them.
        raise ValueError("is no URL; special characters in a password must be percent-encoded") from None
    if problem := safeguards.password_problem(url):
        raise ValueError(problem)
    return url


def _sentence(error: object) -> str:
    assert isinstance(error, dict)
    if not error["loc"]:
        # Of several settings together, and naming them itself.
        return str(error["msg"]).removeprefix("Value error, ")
    name = _variable(str(error["loc"][0]))
    return f"{name} is not set" if error["type"] == "missing" else f"{name}: {error['msg']}"
