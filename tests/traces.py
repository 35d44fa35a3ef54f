"""Where a word is found that should be gone: in every table, in a folder, in a broker."""

from collections.abc import Iterator
from pathlib import Path

import redis
from sqlalchemy import text
from sqlalchemy.orm import Session

# Whatever the type, its text has the word in it if the value has.
_COLUMNS = text("""
    SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables
        USING (table_schema, table_name)
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY table_name, ordinal_position
""")


def in_tables(session: Session, word: str) -> list[str]:
    """`table.column` of every value that has the word, whatever tables there are."""
    found = []
    for table, column in session.execute(_COLUMNS).all():
        query = text(f'SELECT count(*) FROM "{table}" WHERE strpos(CAST("{column}" AS text), :word) > 0')
        if session.execute(query, {"word": word}).scalar_one():
            found.append(f"{table}.{column}")
    return found


def in_folder(folder: Path, word: str) -> list[str]:
    """Files below the folder that have the word in their name or their bytes."""
    return [str(path) for path in _files(folder) if word in path.name or word.encode() in path.read_bytes()]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def in_broker(url: str, word: str) -> list[str]:
    """Keys of the broker whose dumped value, or whose name, has the word."""
    with redis.Redis.from_url(url) as broker:
        return [str(key) for key in broker.scan_iter() if word.encode() in key + (broker.dump(key) or b"")]
