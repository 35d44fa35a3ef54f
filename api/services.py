"""What request handlers work with, made once per process by `create_app`."""

from dataclasses import dataclass
from typing import cast

from flask import current_app, g

from api.config import APISettings
from api.waiting import Seats
from db.doorbell import Doorbell
from db.notices import Listener
from db.session import Sessions
from db.store import FileStore
from models.catalog import Catalog

EXTENSION = "bushel"


@dataclass(frozen=True, slots=True)
class Services:
    settings: APISettings
    sessions: Sessions
    store: FileStore
    doorbell: Doorbell
    catalog: Catalog
    listener: Listener
    seats: Seats


def services() -> Services:
    return cast("Services", current_app.extensions[EXTENSION])


def tenant_id() -> str:
    """Whose request this is: from the key, never from anything else in it."""
    return cast("str", g.tenant_id)
