"""Which ledger a store belongs to: the first that uses it says so in the store itself."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.store import FileStore

KEY = "ledger"
# Of the server and the database, not of a row: a dump has every row, and what is restored from it beside the ledger it
# was taken of must not pass for that one.
_MY_ID = text("""
    SELECT format('%s-%s', (SELECT system_identifier FROM pg_control_system()), oid)
    FROM pg_database WHERE datname = current_database()
""")


def my_id(session: Session) -> str:
    """What no other ledger is called, unless its server's own files were copied from ours."""
    return str(session.execute(_MY_ID).scalar_one())


def owner_of(session: Session, store: FileStore) -> str:
    """The id of the ledger that the store belongs to; one that belongs to nobody is ours from now on."""
    try:
        with store.open(KEY) as file:
            return file.read(1_000).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        me = my_id(session)
    with store.writer(KEY) as writer:
        writer.write(f"{me}\n".encode())
    return me
