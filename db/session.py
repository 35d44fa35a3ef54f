"""Connections to PostgreSQL that give up in seconds instead of hanging."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

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
