"""Which scope each route needs. One that is not here opens to `admin` alone, and fails the tests."""

from collections.abc import Iterator

from flask import Flask

from db.keys import Scope

# Everything else needs a key, also what is added later and forgets to say so.
PUBLIC = frozenset({"health.healthz", "health.readyz", "openapi_document", "docs", "home"})

_READ = (
    "batches.index",
    "batches.show",
    "comparison.compare",
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
    "webhooks.deliveries_index",
    "webhooks.index",
    "webhooks.show",
)
_SUBMIT = (
    "batches.cancel",
    "batches.create",
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
_ADMIN = ("audit_log.index", "keys.create", "keys.index", "keys.revoke", "keys.rotate", "keys.show")

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
        if rule.endpoint not in PUBLIC:
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                yield method, rule.rule, needed(rule.endpoint)
