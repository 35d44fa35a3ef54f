"""Nothing that a process leaves behind gives a secret away: not its log, not its memory after a crash."""

import logging
import re
import resource
from collections.abc import Iterable

HIDDEN = "***"
# A shorter one would be found in the middle of words; safeguards are for those.
_SHORTEST = 6
_IN_URLS = re.compile(r"(\w://[^\s:/@\"']*):[^\s/@\"']+@")
# Keys of the API and secrets of webhooks, by the words they begin with.
_ISSUED = re.compile(r"\b((?:bsh|whsec)_)[A-Za-z0-9+/=_]{16,}")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the passwords of URLs, without keys that we issued, and without `secrets`.

    >>> redacted("cannot reach redis://bushel:hunter2@10.0.0.1:6379/0")
    'cannot reach redis://bushel:***@10.0.0.1:6379/0'
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _ISSUED.sub(rf"\1{HIDDEN}", _IN_URLS.sub(rf"\1:{HIDDEN}@", text))


class Discreet(logging.Formatter):
    """Another formatter's lines, tracebacks included, with secrets taken out.

    A second wall: no line of ours says a secret, but drivers quote what they were given in ways that change with
    their versions.
    """

    def __init__(self, inner: logging.Formatter | None, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self.secrets = tuple(secret for secret in secrets if len(secret) >= _SHORTEST)

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._inner.format(record), self.secrets)


def leave_no_core() -> None:
    """No core file of this process or its children: it would hold texts, keys and passwords."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
