"""What request handlers work with, made once per process by `create_app`."""

from dataclasses import dataclass
from typing import cast

from flask import current_app, g, has_app_context

from api.config import APISettings
from api.hub import Hub
from api.limits import RequestRates
from api.transfers import Transfers
from api.waiting import Seats
from db.admission import Admission
from db.disk import Disks
from db.doorbell import Doorbell
from db.keys import Identity
from db.notices import Listener
from db.session import Sessions
from db.store import FileStore
from models.catalog import Catalog

EXTENSION = "bushel"


@dataclass(frozen=True, slots=True)
class Services:
    """`sessions` see only what is the asking tenant's; `keyring` sees all, and is for finding out who asks."""

    settings: APISettings
    sessions: Sessions
    keyring: Sessions
    rates: RequestRates
    store: FileStore
    doorbell: Doorbell
    catalog: Catalog
    listener: Listener
    hub: Hub
    seats: Seats
    transfers: Transfers
    admission: Admission
    disks: Disks


def services() -> Services:
    return cast("Services", current_app.extensions[EXTENSION])


def asking_tenant() -> str:
    """The tenant whose request is being served, "" where nobody's is: for the wall around `sessions`."""
    return cast("str", g.get("tenant_id", "")) if has_app_context() else ""


def identity() -> Identity:
    """What is known of the key that the request came with."""
    return cast("Identity", g.identity)


def tenant_id() -> str:
    """Whose request this is: from the key, never from anything else in it."""
    return cast("str", g.tenant_id)
