"""A model folder made from another one: written whole or not at all, with a record of what was done."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from training.errors import AlreadyMade, CannotMake
from training.folders import copy_others
from training.provenance import file_digest, versions, write_json
from workers.engines.quiet import quietly

PACKAGES = ("torch", "transformers", "ctranslate2", "sentencepiece", "tokenizers", "torchao")


class Making:
    """The new folder while it is being filled. `record` gathers what record.json will say."""

    def __init__(self, source: Path, folder: Path, record: dict[str, Any]) -> None:
        self.source, self.folder, self.record = source, folder, record

    def save(self, model: Any) -> None:
        """The weights, in the precision the source has them, and every other file of the source that stays true."""
        self.record["parameters"] = parameters(model)
        with quietly():
            model.to(_dtype(self.source)).save_pretrained(self.folder)
        self.copy_others()

    def copy_others(self) -> None:
        copy_others(self.source, self.folder)


@contextmanager
def making(
    source: Path, out: Path, operation: str, settings: Mapping[str, object], is_again: bool = False
) -> Iterator[Making]:
    """A new folder at `out`, there only once the block has ended well; record.json says what was done.

    A folder that is there already is refused, as it may be somebody's only copy: with AlreadyMade if it was made of
    the same weights by the same settings, unless `is_again`, which makes it anew; else with CannotMake.
    """
    if out.exists():
        if not _is_made(source, out, operation, settings):
            raise CannotMake(f"{out} exists already, and is something else; name another folder, or remove it")
        if not is_again:
            raise AlreadyMade(out)
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    begun = time.monotonic()
    record: dict[str, Any] = {
        "operation": operation,
        "settings": dict(settings),
        "source": {"folder": source.name, "weights": digest(source), "bytes": weight_bytes(source)},
    }
    try:
        yield Making(source, unfinished, record)
        record["result"] = {"weights": digest(unfinished), "bytes": weight_bytes(unfinished)}
        record["versions"] = versions(PACKAGES)
        record["seconds"] = round(time.monotonic() - begun, 2)
        write_json(unfinished / "record.json", record)
        # The old one is there until the new one is whole.
        shutil.rmtree(out, ignore_errors=True)
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_made(source: Path, out: Path, operation: str, settings: Mapping[str, object]) -> bool:
    path = out / "record.json"
    if not path.is_file():
        return False
    record = json.loads(path.read_text("utf-8"))
    # As it would be read back: a tuple is a list there.
    wanted = json.loads(json.dumps([operation, dict(settings), digest(source)]))
    found = [record.get("operation"), record.get("settings"), record.get("source", {}).get("weights")]
    return bool(found == wanted)


def rebuilt(model: Any, config: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """A model of the same class with another config; `weights` are all of its own, tied ones under both names."""
    made = type(model)(config).eval()
    made.load_state_dict(weights)
    made.tie_weights()
    made.generation_config = model.generation_config
    return made


def parameters(model: Any) -> int:
    """How many there are, tied ones counted once."""
    return sum(each.numel() for each in model.parameters())


def digest(folder: Path) -> str:
    """One SHA-256 over the weight files."""
    total = hashlib.sha256()
    for path in _weights(folder):
        total.update(file_digest(path).encode())
    return total.hexdigest()


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _weights(folder))


def _weights(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("model.bin")])


def _dtype(folder: Path) -> torch.dtype:
    said = json.loads((folder / "config.json").read_text("utf-8"))
    found = getattr(torch, str(said.get("dtype") or said.get("torch_dtype") or "float32"), None)
    return found if isinstance(found, torch.dtype) else torch.float32
