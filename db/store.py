"""Where the bytes of files live: a local folder, or anything fsspec speaks.

    StoreError
    └── StoreFull     there is no room for these bytes; nothing of them is kept

A key that is not there raises FileNotFoundError, as everywhere in Python.
"""

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import fsspec

from db.errors import ConfigError, LedgerError

logger = logging.getLogger(__name__)

# Keys are made by the server alone; the pattern is the second line that keeps a path inside the store.
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,3}\Z")
_UNFINISHED = ".unfinished"


class StoreError(LedgerError):
    """Root of what the store raises on purpose."""


class StoreFull(StoreError):
    """The store has no room left."""

    def __init__(self, free: int | None = None) -> None:
        left = "" if free is None else f" ({free:,} bytes are free)"
        super().__init__(f"the file store is full{left}; nothing was stored")
        self.free = free


class Writer:
    """Bytes on their way into the store, counted and hashed. Nobody sees them before the writer's block has ended."""

    def __init__(self, key: str, sink: BinaryIO) -> None:
        self.key, self._sink = key, sink
        self.bytes = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._sink.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """Hexadecimal, of what was written so far."""
        return self._digest.hexdigest()


class FileStore(ABC):
    """Immutable blobs by key. Durable once the writer's block has ended without an exception."""

    @contextmanager
    def writer(self, key: str) -> Iterator[Writer]:
        """Write `key` whole or not at all: an exception in the block leaves nothing behind."""
        key, unfinished = _checked(key), f"{_UNFINISHED}/{secrets.token_hex(16)}"
        try:
            sink = self._create(unfinished)
            try:
                writer = Writer(key, sink)
                yield writer
                self._publish(sink, unfinished, key)
            except BaseException:
                self._discard(sink, unfinished)
                raise
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(self.free_bytes()) from exc
            raise

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """For reading, seekable. FileNotFoundError when the key is not there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the bytes; nothing happens when they are gone already. Raises OSError, or what the backend raises."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """The file itself where the store is a folder of this machine, else None."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Room left, or None where that has no meaning."""

    @abstractmethod
    def check(self) -> None:
        """Raise OSError, or what the backend raises, when nothing can be written."""

    def remove_unfinished(self, older_than_seconds: float) -> int:
        """Delete what writers killed in the middle left behind; the count of it."""
        return self.remove_old(_UNFINISHED, older_than_seconds)

    @abstractmethod
    def remove_old(self, folder: str, older_than_seconds: float) -> int:
        """Delete what stands directly in the folder for so long; the count of it. What cannot be deleted is logged."""

    @abstractmethod
    def old_keys(self, folder: str, older_than_seconds: float) -> Iterator[str]:
        """What stands directly in the folder for so long."""

    @abstractmethod
    def _create(self, name: str) -> BinaryIO: ...

    @abstractmethod
    def _publish(self, sink: BinaryIO, name: str, key: str) -> None: ...

    @abstractmethod
    def _discard(self, sink: BinaryIO, name: str) -> None: ...


