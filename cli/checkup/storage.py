"""Where file bytes are kept: is it there, and can it be written."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cli.checkup.finding import Finding, info, ok, problem
from cli.checkup.folder import room
from cli.checkup.scene import Kind, Scene
from db import secret_files
from db.errors import ConfigError


def store(scene: Scene) -> Iterator[Finding]:
    try:
        url = secret_files.setting("BUSHEL_STORE_URL", scene.environment)
    except ConfigError as exc:
        yield problem(str(exc), "name a file that can be read, or set BUSHEL_STORE_URL")
        return
    parts = urlsplit(url or "")
    if parts.scheme in ("", "file", "local"):
        yield from _folder(scene, Path(unquote(parts.path)).absolute() if url else scene.data / "files")
    else:
        yield from _elsewhere(str(url))


def _folder(scene: Scene, folder: Path) -> Iterator[Finding]:
    if not folder.exists():
        parent = next(each for each in folder.parents if each.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            yield problem(
                f"{folder} is not there, and cannot be made", f"make it, and let Bushel's user write to {parent}"
            )
        elif scene.kind is Kind.STACK:
            yield info(f"{folder} is not there yet; the first start makes it")
        else:
            yield info(f"{folder} is not there yet; the first file makes it")
    elif not folder.is_dir():
        yield problem(f"{folder} is no folder", "move it away, or name another: BUSHEL_STORE_URL=file:///…")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        advice = "change its owner or mode; is the file system mounted read-only"
        yield problem(f"{folder} cannot be written", advice)
    else:
        yield ok(f"{folder} can be written")
        yield from room(scene, folder, "file store")


def _elsewhere(url: str) -> Iterator[Finding]:
    """An object store: what is there is looked at, and nothing is written."""
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as exc:
        yield problem(f"BUSHEL_STORE_URL cannot be used: {exc}", "pip install 'bushel[s3]' for s3://, or correct it")
        return
    try:
        # Backends of fsspec have exceptions of their own, and all of them mean the same here.
        is_there = bool(system.exists(root))
    except Exception as exc:
        yield problem(f"{url} cannot be looked at: {exc}", "is it there, and are its credentials right")
        return
    if is_there:
        yield ok(f"{url} is there")
        yield info("whether it can be written is told by the API: see `store` of /readyz, as the check `api` does")
    else:
        yield info(f"{url} has nothing in it yet", "if files were stored before, the bucket or the prefix is wrong")
