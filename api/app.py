"""The API: HTTP in, rows out. The only module here that knows all the others."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from api import (
    audit_log,
    auth,
    cache,
    children,
    comparison,
    docs,
    document,
    errors,
    estimates,
    events,
    files,
    headers,
    health,
    jobs,
    keys,
    metrics,
    models,
    observing,
    quota,
    results,
    scopes,
    statistics,
    tracing,
    usage,
    webhooks,
    workers,
)
from api.anthropic import answers, messages
from api.anthropic import batches as message_batches
from api.config import APISettings
from api.hub import Hub
from api.limits import RequestRates
from api.openai import batches, endpoints, uploads
from api.requests import BushelRequest
from api.services import EXTENSION, Services, asking_tenant
from api.transfers import Transfers, places
from api.ui import pages
from api.validation import refuse
from api.waiting import Seats, seats
from db.admission import Admission
from db.disk import Disks
from db.doorbell import CeleryDoorbell, Doorbell, broker
from db.notices import Listener
from db.ringing import BackgroundDoorbell
from db.session import confined, connect, sessions
from db.store import open_store
from models.catalog import Catalog
from telemetry import logs, traces

# A publish is tried in a thread of its own; these keep that thread from hanging in a dead socket.
_PUBLISH_TIMEOUTS = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}


class BushelAPI(OpenAPI):
    request_class = BushelRequest

    def close(self) -> None:
        """Send waiting requests away and give the database connections back; for programs that outlive their app."""
        service = self.extensions[EXTENSION]
        service.hub.stop()
        service.listener.stop()
        service.rates.close()
        service.sessions.kw["bind"].dispose()


def create_app(settings: APISettings | None = None, doorbell: Doorbell | None = None) -> BushelAPI:
    """The WSGI application. Without arguments it reads its environment; ConfigError names what is missing."""
    if settings is None:
        settings = APISettings.from_environment()
        # Only where nobody has set up logging; a test or an embedding program has its own.
        logs.set_up(logs.LogFormat(settings.log_format), settings.log_level, settings.passwords)
        traces.set_up("bushel-api", settings.tracing)
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
    metrics.install(app.extensions, app.extensions[EXTENSION])
    observing.install(app)
    pages.install(app)
    auth.install(app)
    # After the key is known: who has none must not take a place.
    app.extensions[EXTENSION].transfers.install(app)
    errors.install(app, answers.reshaped)
    headers.install(app)
    app.after_request(tracing.stamp)
    app.after_request(answers.stamp)
    shared = (files, jobs, children, results, comparison, webhooks, models, keys, quota, audit_log, health, metrics)
    seen = (events, statistics, usage, cache, estimates, workers)
    for module in (*shared, *seen, uploads, batches, endpoints, messages, message_batches):
        app.register_api(module.bp)
    app.register_blueprint(docs.blueprint(_document_of(app)))
    app.register_blueprint(pages.blueprint())
    return app


def _services(settings: APISettings, doorbell: Doorbell | None) -> Services:
    waiting = seats(settings.sync_requests, settings.api_threads)
    store = open_store(settings.file_store)
    engine = connect(settings.database_url, settings.database_pool, "bushel-api")
    listener, catalog = Listener(settings.database_url), Catalog(settings.registry_files)
    return Services(
        settings=settings,
        admission=Admission(settings.max_queued_tokens),
        disks=Disks(store, settings.data),
        listener=listener,
        hub=Hub(settings.database_url, listener, catalog, settings.max_streams, settings.upload_idle_seconds),
        seats=Seats(waiting),
        transfers=Transfers(places(settings.max_transfers, settings.api_threads, waiting)),
        sessions=confined(engine, asking_tenant),
        keyring=sessions(engine),
        rates=RequestRates(settings.broker_url),
        store=store,
        doorbell=doorbell or BackgroundDoorbell(_celery_doorbell(settings.broker_url)),
        catalog=catalog,
    )


def _celery_doorbell(broker_url: str) -> CeleryDoorbell:
    app = broker(broker_url, "bushel-api")
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, **_PUBLISH_TIMEOUTS}
    return CeleryDoorbell(app)


def _document_of(app: BushelAPI) -> Any:
    made: dict[str, Any] = {}

    def document_once() -> dict[str, Any]:
        if not made:
            made.update(document.finished(app.api_doc, scopes.guarded(app)))
        return made

    return document_once


def _version() -> str:
    try:
        return version("bushel")
    except PackageNotFoundError:
        return "0"
