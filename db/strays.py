"""Bytes in the store that belong to nothing."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.cursors import born, is_id

# Where each key is that of one row: a file's, or a job's whose inputs came with its request.
FOLDERS = ("files", "inputs")

# Nothing, and so no strays, for whom row-level security keeps from seeing all rows.
_BEGAN = text("""
    SELECT min(created_at) FROM tenants WHERE NOT row_security_active('files') AND NOT row_security_active('jobs')
""")
_KNOWN = text("""
    SELECT store_key FROM files WHERE store_key = ANY(:keys)
    UNION SELECT inputs_key FROM jobs WHERE inputs_key = ANY(:keys)
""")


def among(session: Session, keys: Sequence[str]) -> list[str]:
    """Those of the keys that have no row, and were made in this ledger's own time.

    Older ones than the ledger itself are another's, at whose store this one was pointed: they are left alone. So is
    whatever has no name of ours. The caller asks for keys so old that their rows would have been committed long since.
    """
    began = session.execute(_BEGAN).scalar()
    if began is None:
        return []
    names = {key: key.partition("/")[2] for key in keys}
    ours = [key for key, name in names.items() if is_id(name, "") and born(name) > began]
    known = set(session.execute(_KNOWN, {"keys": ours}).scalars())
    return [key for key in ours if key not in known]
