"""Settings that every process of the service shares, read once from the environment."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.errors import ConfigError


class Settings(BaseSettings):
    """Every field is the variable `BUSHEL_` + its name in capitals; docs/configuration.md lists them."""

    model_config = SettingsConfigDict(env_prefix="BUSHEL_", frozen=True, extra="ignore")

    database_url: str = Field(description="PostgreSQL 15 or later, as postgresql+psycopg://user:password@host/name")
    broker_url: str = Field(
        description="Redis or Valkey, as redis://host:6379/0, rediss://… or redis+socket:///path.sock"
    )
    data: Path = Field(Path(".bushel"), description="data folder: converted models, the user's models.toml, files")
    store_url: str | None = Field(
        None, description="where file bytes live: any fsspec URL (s3://… needs the s3 extra); default <data>/files"
    )
    registry: Path | None = Field(
        None, description="registry file read instead of the shipped one; <data>/models.toml still adds to it"
    )
    database_pool: int = Field(8, ge=2, le=200, description="database connections a process may hold")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    webhook_private_addresses: bool = Field(
        False,
        description="let webhooks point into private networks and at this machine, and speak plain HTTP: for receivers"
        " of your own, where only people you trust have keys",
    )

    @field_validator("database_url")
    @classmethod
    def _speaks_psycopg(cls, url: str) -> str:
        scheme, _, rest = url.partition("://")
        if scheme in ("postgresql", "postgres"):
            return f"postgresql+psycopg://{rest}"
        if scheme != "postgresql+psycopg":
            raise ValueError("must start with postgresql+psycopg:// (Bushel keeps its ledger in PostgreSQL only)")
        return url

    @field_validator("broker_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("redis", "rediss", "redis+socket"):
            raise ValueError("must be a redis://, rediss:// or redis+socket:// URL")
        return url

    @field_validator("data")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

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
    def from_environment(cls) -> Self:
        """Raise ConfigError naming each variable that is missing or wrong.

        Our own error, never KeyError: Celery swallows a KeyError raised in a lazy settings
        callable and silently falls back to its amqp default.
        """
        try:
            return cls()
        except ValidationError as exc:
            raise ConfigError("; ".join(_sentence(error) for error in exc.errors())) from exc


def _sentence(error: object) -> str:
    assert isinstance(error, dict)
    name = "BUSHEL_" + str(error["loc"][0]).upper()
    return f"{name} is not set" if error["type"] == "missing" else f"{name}: {error['msg']}"
