"""What a connection that lasts was opened with, so that it does not outlast it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import keys, sign_ins


@dataclass(frozen=True, slots=True)
class Pass:
    """A key by one of its secrets, or a browser's sign-in with it; of secrets only the stored hashes."""

    key_id: str
    key_hash: str
    sign_in_hash: str | None = None


def of_key(session: Session, key: str, now: datetime) -> Pass | None:
    """None for a key that opens nothing."""
    opened = keys.unlock(session, key, now)
    return None if opened is None else Pass(opened.identity.key_id, opened.secret_hash)


def of_browser(session: Session, secret: str, now: datetime) -> Pass | None:
    """The same of the secret in a browser's cookie."""
    found = sign_ins.unlock(session, secret, now)
    return None if found is None else Pass(found.identity.key_id, found.key_hash, found.secret_hash)


_OPEN = text("""
    SELECT held.place FROM unnest(CAST(:keys AS text[]), CAST(:hashes AS text[]), CAST(:sign_ins AS text[]))
        WITH ORDINALITY AS held(key_id, key_hash, sign_in_hash, place)
    JOIN api_keys key ON key.id = held.key_id
    WHERE key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > now())
        AND (key.secret_hash = held.key_hash
            OR (key.previous_hash = held.key_hash AND key.previous_expires_at > now()))
        AND (held.sign_in_hash IS NULL OR EXISTS (
            SELECT FROM sign_ins s WHERE s.secret_hash = held.sign_in_hash AND s.expires_at > now()))
""")


def still_open(session: Session, passes: Collection[Pass]) -> set[Pass]:
    """Those that open yet: not revoked, expired, replaced or signed out."""
    held = list(passes)
    values = {
        "keys": [each.key_id for each in held],
        "hashes": [each.key_hash for each in held],
        "sign_ins": [each.sign_in_hash for each in held],
    }
    return {held[place - 1] for place in session.execute(_OPEN, values).scalars()}
