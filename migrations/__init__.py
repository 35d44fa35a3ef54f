"""The ledger's schema over time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from db.session import connect


def config(database_url: str) -> Config:
    alembic = Config(str(Path(__file__).parent / "alembic.ini"))
    alembic.attributes["url"] = database_url
    return alembic


def upgrade(database_url: str, revision: str = "head") -> None:
    command.upgrade(config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    command.downgrade(config(database_url), revision)


def pending(database_url: str) -> list[str]:
    """Revisions this code has and the database has not, oldest first."""
    script = ScriptDirectory.from_config(config(database_url))
    engine = connect(database_url, pool=2)
    with engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    revisions = [step.revision for step in script.walk_revisions(base=present or "base", head="heads")]
    return [revision for revision in reversed(revisions) if revision != present]
