"""API keys: issued once in clear, kept only as salted hashes, checked in constant time.

A key is `bsh_<id>_<43 random characters><6 characters of CRC-32>`. Prefix and checksum let secret scanners
find a leaked key without asking us, and let us refuse a mistyped one without asking the database.
"""

import hashlib
import hmac
import re
import secrets
import sys
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from db.config import Settings
from db.errors import LedgerError, NotFound
from db.ids import new_id
from db.models import APIKey, Tenant
from db.session import connect, sessions

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(r"bsh_([0-9a-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})\Z")
_TOUCH = timedelta(minutes=1)
# Held while asking whether there is a first key, so that two starting processes do not both make one.
_FIRST_KEY_LOCK = 7_205_759_405
# Compared with when there is no such key, so that a wrong id takes as long as a wrong secret.
_NOBODY = ("00" * 16, hashlib.sha256(b"nobody").hexdigest())


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key without its secret."""

    id: str
    tenant: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def issue_key(
    session: Session, tenant_name: str = "default", name: str = "key", lifetime: timedelta | None = None
) -> str:
    """Make a key of the tenant, which is made too if need be. The only time the key is seen in clear."""
    id = "".join(secrets.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(12))
    secret = _base62(int.from_bytes(secrets.token_bytes(32)), 43)
    salt = secrets.token_hex(16)
    session.add(
        APIKey(
            id=id,
            tenant_id=tenant(session, tenant_name),
            name=name,
            salt=salt,
            secret_hash=_hash(salt, secret),
            expires_at=None if lifetime is None else func.now() + lifetime,
        )
    )
    session.flush()
    return _with_checksum(f"bsh_{id}_{secret}")


# The command line calls it by what its subcommand is called.
create_key = issue_key


def tenant(session: Session, name: str) -> str:
    """The id of the tenant of this name, made if need be."""
    session.execute(
        text("INSERT INTO tenants (id, name) VALUES (:id, :name) ON CONFLICT (name) DO NOTHING"),
        {"id": new_id("ten_"), "name": name},
    )
    return session.scalars(select(Tenant.id).where(Tenant.name == name)).one()


def verify(session: Session, key: str, now: datetime) -> str | None:
    """The tenant a key belongs to; None when it is malformed, unknown, revoked or expired."""
    match = _KEY.match(key)
    if match is None or not hmac.compare_digest(_with_checksum(key[:-6]), key):
        return None
    row = session.execute(
        select(
            APIKey.tenant_id, APIKey.salt, APIKey.secret_hash, APIKey.expires_at, APIKey.revoked_at, APIKey.last_used_at
        ).where(APIKey.id == match[1])
    ).one_or_none()
    salt, expected = (row.salt, row.secret_hash) if row else _NOBODY
    is_right = hmac.compare_digest(_hash(salt, match[2]), expected)
    if row is None or not is_right or row.revoked_at is not None or (row.expires_at and row.expires_at <= now):
        return None
    if row.last_used_at is None or now - row.last_used_at >= _TOUCH:
        _touch(session, match[1], now)
    return str(row.tenant_id)


def _touch(session: Session, key_id: str, now: datetime) -> None:
    unused = or_(APIKey.last_used_at.is_(None), APIKey.last_used_at <= now - _TOUCH)
    session.execute(update(APIKey).where(APIKey.id == key_id, unused).values(last_used_at=now))


def list_keys(session: Session, tenant_name: str | None = None) -> list[KeyInfo]:
    """Keys of one tenant or of all, oldest first; revoked ones too."""
    key = APIKey
    query = select(
        key.id, Tenant.name, key.name, key.created_at, key.expires_at, key.revoked_at, key.last_used_at
    ).join(Tenant, Tenant.id == key.tenant_id)
    if tenant_name is not None:
        query = query.where(Tenant.name == tenant_name)
    return [KeyInfo(*row) for row in session.execute(query.order_by(key.created_at, key.id))]


def revoke_key(session: Session, key_id: str) -> None:
    """End a key at once; it accepts the id or the whole key. Revoking twice changes nothing."""
    match = _KEY.match(key_id)
    id = match[1] if match else key_id
    query = (
        update(APIKey)
        .where(APIKey.id == id)
        .values(revoked_at=func.coalesce(APIKey.revoked_at, func.now()))
        .returning(APIKey.id)
    )
    if "\0" in id or session.scalar(query) is None:
        raise NotFound("API key", id)


def first_key(session: Session) -> str | None:
    """A new key if there has never been any, else None."""
    session.execute(select(func.pg_advisory_xact_lock(_FIRST_KEY_LOCK)))
    if session.scalar(select(APIKey.id).limit(1)) is not None:
        return None
    return issue_key(session, name="first key")


def _hash(salt: str, secret: str) -> str:
    # The secret has 256 random bits: there is nothing to guess that a slow hash would make slower.
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()


def _with_checksum(text: str) -> str:
    return text + _base62(zlib.crc32(text.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits.rjust(width, "0")


def main(words: list[str]) -> int:
    """`python -m db.keys --first` prints a new key if there is none at all, else nothing."""
    if words != ["--first"]:
        sys.stderr.write("usage: python -m db.keys --first\n")
        return 2
    try:
        engine = connect(Settings.from_environment().database_url, pool=2, application="bushel-keys")
        with sessions(engine).begin() as session:
            key = first_key(session)
        engine.dispose()
    except LedgerError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    if key is not None:
        sys.stdout.write(f"{key}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
