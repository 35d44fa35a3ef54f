"""What a process refuses to start with, because it leaves a door open. Pure: a URL or an address in, a reason out."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

# Passwords of documents, examples and images. Whoever finds one of them set has found nobody's password.
PLACEHOLDERS = frozenset(
    [
        "123456",
        "admin",
        "bushel",
        "change-me",
        "change_me",
        "changeme",
        "default",
        "example",
        "guest",
        "letmein",
        "pass",
        "passwd",
        "password",
        "postgres",
        "redis",
        "root",
        "secret",
        "test",
        "todo",
        "valkey",
    ]
)


def password_problem(url: str) -> str | None:
    """Why the URL's password is none: it is a placeholder, or the user's name again."""
    for password in passwords(url):
        word = password.lower().strip("<>{}[]$ ")
        if word in PLACEHOLDERS or set(word) == {"x"}:
            return "its password is a placeholder; choose one, for example: openssl rand -hex 24"
        if password == unquote(urlsplit(url).username or ""):
            return "its password is the user's name; choose another, for example: openssl rand -hex 24"
    return None


def broker_problem(url: str) -> str | None:
    """Why others than we could use the broker: it is reached over a network, and asks for no password."""
    parts = urlsplit(url)
    if parts.scheme == "redis+socket" or is_loopback(parts.hostname or "127.0.0.1") or any(passwords(url)):
        return None
    return (
        f"it is on {parts.hostname} and has no password; give it one (redis://user:password@host/0), or set "
        "BUSHEL_ALLOW_INSECURE_BROKER=true where nobody else can reach it"
    )


def listening_problem(host: str) -> str | None:
    """Why the API must not listen on `host` without more ado: keys would travel in the clear."""
    if is_loopback(host):
        return None
    return (
        f"{host} can be reached from other machines, and without TLS they would send their keys in the clear; listen "
        "on 127.0.0.1 behind a proxy with TLS, or set BUSHEL_ALLOW_PLAIN_HTTP=true where the network is yours"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it.

    >>> [is_loopback(host) for host in ("localhost", "127.8.8.8", "::1", "0.0.0.0", "", "10.0.0.1", "valkey")]
    [True, True, True, False, False, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def passwords(url: str) -> Iterator[str]:
    """Those in a URL, wherever drivers look for them."""
    parts = urlsplit(url)
    if parts.password:
        yield unquote(parts.password)
    yield from parse_qs(parts.query).get("password", [])
