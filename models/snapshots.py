"""Where a model's files are on this machine, if they are."""

import os
from pathlib import Path

from models.spec import EngineKind, ModelSpec


def available(spec: ModelSpec, cache: Path) -> bool:
    """Whether the model can be loaded without the network."""
    return spec.engine is EngineKind.ECHO or snapshot(spec, cache) is not None


def snapshot(spec: ModelSpec, cache: Path) -> Path | None:
    """The local folder with the model's files, or None. Never asks the network.

    Looks for hub ids in Bushel's own cache and then in the user's Hugging Face cache.
    """
    if isinstance(spec.source, Path):
        return spec.source if (spec.source / "config.json").is_file() else None
    revision = spec.revision or "main"
    for hub in (cache / "hub", _hub_cache()):
        repository = hub / f"models--{spec.source.replace('/', '--')}"
        reference = repository / "refs" / revision
        commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
        folder = repository / "snapshots" / commit
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    return None


def _hub_cache() -> Path:
    """Where Hugging Face's own tools keep models; their variables, read as they read them."""
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{base}/huggingface")).expanduser() / "hub"
