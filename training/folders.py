"""A model folder of any Hugging Face architecture, opened to be changed, and written again as a new one."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from models.registry import BUILTIN, RegistryError, load
from models.snapshots import snapshot
from training.errors import BadSettings, NoSuchModel
from workers.engines.files import load_weights
from workers.engines.quiet import quietly

# Written anew, or not true of the new model.
NOT_COPIED = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack"),
    *("config.json", "generation_config.json", "README.md", "record.json", "report.json", "vmap.txt"),
    *("recipe.py", "heldout.tsv"),
)


def model_folder(said: str, home: Path | None = None) -> Path:
    """A folder, or that of a registered model; `home` is Bushel's data folder, where the user's own models.toml and
    downloaded models are. NoSuchModel if there is neither.
    """
    if (Path(said) / "config.json").is_file():
        return Path(said)
    files = [BUILTIN] if home is None else [BUILTIN, home / "models.toml"]
    try:
        found = {spec.name: spec for spec in load(files).all()}.get(said)
    except RegistryError as exc:
        raise BadSettings(str(exc)) from exc
    folder = snapshot(found, home / "models" if home is not None else Path()) if found else None
    if folder is None:
        raise NoSuchModel(said, f"; `bushel models pull {said}` brings it here" if found else "")
    return folder


def open_model(folder: Path) -> Any:
    """The model in single precision, in evaluation mode."""
    with quietly():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return load_weights(kind, folder, dtype=torch.float32).eval()


def open_tokenizer(folder: Path) -> Any:
    with quietly():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def write_model(model: Any, template: Path, folder: Path) -> None:
    """The model in half precision, with the tokenizer's and other files of the folder it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    with quietly():
        # A copy of the whole, so that what is tied stays tied and is written once.
        copy.deepcopy(model).half().save_pretrained(folder)
    copy_others(template, folder)


def copy_others(source: Path, folder: Path) -> None:
    """What neither was written already nor belongs to the old model alone: the tokenizer's files, above all."""
    for path in source.iterdir():
        is_stale = any(path.match(pattern) for pattern in NOT_COPIED)
        if path.is_file() and not is_stale and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
