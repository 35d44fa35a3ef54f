"""What a result was made of, as records have it: hashes of files, and versions of what worked on them."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def file_digest(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Python's, and those of the packages; None for one that is not installed."""
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


def write_json(path: Path, content: object) -> None:
    """Whole or not at all: a tool may be killed at any time, and a record is read again."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")
    os.replace(unfinished, path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
