"""The model registry as a running process sees it: read again whenever a registry file changes."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from models.registry import Registry, RegistryError, load

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int] | None, ...]


class Catalog:
    """`bushel models add` writes a file while we run; a request after it must know the new model."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._registry = load(self._files)

    def current(self) -> Registry:
        """The registry of this moment; the last good one while a file is wrong."""
        stamp = self._look()
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._registry = load(self._files)
                except RegistryError as exc:
                    # Failing every request over a slip in an editor helps nobody; workers report it too.
                    logger.error("registry not reloaded: %s", exc, extra={"action": "registry_rejected"})
            return self._registry

    @property
    def changed_at(self) -> int:
        """Unix seconds of the newest file."""
        return max((stamp[0] // 1_000_000_000 for stamp in self._look() if stamp), default=0)

    def _look(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._files)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
