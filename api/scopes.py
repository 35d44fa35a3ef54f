"""Which scope each route needs. One that is not here opens to `admin` alone, and fails the tests."""

from collections.abc import Iterator

from flask import Flask

from db.keys import Scope

# Everything else needs a key, also what is added later and forgets to say so.
PUBLIC = frozenset(
    {"health.healthz", "health.readyz", "openapi_document", "docs", "ui.sign_in", "ui.sign_out", "ui.static"}
)
# Shown to whoever is signed in, whatever the key may do: there is nothing of anybody in them.
PAGES = frozenset({"ui.job", "ui.jobs", "ui.keys", "ui.models", "ui.new", "ui.webhooks", "ui.workers"})

_READ = (
    "batches.index",
    "batches.show",
    "cache.show",
    "comparison.compare",
    "estimates.show",
    "events.of_all",
    "events.of_job",
    "files.content",
    "files.index",
    "files.show",
    "jobs.audit",
    "jobs.index",
    "jobs.show",
    "message_batches.index",
    "message_batches.read_results",
    "message_batches.show",
    # Sends a text to be counted, and makes nothing.
    "messages.count_tokens",
    "models.index",
    "models.show",
    "quota.show",
    "results.read",
    "statistics.show",
    "usage.show",
    "webhooks.deliveries_index",
    "webhooks.index",
    "webhooks.show",
    "workers.index",
    "workers.queues_index",
)
_SUBMIT = (
    "batches.cancel",
    "batches.create",
    "cache.clear",
    "children.clone",
    "children.retry",
    "endpoints.chat",
    "endpoints.completions",
    "endpoints.embeddings",
    "endpoints.summaries",
    "endpoints.translations",
    "files.delete",
    "files.upload",
    "jobs.cancel",
    "jobs.create",
    "jobs.delete",
    "jobs.pause",
    "jobs.resume",
    "message_batches.cancel",
    "message_batches.create",
    "message_batches.delete",
    "messages.create",
    "uploads.add_part",
    "uploads.cancel",
    "uploads.complete",
    "uploads.create",
    "webhooks.create",
    "webhooks.delete",
    "webhooks.redeliver",
    "webhooks.rotate",
    "webhooks.test",
    "webhooks.update",
)
_ADMIN = ("audit_log.index", "keys.create", "keys.index", "keys.revoke", "keys.rotate", "keys.show", "metrics.show")

SCOPES: dict[str, Scope] = {
    endpoint: scope
    for scope, endpoints in ((Scope.READ, _READ), (Scope.SUBMIT, _SUBMIT), (Scope.ADMIN, _ADMIN))
    for endpoint in endpoints
}


def needed(endpoint: str | None) -> Scope:
    """What a request to the endpoint needs."""
    return SCOPES.get(endpoint or "", Scope.ADMIN)


def guarded(app: Flask) -> Iterator[tuple[str, str, Scope]]:
    """Every method and rule of the app that needs a key, with the scope that it needs."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint not in PUBLIC | PAGES:
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                yield method, rule.rule, needed(rule.endpoint)
