"""Connections to PostgreSQL that give up in seconds instead of hanging."""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

Sessions = sessionmaker[Session]

# A black-holed connection hung psycopg for more than 98 s by default and 8 s with these
# (measured with nftables dropping the packets). Timeouts are in the units libpq and PostgreSQL name.
_LIBPQ = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
}
_SERVER = {
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
}


def connect(database_url: str, pool: int = 8, application: str = "bushel") -> Engine:
    """An engine whose connections are tested before use and bounded in number."""
    options = " ".join(f"-c {name}={value}" for name, value in _SERVER.items())
    return create_engine(
        database_url,
        pool_size=pool,
        max_overflow=0,
        # Errors are logged with their statements; what users sent must not be.
        hide_parameters=True,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args=_LIBPQ | {"options": options, "application_name": application},
    )


def sessions(engine: Engine) -> Sessions:
    return sessionmaker(engine, expire_on_commit=False)


# The role has no rights but on rows of the tenant that the setting names (migration 0004). Both settings end with the
# transaction.
TENANT_ROLE = "bushel_tenant"
_CONFINE = text(f"SELECT set_config('role', '{TENANT_ROLE}', true), set_config('bushel.tenant', :tenant, true)")


def confined(engine: Engine, tenant: Callable[[], str]) -> Sessions:
    """Sessions that see and write nothing but what belongs to `tenant()`, asked as each transaction begins.

    A wall behind the conditions of the queries, not instead of them. "" is nobody: no row is visible then.
    """
    made = sessions(engine)

    def confine(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        # A savepoint is inside a transaction that is confined already.
        if not transaction.nested:
            connection.execute(_CONFINE, {"tenant": tenant()})

    event.listen(made, "after_begin", confine)
    return made
