"""Browsers that somebody signed in with a key: a random secret in a cookie, of which only a hash is kept.

A sign-in is tied to the secret of the key that it was made with, and ends when that ends: after its hours, with the
key, and when a rotation's grace is over.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db import keys
from db.keys import Identity
from db.models import SignIn

LIFETIME = timedelta(hours=12)
# Of one key; the oldest end. More are a script that should send its key.
MOST = 50
_SECRET = re.compile(r"([0-9a-z]{12})_([0-9A-Za-z_-]{43})\Z")


def begin(session: Session, key: str, now: datetime) -> tuple[Identity, str] | None:
    """Sign a browser in: who asks, and the secret for its cookie, seen here only. None if the key opens nothing."""
    opened = keys.unlock(session, key, now)
    if opened is None:
        return None
    key_id, random = opened.identity.key_id, secrets.token_urlsafe(32)
    _make_room(session, key_id, now)
    row = SignIn(
        secret_hash=_hash(opened.secret_hash, random), key_id=key_id, created_at=now, expires_at=now + LIFETIME
    )
    session.add(row)
    session.flush()
    return opened.identity, f"{key_id}_{random}"


def verify(session: Session, secret: str, now: datetime) -> Identity | None:
    """Who a cookie says is asking; None when it is malformed, unknown, signed out or over, or its key opens nothing."""
    opened = unlock(session, secret, now)
    return None if opened is None else opened.identity


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A cookie that opens, and the stored hashes of its key's secret and of its own."""

    identity: Identity
    key_hash: str
    secret_hash: str


def unlock(session: Session, secret: str, now: datetime) -> SignedIn | None:
    """`verify`, with what tells this sign-in from others of its key."""
    match = _SECRET.match(secret)
    if match is None:
        return None
    known = session.scalars(select(SignIn.secret_hash).where(SignIn.key_id == match[1], SignIn.expires_at > now)).all()
    if not known:
        return None
    # The hashes are of 256 random bits: how long comparing them takes tells nothing that could be used.
    opened = keys.holder(session, match[1], lambda key_hash: _hash(key_hash, match[2]) in known, now)
    if opened is None:
        return None
    return SignedIn(opened.identity, opened.secret_hash, _hash(opened.secret_hash, match[2]))


def end(session: Session, secret: str, now: datetime) -> Identity | None:
    """Sign a browser out: whose it was. What is over already, or never was, is no error."""
    opened = unlock(session, secret, now)
    if opened is None:
        return None
    session.execute(delete(SignIn).where(SignIn.secret_hash == opened.secret_hash))
    return opened.identity


def _make_room(session: Session, key_id: str, now: datetime) -> None:
    session.execute(delete(SignIn).where(SignIn.expires_at <= now))
    kept = select(SignIn.secret_hash).where(SignIn.key_id == key_id).order_by(SignIn.created_at.desc()).limit(MOST - 1)
    session.execute(delete(SignIn).where(SignIn.key_id == key_id, SignIn.secret_hash.not_in(kept)))


def _hash(key_hash: str, random: str) -> str:
    return hashlib.sha256(f"{key_hash} {random}".encode()).hexdigest()
