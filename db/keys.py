"""API keys: issued once in clear, kept only as salted hashes, checked in constant time.

A key is `bsh_<id>_<43 random characters><6 characters of CRC-32>`. Prefix and checksum let secret scanners
find a leaked key without asking us, and let us refuse a mistyped one without asking the database.
Rotation gives the same id a new secret; the one before opens beside it for a while.
"""

import hashlib
import hmac
import re
import secrets
import sys
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, or_, select, text, tuple_, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import audit_log
from db.audit_log import OPERATOR, Act, Actor
from db.config import Settings
from db.cursors import Page, UnknownCursor, page
from db.errors import Conflict, LedgerError, NotFound
from db.ids import new_id
from db.models import APIKey, Tenant
from db.outages import outage
from db.session import connect, sessions

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(r"bsh_([0-9a-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})\Z")
_ID = re.compile(r"[0-9a-z]{12}\Z")
_TOUCH = timedelta(minutes=1)
# How long the old secret opens after a rotation, if nothing else is said.
GRACE = timedelta(hours=24)
# Of one tenant, those that still open something. More are a script that forgets to revoke.
MOST_KEYS = 100
# Held while asking whether there is a first key, so that two starting processes do not both make one.
_FIRST_KEY_LOCK = 7_205_759_405
# Compared with when there is no such key, so that a wrong id takes as long as a wrong secret.
_NOBODY = ("00" * 16, hashlib.sha256(b"nobody").hexdigest())


class Scope(StrEnum):
    """What a key is for. None implies another.

    `read`: look at everything but keys and the audit log. `submit`: make, change and delete jobs, files, uploads and
    webhooks. `admin`: keys and the audit log of the tenant.
    """

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)
USUAL_SCOPES = frozenset({Scope.READ, Scope.SUBMIT})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: what a key that opens says of its bearer. `requests_per_second` is the tenant's own quota."""

    key_id: str
    tenant_id: str
    scopes: frozenset[Scope]
    requests_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A key that opens, and the stored hash of the secret by which it did."""

    identity: Identity
    secret_hash: str


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
    scopes: list[str]
    previous_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Issued:
    """A key's row, and the key in clear for the only time that it is seen."""

    row: APIKey
    key: str


def issue_key(
    session: Session,
    tenant_name: str = "default",
    name: str = "key",
    lifetime: timedelta | None = None,
    scopes: Collection[Scope] = ALL_SCOPES,
) -> str:
    """Make a key of the tenant, which is made too if need be. The only time the key is seen in clear."""
    return add_key(session, tenant(session, tenant_name), name, lifetime, scopes, OPERATOR).key


def create_key(
    session: Session,
    tenant_name: str,
    name: str,
    lifetime: timedelta | None = None,
    scopes: Collection[Scope] = USUAL_SCOPES,
) -> str:
    """The same as the command line has it: a key that is given away may not make others unless that is said."""
    return issue_key(session, tenant_name, name, lifetime, scopes)


