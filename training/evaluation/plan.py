"""What an evaluation measures, and how.

All of it is checked before any model is loaded:

    TrainingError
    └── BadRequest   the evaluation cannot be done as asked
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.params import check
from models.spec import ModelSpec
from scoring.bootstrap import SAMPLES, SEED
from scoring.tokenizers import tokenizer_for
from training.errors import TrainingError
from training.evaluation.probe import CannotProbe, Probe, probe
from training.evaluation.references import Item
from workers.engines.load import decoding_params

CACHE = Path.home() / ".cache" / "bushel"


class BadRequest(TrainingError):
    """The evaluation cannot be done as asked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how. `twins` names for a model the one whose outputs its own are held against.

    `params` are those of each model, as `models.params.check` leaves them. `probes` are empty, or one for each model.
    """

    specs: Sequence[ModelSpec]
    params: Sequence[Mapping[str, object]]
    items: Sequence[Item]
    twins: Mapping[str, str]
    baseline: str
    rounds: int = 3
    samples: int = SAMPLES
    seed: int = SEED
    tokenizer: str = "13a"
    cache: Path = CACHE
    device: str | None = None
    has_perplexity: bool = True
    counted: Sequence[Item] = ()
    probes: Sequence[Probe] = ()
    examples: int = 10
    # Looked at before the work begins: its own load would hide that of others.
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def machine(self) -> str:
        return f"{processor()}, load {self.load:.1f}"


def plan(
    specs: Sequence[ModelSpec],
    items: Sequence[Item],
    *,
    params: Mapping[str, object] | None = None,
    twins: Sequence[str] = (),
    baseline: str | None = None,
    rounds: int = 3,
    samples: int = SAMPLES,
    tokenizer: str | None = None,
    cache: Path = CACHE,
    device: str | None = None,
    has_perplexity: bool = True,
    counted: Sequence[Item] = (),
    has_bias: bool = False,
    examples: int = 10,
) -> Plan:
    """The plan, or BadRequest for what cannot be: parameters a model lacks, a twin that is not compared."""
    names = [spec.name for spec in specs]
    if not names:
        raise BadRequest("no models are named")
    if rounds < 1 or samples < 40:
        raise BadRequest("there must be a round at least, and 40 resamples")
    if examples < 0:
        raise BadRequest("there cannot be fewer than 0 examples")
    if baseline is not None and baseline not in names:
        raise BadRequest(f"baseline {baseline!r} is not among the models: {', '.join(names)}")
    checked = [_checked(spec, params or {}) for spec in specs]
    return Plan(
        specs=specs,
        params=checked,
        items=items,
        twins=_twins(twins, names),
        baseline=baseline or names[0],
        rounds=rounds,
        samples=samples,
        tokenizer=_tokenizer(tokenizer, specs, checked),
        cache=cache,
        device=device,
        has_perplexity=has_perplexity,
        counted=counted,
        probes=[_probe(spec, clean) for spec, clean in zip(specs, checked, strict=True)] if has_bias else (),
        examples=examples,
    )


def spelled(words: Sequence[str]) -> dict[str, object]:
    """Parameters as a command line has them, `NAME=VALUE`; a value is JSON, or a text as it is.

    >>> spelled(["num_beams=4", "target_lang=de"])
    {'num_beams': 4, 'target_lang': 'de'}
    """
    found: dict[str, object] = {}
    for word in words:
        name, is_given, value = word.partition("=")
        if not is_given:
            raise BadRequest(f"--param {word}: must be NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def processor() -> str:
    """What speed is measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {count} CPUs"


def _checked(spec: ModelSpec, raw: Mapping[str, object]) -> Mapping[str, object]:
    clean, problems = check(raw, spec)
    if problems:
        raise BadRequest("\n".join(f"model {spec.name}: {problem}" for problem in problems))
    return clean


def _tokenizer(asked: str | None, specs: Sequence[ModelSpec], params: Sequence[Mapping[str, object]]) -> str:
    """The one that is asked for, else that of the language the outputs are in, as for the scores of a job."""
    if asked is None:
        targets = (
            {str(clean["target_lang"])} if clean.get("target_lang") else set(spec.target_languages)
            for spec, clean in zip(specs, params, strict=True)
        )
        return tokenizer_for(sorted(set().union(*targets)))
    from sacrebleu.metrics.bleu import BLEU

    if asked not in BLEU.TOKENIZERS:
        raise BadRequest(f"{asked!r} is none of sacreBLEU's tokenizers: {', '.join(BLEU.TOKENIZERS)}")
    return asked


def _probe(spec: ModelSpec, clean: Mapping[str, object]) -> Probe:
    try:
        return probe(spec, decoding_params(clean))
    except CannotProbe as exc:
        raise BadRequest(f"{exc}; leave the bias probe out") from exc


def _twins(words: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """`TWIN` for all others, `MODEL=TWIN` for one."""
    found: dict[str, str] = {}
    for word in sorted(words, key=lambda each: "=" in each):
        model, is_one, twin = word.partition("=") if "=" in word else ("", "", word)
        for name in (model, twin) if is_one else (twin,):
            if name not in names:
                raise BadRequest(f"--twin {word}: {name!r} is not among the models: {', '.join(names)}")
        found |= {name: twin for name in ([model] if is_one else names) if name != twin}
    return found
