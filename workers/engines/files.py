"""The files of a model on this machine: where they are, what they say, what they hash to."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from models.snapshots import snapshot
from models.spec import ModelSpec
from workers.engines.base import ModelUnavailable

# Formats that are unpickled, or belong to other frameworks. Loading a pickle runs whatever code is in it.
UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot")
TOKENIZER = (
    "*.spm",
    "*.model",
    "*.jinja",
    "vocab*",
    "merges.txt",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class ModelFiles:
    """A folder in the layout of Hugging Face, with safetensors weights."""

    folder: Path
    revision: str
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    weights: tuple[Path, ...]

    @cached_property
    def weights_hash(self) -> str:
        return _digest(self.weights)

    @cached_property
    def tokenizer_hash(self) -> str:
        return _digest({path for pattern in TOKENIZER for path in self.folder.glob(pattern)})

    @cached_property
    def config_hash(self) -> str:
        return _digest(path for path in self.folder.glob("*config.json"))

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.config.get("is_encoder_decoder", False))

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id setting, which may be one, several or none; generation_config goes before config."""
        value = self.generation.get(key)
        if value is None:
            value = self.config.get(key)
        if value is None:
            return ()
        return tuple(value) if isinstance(value, list) else (value,)


def find_files(spec: ModelSpec, cache: Path) -> ModelFiles:
    """The model's files, without asking the network; ModelUnavailable says what is missing and what to do."""
    folder = snapshot(spec, cache)
    if folder is None:
        raise ModelUnavailable(_missing(spec))
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"model {spec.name}: {folder} has no config.json, so it is not a model's folder")
    return ModelFiles(
        folder=folder,
        # A hub snapshot's folder is named by its commit, also when the registry says `main`.
        revision="local" if spec.is_local else folder.name,
        config=_json(spec, folder / "config.json"),
        generation=_json(spec, folder / "generation_config.json"),
        weights=_weights(spec, folder),
    )


def load_weights(model_class: Any, folder: Path, unused: str = "final_logits_bias", **options: Any) -> Any:
    """A transformers model with the folder's safetensors. Refuses a folder that lacks some of the model's weights.

    transformers would make those up at random and go on, with no more than a line in the log. Tensors whose names
    begin with `unused` may be missing. A bias that was never trained is left out of many checkpoints; the models
    begin it as zeros, which is right.
    """
    model, loaded = model_class.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(unused))
    if missing:
        raise ValueError(f"the weights lack {len(missing)} of the model's tensors, {missing[0]} among them")
    return model


def _missing(spec: ModelSpec) -> str:
    if not isinstance(spec.source, Path):
        advice = f"run `bushel models pull {spec.name}`"
        return f"model {spec.name}: {spec.source} at {spec.revision} is not on this machine; {advice}"
    what = "has no config.json" if spec.source.is_dir() else "does not exist"
    return f"model {spec.name}: the folder {spec.source} {what}; correct `source` in its registry entry"


def _json(spec: ModelSpec, path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnavailable(f"model {spec.name}: {path} cannot be read: {exc}") from exc
    if not isinstance(content, dict):
        raise ModelUnavailable(f"model {spec.name}: {path} must hold a JSON object")
    return content


def _weights(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = _json(spec, index).get("weight_map", {})
        weights = tuple(sorted({folder / str(name) for name in mapping.values()}))
        absent = [path.name for path in weights if not path.is_file()]
        if absent or not weights:
            raise ModelUnavailable(f"model {spec.name}: {folder} lacks {', '.join(absent) or 'weights'}")
        return weights
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    unsafe = sorted(path.name for pattern in UNSAFE for path in folder.glob(pattern))
    if unsafe:
        raise ModelUnavailable(
            f"model {spec.name}: {folder} has its weights in {unsafe[0]}. Bushel loads safetensors only, since other "
            "formats can run code when they are opened; choose a revision with model.safetensors, or convert the file"
        )
    raise ModelUnavailable(f"model {spec.name}: {folder} has no model.safetensors")


def _digest(paths: Iterable[Path]) -> str:
    """One SHA-256 over names and contents."""
    total = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
            total.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()