def add_key(
    session: Session,
    tenant_id: str,
    name: str,
    lifetime: timedelta | None,
    scopes: Collection[Scope],
    by: Actor,
    until: datetime | None = None,
) -> Issued:
    """Make a key, which ends at `until` at the latest. Conflict when there are MOST_KEYS.

    Whether `by` may grant these scopes is the caller's to know.
    """
    # Others that make one wait for the end of this transaction, so that no two of them see room for the same key.
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('keys ' || :id, 0))"), {"id": tenant_id})
    if _open_keys(session, tenant_id) >= MOST_KEYS:
        raise Conflict(f"there are {MOST_KEYS} keys already, the most there may be; revoke some", "too_many_keys")
    id = "".join(secrets.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(12))
    secret, salt = _new_secret(), secrets.token_hex(16)
    ends = [end for end in (None if lifetime is None else func.now() + lifetime, until) if end is not None]
    row = APIKey(
        id=id,
        tenant_id=tenant_id,
        name=name,
        salt=salt,
        secret_hash=_hash(salt, secret),
        scopes=[scope.value for scope in Scope if scope in scopes],
        expires_at=func.least(*ends) if ends else None,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    audit_log.note(session, tenant_id, by, Act.KEY_CREATED, id, name=name, scopes=row.scopes)
    return Issued(row, _with_checksum(f"bsh_{id}_{secret}"))


def _open_keys(session: Session, tenant_id: str) -> int:
    is_open = (APIKey.revoked_at.is_(None), or_(APIKey.expires_at.is_(None), APIKey.expires_at > func.now()))
    return session.scalar(select(func.count()).select_from(APIKey).where(APIKey.tenant_id == tenant_id, *is_open)) or 0


def tenant(session: Session, name: str) -> str:
    """The id of the tenant of this name, made if need be."""
    session.execute(
        text("INSERT INTO tenants (id, name) VALUES (:id, :name) ON CONFLICT (name) DO NOTHING"),
        {"id": new_id("ten_"), "name": name},
    )
    return session.scalars(select(Tenant.id).where(Tenant.name == name)).one()


_IDENTITY = select(
    APIKey.tenant_id,
    APIKey.salt,
    APIKey.secret_hash,
    APIKey.previous_salt,
    APIKey.previous_hash,
    APIKey.previous_expires_at,
    APIKey.scopes,
    APIKey.expires_at,
    APIKey.revoked_at,
    APIKey.last_used_at,
    Tenant.requests_per_second,
).join(Tenant, Tenant.id == APIKey.tenant_id)


def verify(session: Session, key: str, now: datetime) -> Identity | None:
    """Who a key says is asking; None when it is malformed, unknown, replaced, revoked or expired."""
    opened = unlock(session, key, now)
    return None if opened is None else opened.identity


def unlock(session: Session, key: str, now: datetime) -> Opened | None:
    """`verify`, with what tells the key's present secret from the one before it."""
    match = _KEY.match(key)
    if match is None or not hmac.compare_digest(_with_checksum(key[:-6]), key):
        return None
    row = session.execute(_IDENTITY.where(APIKey.id == match[1])).one_or_none()
    hash = _matched(row, match[2], now)
    if hash is None or not _is_open(row, now):
        return None
    return Opened(_identity(session, match[1], row, now), hash)


def holder(session: Session, key_id: str, is_meant: Callable[[str], bool], now: datetime) -> Opened | None:
    """The same of who has no secret, but knows its hash: of the key's open secrets the one whose hash `is_meant`."""
    row = session.execute(_IDENTITY.where(APIKey.id == key_id)).one_or_none()
    known = [] if row is None or not _is_open(row, now) else [hash for _, hash in _secrets_of(row, now)]
    hash = next(filter(is_meant, known), None)
    return None if hash is None else Opened(_identity(session, key_id, row, now), hash)


def _is_open(row: Any, now: datetime) -> bool:
    return row.revoked_at is None and not (row.expires_at and row.expires_at <= now)


def _identity(session: Session, key_id: str, row: Any, now: datetime) -> Identity:
    if row.last_used_at is None or now - row.last_used_at >= _TOUCH:
        _touch(session, key_id, now)
    return Identity(key_id, row.tenant_id, frozenset(map(Scope, row.scopes)), row.requests_per_second)


def _secrets_of(row: Any, now: datetime) -> list[tuple[str, str]]:
    """Salt and hash of the secret, and of the one before while it opens."""
    current, previous = (row.salt, row.secret_hash), (row.previous_salt, row.previous_hash)
    return [current, previous] if row.previous_hash is not None and row.previous_expires_at > now else [current]


def _matched(row: Any, secret: str, now: datetime) -> str | None:
    """The hash of the secret, or of the one before, that it is. Two are compared, whatever there is to compare with."""
    known = [] if row is None else _secrets_of(row, now)
    found = None
    for salt, hash in [*known, _NOBODY, _NOBODY][:2]:
        if hmac.compare_digest(_hash(salt, secret), hash) and (salt, hash) in known:
            found = hash
    return found


def _touch(session: Session, key_id: str, now: datetime) -> None:
    """Note the use, where the database can: one that is full or read-only still tells who asks."""
    unused = or_(APIKey.last_used_at.is_(None), APIKey.last_used_at <= now - _TOUCH)
    try:
        with session.begin_nested():
            session.execute(update(APIKey).where(APIKey.id == key_id, unused).values(last_used_at=now))
    except DBAPIError as exc:
        if exc.connection_invalidated or outage(exc) is None:
            raise


def list_keys(session: Session, tenant_name: str | None = None) -> list[KeyInfo]:
    """Keys of one tenant or of all, oldest first; revoked ones too."""
    key = APIKey
    query = select(
        key.id,
        Tenant.name,
        key.name,
        key.created_at,
        key.expires_at,
        key.revoked_at,
        key.last_used_at,
        key.scopes,
        key.previous_expires_at,
    ).join(Tenant, Tenant.id == key.tenant_id)
    if tenant_name is not None:
        query = query.where(Tenant.name == tenant_name)
    return [KeyInfo(*row) for row in session.execute(query.order_by(key.created_at, key.id))]


def get(session: Session, tenant_id: str | None, key_id: str, *, locked: bool = False) -> APIKey:
    """The key's row by its id or the whole key, or NotFound: unknown and foreign ones look the same.

    `tenant_id` None: of any tenant, for the operator.
    """
    match = _KEY.match(key_id)
    id = match[1] if match else key_id
    query = select(APIKey).where(APIKey.id == id).execution_options(populate_existing=True)
    if tenant_id is not None:
        query = query.where(APIKey.tenant_id == tenant_id)
    row = session.scalar(query.with_for_update() if locked else query) if _ID.match(id) else None
    if row is None:
        raise NotFound("API key", id)
    return row


def listing(session: Session, tenant_id: str, after: str | None, limit: int) -> Page[APIKey]:
    """A part of the tenant's keys, newest first; revoked ones too. Rows of keys never go, so any may be the cursor."""
    query = select(APIKey).where(APIKey.tenant_id == tenant_id)
    if after is not None:
        try:
            last = get(session, tenant_id, after)
        except NotFound as exc:
            raise UnknownCursor(after) from exc
        query = query.where(tuple_(APIKey.created_at, APIKey.id) < tuple_(last.created_at, last.id))
    query = query.order_by(APIKey.created_at.desc(), APIKey.id.desc()).limit(limit + 1)
    return page(session.scalars(query).all(), limit)


def rotate(session: Session, key: APIKey, grace: timedelta, by: Actor) -> Issued:
    """Give a locked key a new secret. The old one opens for `grace`, one that did so from before no more.

    Name, scopes and expiry stay. Conflict for a key that opens nothing: a new one is wanted then.
    """
    now = session.execute(select(func.now())).scalar_one()
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        what = "expired" if key.revoked_at is None else "revoked"
        raise Conflict(f"API key {key.id} is {what}; create a new one", f"key_{what}")
    if grace:
        key.previous_salt, key.previous_hash, key.previous_expires_at = key.salt, key.secret_hash, now + grace
    else:
        key.previous_salt = key.previous_hash = key.previous_expires_at = None
    secret, key.salt = _new_secret(), secrets.token_hex(16)
    key.secret_hash = _hash(key.salt, secret)
    session.flush()
    session.refresh(key)
    seconds = int(grace.total_seconds())
    audit_log.note(session, key.tenant_id, by, Act.KEY_ROTATED, key.id, grace_seconds=seconds)
    return Issued(key, _with_checksum(f"bsh_{key.id}_{secret}"))


def rotate_key(session: Session, key_id: str, grace: timedelta = GRACE) -> str:
    """`rotate` for the operator: the key in clear."""
    return rotate(session, get(session, None, key_id, locked=True), grace, OPERATOR).key


def revoke(session: Session, key: APIKey, by: Actor) -> None:
    """End a locked key at once, also a secret that was replaced and still opens. Revoking twice changes nothing."""
    if key.revoked_at is None:
        key.revoked_at = func.now()
        session.flush()
        session.refresh(key)
        audit_log.note(session, key.tenant_id, by, Act.KEY_REVOKED, key.id)


def revoke_key(session: Session, key_id: str) -> None:
    """`revoke` for the operator; it accepts the id or the whole key."""
    revoke(session, get(session, None, key_id, locked=True), OPERATOR)


def first_key(session: Session) -> str | None:
    """A new key if there has never been any, else None."""
    session.execute(select(func.pg_advisory_xact_lock(_FIRST_KEY_LOCK)))
    if session.scalar(select(APIKey.id).limit(1)) is not None:
        return None
    return issue_key(session, name="first key")


def _new_secret() -> str:
    return _base62(int.from_bytes(secrets.token_bytes(32)), 43)


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
