"""Style sheet, scripts and pictures of the dashboard, kept in memory under the hash of them all.

With the hash in their path, what imports what stays together, and a browser may keep all of it for a year.
"""

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

from flask import Response, request
from werkzeug.exceptions import NotFound

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
_FOR_EVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"


@cache
def assets() -> MappingProxyType[str, bytes]:
    """Name -> bytes of everything under `static`; nothing else can be asked for."""
    return MappingProxyType(dict(sorted(_walked(files("api.ui") / "static", ""))))


@cache
def digest() -> str:
    """Changes when any of them does."""
    hash = hashlib.sha256()
    for name, content in assets().items():
        hash.update(f"{name} {len(content)}\n".encode() + content)
    return hash.hexdigest()[:16]


def address(name: str) -> str:
    """Where a page finds one of them.

    >>> address("style.css").endswith("/style.css"), address("nothing.js")
    Traceback (most recent call last):
    KeyError: 'nothing.js'
    """
    assets()[name]
    return f"/static/{digest()}/{name}"


def serve(hash: str, name: str) -> Response:
    """What was asked for, or 404. Under the hash of another version it is this one's, and not kept."""
    content = assets().get(name)
    if content is None:
        raise NotFound
    response = Response(content, content_type=TYPES[name[name.rindex(".") :]])
    response.headers["Cache-Control"] = _FOR_EVER if hash == digest() else _ASK_AGAIN
    response.set_etag(hashlib.sha256(content).hexdigest()[:32])
    response.make_conditional(request)
    return response


def _walked(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for each in folder.iterdir():
        if each.is_dir():
            found += _walked(each, f"{prefix}{each.name}/")
        elif each.name[each.name.rfind(".") :] in TYPES:
            found.append((f"{prefix}{each.name}", each.read_bytes()))
    return found
