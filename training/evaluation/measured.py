"""One model's figures as they come in, kept on disk, so that an evaluation that was cut short goes on where it was.

What is kept holds for one model, one set of inputs, one way of decoding and one machine: all of that goes into a key,
and figures with another key are not taken up.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.spec import EngineKind, ModelSpec
from training.evaluation.perplexity import Perplexity
from training.evaluation.plan import Plan, processor
from training.evaluation.trial import Loaded, Round, TrialFailed
from training.provenance import versions
from workers.engines.base import EngineError
from workers.engines.files import find_files

# To be raised when the same model would be measured in another way.
FORMAT = 1
PACKAGES = ("ctranslate2", "torch", "transformers", "sacrebleu", "rouge-score", "numpy", "matplotlib")
# What an entry says to people, or to the choice of a model.
UNMEASURED = ("description", "license", "default", "family", "tier", "name")


@dataclass(frozen=True, slots=True)
class Probed:
    """Answers to the bias probe whose digest this is; `nats` are empty unless the model is causal."""

    digest: str
    outputs: list[str] = field(repr=False)
    nats: list[float] = field(repr=False)


@dataclass(slots=True)
class Measured:
    """What is known of one model so far. `is_resumed`: some of it was found by an earlier run."""

    loaded: Loaded | None = None
    rounds: list[Round] = field(default_factory=list)
    peak_bytes: int = 0
    perplexity: Perplexity | None = None
    baseline: Perplexity | None = None
    probed: Probed | None = None
    is_resumed: bool = False

    @property
    def outputs(self) -> list[str]:
        return self.rounds[0].outputs


class Shelf:
    """A folder with a file for each model. Every method raises OSError if the disk will not."""

    def __init__(self, folder: Path, plan: Plan, is_empty: bool = False) -> None:
        """With `is_empty`, what is there counts for nothing, and is written over.

        TrialFailed if a model's files, which are part of its key, are not there.
        """
        self._folder, self._is_empty = folder, is_empty
        self._keys = {spec.name: _key(plan, spec, params) for spec, params in zip(plan.specs, plan.params, strict=True)}
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> Measured:
        """What is kept of the model; nothing yet, if that was measured otherwise."""
        path = self._path(name)
        if self._is_empty or not path.is_file():
            return Measured()
        said = json.loads(path.read_text("utf-8"))
        return _measured(said["measured"]) if said["key"] == self._keys[name] else Measured()

    def put(self, name: str, measured: Measured) -> None:
        """Written whole or not at all."""
        path = self._path(name)
        content = {"key": self._keys[name], "measured": asdict(measured)}
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
        os.replace(unfinished, path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _key(plan: Plan, spec: ModelSpec, params: Mapping[str, object]) -> str:
    said = {key: value for key, value in asdict(spec).items() if key not in UNMEASURED}
    parts = {
        "format": FORMAT,
        "spec": said,
        "files": _hashes(spec, plan.cache),
        "params": dict(params),
        "items": [(item.source, item.references) for item in plan.items],
        "counted": [(item.source, item.references) for item in plan.counted],
        "device": plan.device,
        "machine": processor(),
        "versions": versions(PACKAGES),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _hashes(spec: ModelSpec, cache: Path) -> list[str]:
    if spec.engine is EngineKind.ECHO:
        return []
    try:
        files = find_files(spec, cache)
    except EngineError as exc:
        raise TrialFailed(spec.name, str(exc).removeprefix(f"model {spec.name}: ")) from exc
    return [files.weights_hash, files.tokenizer_hash, files.config_hash]


def _measured(said: Mapping[str, Any]) -> Measured:
    loaded, perplexity, baseline, probed = (said[key] for key in ("loaded", "perplexity", "baseline", "probed"))
    return Measured(
        loaded=Loaded(**loaded) if loaded else None,
        rounds=[Round(**each) for each in said["rounds"]],
        peak_bytes=said["peak_bytes"],
        perplexity=Perplexity(**perplexity) if perplexity else None,
        baseline=Perplexity(**baseline) if baseline else None,
        probed=Probed(**probed) if probed else None,
        is_resumed=bool(said["rounds"]),
    )
