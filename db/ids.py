"""Names for rows that leave the service: prefixed, sortable by time, unguessable."""

import secrets
import time

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """`job_` + 9 characters of time (milliseconds, base 36) + 16 random ones (82 bits).

    Time first keeps the primary-key index append-mostly; the random part makes ids unguessable.
    """
    stamp, text = time.time_ns() // 1_000_000, ""
    while stamp:
        stamp, digit = divmod(stamp, 36)
        text = _ALPHABET[digit] + text
    return prefix + text.rjust(9, "0") + "".join(secrets.choice(_ALPHABET) for _ in range(16))


def renamed(id: str, prefix: str) -> str:
    """The id that the same row has under another name.

    >>> renamed("job_0mgcxk2l9", "batch_")
    'batch_0mgcxk2l9'
    """
    return prefix + id.split("_", 1)[1]
