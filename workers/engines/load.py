"""Opens a registered model with the runtime it asks for; the only place that knows all runtimes."""

import fnmatch
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from models.params import NUMBERS, copies
from models.spec import EngineKind, ModelSpec, Task
from workers.engines.base import Engine, EngineError, ModelUnavailable, Params
from workers.engines.files import find_files

# Weights only as safetensors; the rest is what configs and tokenizers consist of.
WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.spm",
    "*.model",
    "*.txt",
    "*.jinja",
    "LICENSE*",
    "README.md",
)
LAYER = re.compile(r"\d+_\w+/config\.json")
_FLOATS = frozenset(name for name, rule in NUMBERS.items() if not rule.is_int)


def open_engine(spec: ModelSpec, cache: Path, device: str | None = None, *, recalibrate: bool = False) -> Engine:
    """Load the model: seconds to minutes. `device` is `cpu`, `cuda`, `cuda:N`, or None for the best there is.

    The first time on a machine includes conversion and calibration, where the engine has them; `recalibrate` measures
    again. `cache` is the folder for converted and downloaded models.

    Needs no network: a hub model must have been pulled. Every reason not to load is a ModelUnavailable.
    """
    if spec.engine is EngineKind.ECHO:
        from workers.engines.echo import open_echo

        return open_echo(spec, device)
    files = find_files(spec, cache)
    try:
        if spec.engine is EngineKind.CTRANSLATE2:
            from workers.engines.ctranslate2 import open_ctranslate2

            return open_ctranslate2(spec, files, cache, device, recalibrate)
        if spec.task is Task.EMBEDDING:
            from workers.engines.encoder import open_encoder

            return open_encoder(spec, files, device)
        from workers.engines.transformers import open_transformers

        return open_transformers(spec, files, device)
    except ImportError as exc:
        raise ModelUnavailable(
            f"model {spec.name}: the {spec.engine} engine is not installed here ({exc}); pip install 'bushel[worker]'"
        ) from exc


def pull(spec: ModelSpec, cache: Path) -> Path:
    """Download a hub model at its revision into Bushel's cache; the folder it is in. A local one is just looked at."""
    if isinstance(spec.source, Path):
        return spec.source if spec.engine is EngineKind.ECHO else find_files(spec, cache).folder
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as exc:
        raise ModelUnavailable(f"downloading needs huggingface-hub ({exc}); pip install 'bushel[worker]'") from exc
    # The root of the errors of whichever HTTP library this version of the hub's client is built on.
    unreachable = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        names = HfApi().list_repo_files(spec.source, revision=spec.revision)
        if not any(name.endswith(".safetensors") and "/" not in name for name in names):
            raise ModelUnavailable(
                f"model {spec.name}: {spec.source} at {spec.revision} has no safetensors weights, and Bushel loads no "
                "others, since they can run code when they are opened. Its discussions page may have a revision "
                "(refs/pr/N) with model.safetensors"
            )
        folder = snapshot_download(
            spec.source,
            revision=spec.revision,
            cache_dir=cache / "hub",
            allow_patterns=[glob.escape(name) for name in names if is_wanted(name)],
        )
    except (unreachable, HFValidationError, OSError) as exc:
        raise ModelUnavailable(f"model {spec.name}: {spec.source} cannot be downloaded: {exc}") from exc
    return Path(folder)


def is_wanted(name: str) -> bool:
    """Whether a file of a repository is downloaded.

    Folders hold other formats (onnx/, original/) of the same weights; or what sentence-transformers says of its layers.
    """
    if "/" in name:
        return LAYER.fullmatch(name) is not None
    return any(fnmatch.fnmatch(name, pattern) for pattern in WANTED)


def decoding_params(clean: Mapping[str, Any]) -> Params:
    """The checked parameters of a job (the dict of `models.params.check`, or its JSON) as engines take them.

    An engine is asked for `n` outputs of a search alone. Of what is sampled it is handed every copy as a prompt of its
    own, told apart by `Encoded.choice`.
    """
    values: dict[str, Any] = dict(clean)
    if copies(clean) > 1:
        del values["n"]
    values["stop"] = tuple(values.get("stop", ()))
    # 1 is as good as 1.0 in JSON, but not to transformers.
    values.update({name: float(values[name]) for name in _FLOATS & values.keys()})
    return Params(**values)


__all__ = ["Engine", "EngineError", "decoding_params", "open_engine", "pull"]
