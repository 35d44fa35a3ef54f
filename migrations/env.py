"""Runs migrations on the database named by BUSHEL_DATABASE_URL, one process at a time."""

from alembic import context
from sqlalchemy import text

from db.config import Settings
from db.models import Base
from db.session import connect

# Any two migrators exclude each other by this advisory lock; the number is arbitrary but fixed.
_LOCK = 7_205_759_403


def run() -> None:
    engine = connect(context.config.attributes.get("url") or Settings.from_environment().database_url, pool=2)
    try:
        with engine.connect() as connection:
            connection.execute(text("SET lock_timeout = '10s'"))
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            connection.commit()
            context.configure(connection, target_metadata=Base.metadata)
            with context.begin_transaction():
                context.run_migrations()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
            connection.commit()
    finally:
        # The connection, and the lock with it, must not outlast a migration that fails.
        engine.dispose()


run()
