"""New model folders are whole or not there, and are not made twice."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from training.errors import AlreadyMade, CannotMake
from training.making.artifact import making


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def make(
    source: Path, out: Path, settings: Mapping[str, object], is_again: bool = False, content: bytes = b"new"
) -> None:
    with making(source, out, "halve", settings, is_again) as made:
        (made.folder / "model.safetensors").write_bytes(content)


def test_the_same_again_is_done_already(source: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", {"sizes": (1, 2)}
    make(source, out, settings)

    with pytest.raises(AlreadyMade, match="--again"):
        make(source, out, settings, content=b"other")
    assert (out / "model.safetensors").read_bytes() == b"new"

    make(source, out, settings, is_again=True, content=b"other")
    assert (out / "model.safetensors").read_bytes() == b"other"
    assert json.loads((out / "record.json").read_text())["operation"] == "halve"


@pytest.mark.parametrize("is_again", [False, True])
def test_a_folder_of_something_else_is_never_replaced(source: Path, tmp_path: Path, is_again: bool) -> None:
    out = tmp_path / "out"
    make(source, out, {"size": 1})

    with pytest.raises(CannotMake, match="is something else"):
        make(source, out, {"size": 2}, is_again)
    (source / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(CannotMake, match="is something else"):
        make(source, out, {"size": 1}, is_again)

    assert (out / "model.safetensors").read_bytes() == b"new"


def test_an_interrupted_one_leaves_nothing_and_takes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(source, out, {})

    with pytest.raises(KeyboardInterrupt), making(source, out, "halve", {}, is_again=True) as made:
        (made.folder / "half").write_bytes(b"")
        raise KeyboardInterrupt

    assert (out / "model.safetensors").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_what_a_killed_one_left_is_cleared_away(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "left").touch()

    make(source, tmp_path / "out", {})

    assert not (tmp_path / "out" / "left").exists()
    assert not (tmp_path / "out.unfinished").exists()
