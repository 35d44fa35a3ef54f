"""Provenance of results, stored once per distinct content."""

import hashlib
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session


def recipe_id(session: Session, recipe: dict[str, Any]) -> int:
    """The id of this content, inserting it when it is new. Safe for concurrent callers."""
    body = msgspec.json.encode(recipe, order="deterministic")
    digest = hashlib.sha256(body).hexdigest()
    found = session.execute(text("SELECT id FROM recipes WHERE digest = :digest"), {"digest": digest}).scalar()
    if found is None:
        # DO UPDATE instead of DO NOTHING, because only an updated row is returned.
        found = session.execute(
            text("""
                INSERT INTO recipes (digest, recipe) VALUES (:digest, CAST(:recipe AS jsonb))
                ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING id
            """),
            {"digest": digest, "recipe": body.decode()},
        ).scalar_one()
    return int(found)
