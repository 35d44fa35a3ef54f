"""Loading with transformers, without its progress bars and idle advice."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

# Both settings below belong to the process, so that two threads would restore each other's.
_lock = threading.Lock()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """It shows bars for local files too, and recommends sacremoses, which its tokenizers never use to encode."""
    from transformers.utils import logging

    with _lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        was_shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if was_shown:
                logging.enable_progress_bar()  # type: ignore[no-untyped-call]
