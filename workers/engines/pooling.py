"""How a folder of sentence-transformers makes one vector of many; other folders say nothing, and get the mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.spec import ModelSpec
from workers.engines.base import ModelUnavailable

# The names of both generations of the format, for what Bushel can do: the mean of all tokens, or the first token.
MODES: Mapping[str, str] = {
    "pooling_mode_mean_tokens": "mean",
    "mean": "mean",
    "pooling_mode_cls_token": "cls",
    "cls": "cls",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """`mode` is mean or cls; `max_tokens` is the length the model's author cuts texts at, if told."""

    mode: str = "mean"
    max_tokens: int | None = None
    lowers_case: bool = False


def find_pooling(spec: ModelSpec, folder: Path) -> Pooling:
    """What the folder asks for; ModelUnavailable if it is more than pooling and normalization."""
    about = _object(_json(spec, folder / "sentence_bert_config.json"))
    limit = about.get("max_seq_length")
    return Pooling(_mode(spec, folder), limit if isinstance(limit, int) else None, bool(about.get("do_lower_case")))


def _mode(spec: ModelSpec, folder: Path) -> str:
    modules = _json(spec, folder / "modules.json")
    mode = "mean"
    for module in map(_object, modules if isinstance(modules, list) else []):
        kind = str(module.get("type")).rpartition(".")[2]
        if kind == "Pooling":
            mode = _pooling_mode(spec, folder / str(module.get("path")) / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise ModelUnavailable(
                f"model {spec.name} has a {kind} layer after its encoder, which Bushel cannot run; choose a model that"
                " only pools (modules.json lists the layers)"
            )
    return mode


def _pooling_mode(spec: ModelSpec, path: Path) -> str:
    settings = _object(_json(spec, path))
    if not settings:
        advice = "copy it from the model's page" if spec.is_local else f"run `bushel models pull {spec.name}`"
        raise ModelUnavailable(f"model {spec.name}: {path} is missing, which says how to pool; {advice}")
    switches = [key for key, is_on in settings.items() if key.startswith("pooling_mode_") and is_on is True]
    modes = [str(settings["pooling_mode"])] if "pooling_mode" in settings else switches
    if len(modes) != 1 or modes[0] not in MODES:
        raise ModelUnavailable(
            f"model {spec.name} pools by {' and '.join(modes) or 'nothing'}; Bushel can take the mean of all tokens or"
            " the first one (cls)"
        )
    if spec.prefix and settings.get("include_prompt") is False:
        raise ModelUnavailable(f"model {spec.name} leaves prompts out of its vectors, Bushel does not; drop its prefix")
    return MODES[modes[0]]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(spec: ModelSpec, path: Path) -> Any:
    """The file's content; None where there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnavailable(f"model {spec.name}: {path} cannot be read: {exc}") from exc
