"""What a browser that was signed in sends along by itself, and whether a page of ours told it to."""

from urllib.parse import urlsplit

from flask import request

# Pages of other origins cannot set it without asking first, and nobody answers them.
HEADER = "x-bushel-ui"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def cookie_name() -> str:
    """Over TLS one that neither another host nor plain HTTP can set."""
    return "__Host-bushel" if request.is_secure else "bushel"


def secret() -> str:
    """The secret of the sign-in that the request carries, or ""."""
    return request.cookies.get(cookie_name(), "")


def is_from_our_page() -> bool:
    """Whether the browser says so: pages can write neither of these headers."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # Over plain HTTP to another machine browsers send no Sec-Fetch-Site. The scheme is the proxy's business.
    return urlsplit(request.headers.get("Origin", "")).netloc.lower() == request.host.lower()


def may_change() -> bool:
    """Whether a request that is known by its cookie alone may do more than look."""
    return request.method in SAFE or (request.headers.get(HEADER) == "1" and is_from_our_page())
