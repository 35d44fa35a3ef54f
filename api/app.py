"""The API: HTTP in, rows out. The only module here that knows all the others."""

import logging
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flask import Response, request
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from api import (
    auth,
    children,
    comparison,
    docs,
    document,
    errors,
    files,
    health,
    jobs,
    models,
    results,
    tracing,
    webhooks,
)
from api.anthropic import answers, messages
from api.anthropic import batches as message_batches
from api.config import APISettings
from api.openai import batches, endpoints, uploads
from api.requests import BushelRequest
from api.services import EXTENSION, Services
from api.validation import refuse
from api.waiting import Seats, seats
from db.doorbell import CeleryDoorbell, Doorbell, broker
from db.notices import Listener
from db.ringing import BackgroundDoorbell
from db.session import connect, sessions
from db.store import open_store
from models.catalog import Catalog

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# A publish is tried in a thread of its own; these keep that thread from hanging in a dead socket.
_PUBLISH_TIMEOUTS = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}


class BushelAPI(OpenAPI):
    request_class = BushelRequest

    def close(self) -> None:
        """Send waiting requests away and give the database connections back; for programs that outlive their app."""
        service = self.extensions[EXTENSION]
        service.listener.stop()
        service.sessions.kw["bind"].dispose()


def create_app(settings: APISettings | None = None, doorbell: Doorbell | None = None) -> BushelAPI:
    """The WSGI application. Without arguments it reads its environment; ConfigError names what is missing."""
    if settings is None:
        settings = APISettings.from_environment()
        # Only where nobody has set up logging; a test or an embedding program has its own.
        logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)
    app = BushelAPI(
        __name__,
        info=Info(title="Bushel", version=_version(), description=document.DESCRIPTION),
        security_schemes=document.SECURITY_SCHEMES,
        validation_error_status=400,
        validation_error_model=errors.ErrorBody,
        validation_error_callback=refuse,
        doc_ui=False,
        static_folder=None,
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.url_map.strict_slashes = False
    app.extensions[EXTENSION] = _services(settings, doorbell)
    app.before_request(tracing.begin)
    app.before_request(lambda: _limit_silence(settings.upload_idle_seconds))
    auth.install(app)
    errors.install(app, answers.reshaped)
    app.after_request(tracing.stamp)
    app.after_request(answers.stamp)
    shared = (files, jobs, children, results, comparison, webhooks, models, health)
    for module in (*shared, uploads, batches, endpoints, messages, message_batches):
        app.register_api(module.bp)
    app.register_blueprint(docs.blueprint(_document_of(app)))
    return app


def _services(settings: APISettings, doorbell: Doorbell | None) -> Services:
    return Services(
        settings=settings,
        listener=Listener(settings.database_url),
        seats=Seats(seats(settings.sync_requests, settings.api_threads)),
        sessions=sessions(connect(settings.database_url, settings.database_pool, "bushel-api")),
        store=open_store(settings.file_store),
        doorbell=doorbell or BackgroundDoorbell(_celery_doorbell(settings.broker_url)),
        catalog=Catalog(settings.registry_files),
    )


def _celery_doorbell(broker_url: str) -> CeleryDoorbell:
    app = broker(broker_url, "bushel-api")
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, **_PUBLISH_TIMEOUTS}
    return CeleryDoorbell(app)


def _document_of(app: BushelAPI) -> Any:
    made: dict[str, Any] = {}

    def document_once() -> dict[str, Any]:
        if not made:
            made.update(document.finished(app.api_doc))
        return made

    return document_once


def _limit_silence(seconds: float) -> Response | None:
    """Cut off a client that stops sending or reading; the server itself would let it hold a thread for ever."""
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        connection.settimeout(seconds)
    return None


def _version() -> str:
    try:
        return version("bushel")
    except PackageNotFoundError:
        return "0"
