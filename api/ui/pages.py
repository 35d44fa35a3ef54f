"""The dashboard's pages: empty frames that fill themselves over the API, as whoever is signed in.

There is nothing of a tenant in them but the names in the corner; what a page shows, its script asks for with the
browser's sign-in, and the API decides.
"""

from functools import partial
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, g, redirect, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from api.errors import Unauthorized, answered
from api.services import identity, services
from api.ui import assets, doors
from api.ui.doors import sign_in_address
from api.wire import encoded
from db.keys import Scope
from db.models import APIKey, Tenant
from db.states import JobStatus
from models.spec import Task

# endpoint -> path, title, and the name in the navigation where it is there
PAGES = {
    "jobs": ("/", "Jobs", "Jobs"),
    "job": ("/jobs/<job_id>", "Job", None),
    "new": ("/new", "New job", "New job"),
    "models": ("/models", "Models", "Models"),
    "workers": ("/workers", "Workers and queues", "Workers"),
    "keys": ("/keys", "Keys", "Keys"),
    "webhooks": ("/webhooks", "Webhooks", "Webhooks"),
}

# As people read them.
_STATUSES = [(status.value, "running" if status is JobStatus.IN_PROGRESS else status.value) for status in JobStatus]


def blueprint() -> Blueprint:
    bp = Blueprint("ui", __name__, template_folder="templates")
    for endpoint, (path, _, _) in PAGES.items():
        bp.add_url_rule(path, endpoint, partial(_page, endpoint))
    bp.add_url_rule("/sign-in", "sign_in", doors.sign_in, methods=["GET", "POST"])
    bp.add_url_rule("/sign-out", "sign_out", doors.sign_out, methods=["POST"])
    bp.add_url_rule("/static/<hash>/<path:name>", "static", assets.serve)
    bp.register_error_handler(Exception, _refused)
    bp.app_template_global("static")(assets.address)
    return bp


def install(app: Flask) -> None:
    """Before keys are asked for: whoever wants no page is led to the documentation, as there is nobody to sign in."""
    app.before_request(_lead_programs)


def _lead_programs() -> ResponseReturnValue | None:
    if request.endpoint == "ui.jobs" and not _wants_page():
        return redirect("/docs", 302)
    return None


def _wants_page() -> bool:
    """Browsers name HTML; `*/*` is what programs send that do not care."""
    return any(type == "text/html" for type, _ in request.accept_mimetypes)


def _page(endpoint: str, **parts: str) -> str:
    _, title, _ = PAGES[endpoint]
    choices = {"statuses": _STATUSES, "tasks": [task.value for task in Task]}
    return render_template(f"ui/{endpoint}.html", title=title, **choices, **_frame(f"ui.{endpoint}"), **parts)


def _frame(endpoint: str) -> dict[str, Any]:
    """What every page of somebody who is signed in has around it."""
    links = [(path, name, f"ui.{each}" == endpoint) for each, (path, _, name) in PAGES.items() if name]
    scopes = " ".join(scope.value for scope in Scope if scope in identity().scopes)
    with services().sessions() as session:
        names = session.execute(
            select(Tenant.name.label("tenant"), APIKey.name.label("key"))
            .join(APIKey, APIKey.tenant_id == Tenant.id)
            .where(APIKey.id == identity().key_id)
        ).one()
    is_new_here = "new" in PAGES and Scope.SUBMIT in identity().scopes
    return {
        "links": links,
        "scopes": scopes,
        "tenant": names.tenant,
        "key_name": names.key,
        "has_new": is_new_here,
    }


def _refused(exc: Exception) -> ResponseReturnValue:
    """An error as a page; who is not signed in is led to where one can."""
    if isinstance(exc, Unauthorized):
        return _to_the_door()
    response = answered(lambda status, content: content, exc)
    error = msgspec.json.decode(response.get_data())["error"]
    if request.endpoint == "ui.static":
        response.set_data(encoded({"error": error}))
        return response
    frame = _frame("") if "identity" in g and response.status_code < 500 else {}
    response.set_data(render_template("ui/error.html", title="That did not work", error=error, **frame))
    response.content_type = "text/html; charset=utf-8"
    return response


def _to_the_door() -> ResponseReturnValue:
    path = request.full_path.rstrip("?")
    # A link on a foreign page brings no cookie of ours along; coming once more, from here, does.
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.method == "GET":
        return Response(render_template("ui/arriving.html", path=path))
    return redirect(sign_in_address(path), 303)
