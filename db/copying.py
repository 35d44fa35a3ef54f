"""Bulk loading with COPY, inside a session's transaction."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session


@contextmanager
def copy_into(session: Session, table: str, columns: str) -> Iterator[psycopg.Copy]:
    """COPY rows into a table, written with `write_row`.

    What the driver raises comes as SQLAlchemy's errors, as from any other statement: callers that
    outlast a database which is away must not end because it went in the middle of a COPY.
    """
    connection = session.connection().connection.driver_connection
    assert connection is not None
    statement = f"COPY {table} ({columns}) FROM STDIN"
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy
    except psycopg.Error as exc:
        raise DBAPIError.instance(statement, None, exc, psycopg.Error) from exc