class FolderStore(FileStore):
    """A folder: temporary file, fsync, rename, fsync of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, key: str) -> BinaryIO:
        return (self._folder / _checked(key)).open("rb")

    def delete(self, key: str) -> None:
        (self._folder / _checked(key)).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._folder / _checked(key)

    def free_bytes(self) -> int | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free

    def check(self) -> None:
        name = f"{_UNFINISHED}/{secrets.token_hex(16)}"
        self._discard(self._create(name), name)

    def remove_old(self, folder: str, older_than_seconds: float) -> int:
        limit, gone = time.time() - older_than_seconds, 0
        for path in (self._folder / folder).glob("*"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    gone += 1
            except FileNotFoundError:
                # Its writer ended between the listing and now.
                continue
            except OSError as exc:
                _say_stuck(str(path), exc)
        return gone

    def old_keys(self, folder: str, older_than_seconds: float) -> Iterator[str]:
        limit = time.time() - older_than_seconds
        for path in (self._folder / folder).glob("*"):
            try:
                is_old = path.stat().st_mtime < limit
            except FileNotFoundError:
                continue
            if is_old:
                yield f"{folder}/{path.name}"

    def _create(self, name: str) -> BinaryIO:
        path = self._folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cast("BinaryIO", path.open("xb"))

    def _publish(self, sink: BinaryIO, name: str, key: str) -> None:
        path = self._folder / key
        sink.flush()
        os.fsync(sink.fileno())
        sink.close()
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / name).replace(path)
        # A new folder is durable only once the folder it stands in is.
        for folder in {path.parent, *(made.parent for made in missing)}:
            _sync_folder(folder)

    def _discard(self, sink: BinaryIO, name: str) -> None:
        try:
            # Closing flushes, which fails again on a full disk.
            sink.close()
        finally:
            (self._folder / name).unlink(missing_ok=True)


class RemoteStore(FileStore):
    """Any fsspec backend: written beside under a name of its own, then moved."""

    def __init__(self, system: Any, root: str) -> None:
        self._system, self._root = system, root.rstrip("/")

    def open(self, key: str) -> BinaryIO:
        return cast("BinaryIO", self._system.open(self._path(_checked(key)), "rb"))

    def delete(self, key: str) -> None:
        try:
            self._system.rm_file(self._path(_checked(key)))
        except FileNotFoundError:
            return

    def local_path(self, key: str) -> Path | None:
        return None

    def free_bytes(self) -> int | None:
        return None

    def check(self) -> None:
        name = f"{_UNFINISHED}/{secrets.token_hex(16)}"
        with self._create(name) as sink:
            sink.write(b"bushel")
        self._system.rm_file(self._path(name))

    def remove_old(self, folder: str, older_than_seconds: float) -> int:
        limit, gone = time.time() - older_than_seconds, 0
        if not self._system.exists(self._path(folder)):
            return 0
        for path in self._system.ls(self._path(folder), detail=False):
            try:
                if self._system.modified(path).timestamp() < limit:
                    self._system.rm_file(path)
                    gone += 1
            except FileNotFoundError:
                continue
            except Exception as exc:
                # Every backend has errors of its own.
                _say_stuck(path, exc)
        return gone

    def old_keys(self, folder: str, older_than_seconds: float) -> Iterator[str]:
        limit = time.time() - older_than_seconds
        if not self._system.exists(self._path(folder)):
            return
        for path in self._system.ls(self._path(folder), detail=False):
            if self._system.modified(path).timestamp() < limit:
                yield f"{folder}/{path.rpartition('/')[2]}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _create(self, name: str) -> BinaryIO:
        # Object stores have no folders and make none; the others need them.
        self._system.makedirs(self._path(_UNFINISHED), exist_ok=True)
        return cast("BinaryIO", self._system.open(self._path(name), "wb"))

    def _publish(self, sink: BinaryIO, name: str, key: str) -> None:
        sink.close()
        path = self._path(key)
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._system.mv(self._path(name), path)

    def _discard(self, sink: BinaryIO, name: str) -> None:
        try:
            abort = getattr(sink, "discard", None)
            if abort is not None:
                abort()
            # An aborted upload must not be completed by closing it; fsspec's files close quietly once marked.
            if not sink.closed:
                sink.close()
        finally:
            if self._system.exists(self._path(name)):
                self._system.rm_file(self._path(name))


def open_store(url: str) -> FileStore:
    """The store at an fsspec URL (`file:///folder`, `s3://bucket/prefix`); ConfigError if it cannot be used."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file", "local"):
        return FolderStore(Path(unquote(parts.path)).absolute())
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as exc:
        raise ConfigError(f"BUSHEL_STORE_URL: {exc}") from exc
    return RemoteStore(system, root)


def _checked(key: str) -> str:
    if not _KEY.match(key):
        raise ValueError(f"not a store key: {key!r}")
    return key


def _say_stuck(path: str, exc: Exception) -> None:
    logger.warning("%s cannot be deleted, the others are: %s", path, exc, extra={"action": "leftover_stuck"})


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
