"""Which of the broker's messages are rings. Everything else is dropped unread, and no message can end a worker.

Celery itself trusts whoever writes to the broker: a body that is no JSON, a header of the wrong type or an entry that
is no message at all raises inside its event loop, which ends the process (and the next one, that takes the message up
again).
"""

import json
import logging
from collections.abc import Callable, Collection
from typing import Any

from celery.worker.consumer import Consumer

logger = logging.getLogger(__name__)

# The longest that we send is a task's name and an id or a model's name.
LARGEST_BODY = 4_096
_EMPTY: tuple[object, ...] = (None, [], {}, "", 0)


def is_ring(headers: object, body: object, content_type: object, tasks: Collection[str]) -> bool:
    """Whether a message is what `db.doorbell` sends: a task of ours, as JSON, with one word or none, to be run now.

    >>> is_ring({"task": "bushel.ingest"}, b'[["job_1"], {}, {"chord": null}]', "application/json", ["bushel.ingest"])
    True
    """
    if content_type != "application/json" or not isinstance(headers, dict) or headers.get("task") not in tasks:
        return False
    if not all(headers.get(name) in _EMPTY for name in ("eta", "expires", "retries", "group")):
        return False
    if not isinstance(body, str | bytes) or len(body) > LARGEST_BODY:
        return False
    try:
        match json.loads(body):
            case [list(words), dict(named), dict(more)]:
                is_word = len(words) <= 1 and all(isinstance(word, str) for word in words)
                return is_word and not named and all(value in _EMPTY for value in more.values())
    except (ValueError, RecursionError):
        return False
    return False


class RingConsumer(Consumer):
    """Celery's consumer, behind a check of what it gets and a net under what it does with it."""

    loop: Callable[..., None]

    def __init__(self, *words: Any, worker_options: dict[str, Any] | None = None, **named: Any) -> None:
        # However it was started: talk among workers is published to all of them, which our user may not do, and tells
        # nothing that the ledger does not.
        quiet = {"without_heartbeat": True, "without_gossip": True, "without_mingle": True}
        super().__init__(*words, worker_options={**(worker_options or {}), **quiet}, **named)
        self.loop = self._caught(self.loop)

    def create_task_handler(self, *words: Any, **named: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*words, **named)
        ours = frozenset(name for name in self.app.tasks if name.startswith("bushel."))

        def take(message: Any) -> None:
            if not is_ring(message.headers, message.body, message.content_type, ours):
                self._drop(message, None)
                return
            try:
                handle(message)
            except self.connection_errors:
                raise
            except Exception as exc:
                # The edge of the broker: whatever headers we did not think of must not end the worker.
                self._drop(message, exc)

        return take

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Instead of Celery's, which writes what the message says into the log."""
        self._drop(message, exc)

    def _drop(self, message: Any, exc: Exception | None) -> None:
        reason = "" if exc is None else f" ({type(exc).__name__})"
        logger.warning("a message that is no ring was dropped%s", reason, extra={"action": "message_dropped"})
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)

    def _caught(self, loop: Callable[..., None]) -> Callable[..., None]:
        """What is no message at all fails while it is read: then the worker connects anew and reads the next."""

        def run(*words: Any) -> None:
            try:
                loop(*words)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as exc:
                logger.error("the broker delivered what is no message", exc_info=exc, extra={"action": "no_message"})
                raise ConnectionResetError("the broker delivered what is no message") from exc

        return run
