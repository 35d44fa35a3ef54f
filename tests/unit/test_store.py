"""Bytes in a store: whole or not at all."""

import errno
import hashlib
import os
from pathlib import Path

import fsspec
import pytest

from db.errors import ConfigError
from db.store import FileStore, FolderStore, RemoteStore, StoreFull, open_store


def _remote() -> FileStore:
    system = fsspec.filesystem("memory")
    system.store.clear()
    return RemoteStore(system, "/bucket")


@pytest.fixture(params=["folder", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    return FolderStore(tmp_path / "files") if request.param == "folder" else _remote()


def put(store: FileStore, key: str, data: bytes) -> None:
    with store.writer(key) as writer:
        writer.write(data)


def test_what_was_written_can_be_read_from_any_place(store: FileStore) -> None:
    with store.writer("files/a") as writer:
        writer.write(b"0123")
        writer.write(b"456789")

    assert (writer.bytes, writer.sha256) == (10, hashlib.sha256(b"0123456789").hexdigest())
    with store.open("files/a") as file:
        assert file.read() == b"0123456789"
        file.seek(4)
        assert file.read(2) == b"45"


def test_nothing_is_seen_before_the_end(store: FileStore) -> None:
    with store.writer("files/a") as writer:
        writer.write(b"x")
        with pytest.raises(FileNotFoundError):
            store.open("files/a")
    store.open("files/a").close()


def test_an_exception_leaves_nothing_behind(store: FileStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="client gone"), store.writer("files/a") as writer:
        writer.write(b"x" * 100_000)
        raise RuntimeError("client gone")

    with pytest.raises(FileNotFoundError):
        store.open("files/a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.remove_unfinished(0) == 0


def test_writing_again_replaces_at_once(store: FileStore) -> None:
    put(store, "a", b"old")
    put(store, "a", b"new")

    with store.open("a") as file:
        assert file.read() == b"new"


def test_deleting_twice_is_fine(store: FileStore) -> None:
    put(store, "files/a", b"x")

    store.delete("files/a")
    store.delete("files/a")

    with pytest.raises(FileNotFoundError):
        store.open("files/a")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../../b", "a//b", ".hidden", "a/.b", "a\0", "a b", "ä", ".unfinished/a", "a/"]
)
def test_a_key_cannot_leave_the_store(store: FileStore, key: str) -> None:
    for use in (store.open, store.delete, store.local_path):
        if use == store.local_path and isinstance(store, RemoteStore):
            continue
        with pytest.raises(ValueError, match="not a store key"):
            use(key)
    with pytest.raises(ValueError, match="not a store key"):
        put(store, key, b"x")


def test_a_folder_gives_paths_and_free_space_and_others_do_not(tmp_path: Path) -> None:
    folder, remote = FolderStore(tmp_path / "files"), _remote()
    put(folder, "files/a", b"x")

    path = folder.local_path("files/a")
    assert path is not None and path.read_bytes() == b"x"
    assert (folder.free_bytes() or 0) > 0
    assert (remote.local_path("files/a"), remote.free_bytes()) == (None, None)
    folder.check()
    remote.check()


def test_a_full_disk_is_said_as_such_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "files")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StoreFull, match="full"):
        put(store, "a", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_bytes_and_folders_are_synced_before_the_writer_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def noting(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)

    put(FolderStore(tmp_path / "files"), "inputs/a", b"x")

    assert ".unfinished" in synced[0]
    assert {str(tmp_path / "files" / "inputs"), str(tmp_path / "files")} <= set(synced[1:])


def test_leftovers_of_killed_writers_are_removed_once_old(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "files")
    for name, age in (("old", 5000), ("new", 0)):
        path = tmp_path / "files" / ".unfinished" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (path.stat().st_mtime - age,) * 2)

    assert store.remove_unfinished(3600) == 1
    assert [path.name for path in (tmp_path / "files" / ".unfinished").iterdir()] == ["new"]


def test_urls_choose_the_backend(tmp_path: Path) -> None:
    folder = tmp_path / "with space"

    assert open_store(folder.as_uri()).local_path("a") == folder / "a"
    assert isinstance(open_store("memory://x/y"), RemoteStore)
    with pytest.raises(ConfigError, match="BUSHEL_STORE_URL"):
        open_store("nonsense://x")
