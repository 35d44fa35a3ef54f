"""Measure any set of models on a reference file in one run: quality, speed, size, memory, agreement.

    python -m training.evaluate --models NAME [NAME=FOLDER …] --data FILE --out FOLDER
        [--source KEY] [--reference KEY …] [--parallel FILE …] [--limit N] [--task TASK] [--param NAME=VALUE …]
        [--twin [MODEL=]TWIN …] [--baseline MODEL] [--quality METRIC] [--ngrams FILE] [--no-perplexity]

Models are names of the registry, folders, or either with changes (training.contenders says how):

    --models tatoeba-en-de-draft full=tatoeba-en-de-draft,quantization=float32 --twin full

Written to the folder: outputs/MODEL.jsonl, report.json, report.md, frontier.svg, frontier.png and record.json.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import permutations
from pathlib import Path

from models.params import check
from models.registry import BUILTIN, RegistryError, load
from models.spec import ModelSpec, Task
from scoring.bootstrap import SAMPLES, SEED, compare, interval, resampled
from scoring.metrics import METRICS, Floats, Metric, agreement, copied_whole, copied_words, length_ratio, metrics
from training import frontier, report
from training.contenders import BadContender, contenders
from training.perplexity import Perplexity
from training.progress import progress
from training.references import BadReferences, Item, read
from training.report import Compared, Findings, Report, Scored, Speed
from training.trial import Loaded, Round, Trial, TrialFailed
from workers.engines.base import Params
from workers.engines.load import decoding_params

logger = logging.getLogger("training")

WARM_UP = 32
CACHE = Path.home() / ".cache" / "bushel"
SHOWN: Mapping[Task, tuple[str, ...]] = {
    Task.TRANSLATION: ("bleu", "chrf"),
    Task.SUMMARIZATION: ("rouge1", "rouge2", "rougeL"),
    Task.GENERATION: ("rouge1", "rougeL", "chrf"),
}
PACKAGES = ("ctranslate2", "torch", "transformers", "sacrebleu", "rouge-score", "numpy", "matplotlib")


class BadRequest(ValueError):
    """The evaluation cannot be done as asked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how. `twins` names for a model the one whose outputs its own are held against."""

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
    # Looked at before the work begins: its own load would hide that of others.
    machine: str = field(default_factory=lambda: machine())


@dataclass(slots=True)
class Measured:
    """One model's figures as they come in."""

    loaded: Loaded
    rounds: list[Round] = field(default_factory=list)
    peak_bytes: int = 0
    perplexity: Perplexity | None = None
    baseline: Perplexity | None = None

    @property
    def outputs(self) -> list[str]:
        return self.rounds[0].outputs


def plan(
    specs: Sequence[ModelSpec],
    items: Sequence[Item],
    *,
    params: Mapping[str, object] | None = None,
    twins: Sequence[str] = (),
    baseline: str | None = None,
    rounds: int = 3,
    samples: int = SAMPLES,
    tokenizer: str = "13a",
    cache: Path = CACHE,
    device: str | None = None,
    has_perplexity: bool = True,
    counted: Sequence[Item] = (),
) -> Plan:
    """The plan, or BadRequest for what cannot be: parameters a model lacks, a twin that is not compared."""
    names = [spec.name for spec in specs]
    if not names:
        raise BadRequest("no models are named")
    if rounds < 1 or samples < 40:
        raise BadRequest("there must be a round at least, and 40 resamples")
    if baseline is not None and baseline not in names:
        raise BadRequest(f"baseline {baseline!r} is not among the models: {', '.join(names)}")
    return Plan(
        specs=specs,
        params=[_checked(spec, params or {}) for spec in specs],
        items=items,
        twins=_twins(twins, names),
        baseline=baseline or names[0],
        rounds=rounds,
        samples=samples,
        tokenizer=tokenizer,
        cache=cache,
        device=device,
        has_perplexity=has_perplexity,
        counted=counted,
    )


def measure(plan: Plan) -> dict[str, Measured]:
    """Every model's figures. All are loaded at once, so that they can take turns; TrialFailed if one cannot."""
    texts = [item.source for item in plan.items]
    measured: dict[str, Measured] = {}
    with ExitStack() as stack:
        trials: list[Trial] = []
        for spec, params in zip(plan.specs, plan.params, strict=True):
            trial = stack.enter_context(Trial(spec, plan.cache, _decoding(params), plan.device))
            measured[spec.name] = Measured(trial.load())
            trials.append(trial)
            trial.run(texts[:WARM_UP])
        turns = [trial for turn in range(plan.rounds) for trial in _turned(trials, turn)]
        for trial in progress(turns, len(turns), "rounds"):
            measured[trial.spec.name].rounds.append(trial.run(texts))
        for trial in trials:
            found = measured[trial.spec.name]
            found.peak_bytes = trial.peak_bytes()
            if plan.has_perplexity:
                found.perplexity = trial.perplexity(plan.items)
            if plan.counted:
                found.baseline = trial.baseline(plan.items, plan.counted)
    return measured


def judge(plan: Plan, measured: Mapping[str, Measured], data: str) -> Report:
    """The figures against the references and against each other."""
    found = _metrics(plan, measured)
    samples = {
        name: {each: resampled(metric, plan.samples, plan.seed) for each, metric in of_model.items()}
        for name, of_model in progress(list(found.items()), len(found), "resampling")
    }
    return Report(
        data=data,
        items=len(plan.items),
        machine=plan.machine,
        rounds=plan.rounds,
        samples=plan.samples,
        baseline=plan.baseline,
        shown=SHOWN[plan.specs[0].task],
        findings=[
            _findings(plan, spec, params, measured, found[spec.name], samples[spec.name])
            for spec, params in zip(plan.specs, plan.params, strict=True)
        ],
        compared=[
            Compared(
                one,
                other,
                {
                    name: compare(metric.score, samples[one][name], found[other][name].score, samples[other][name])
                    for name, metric in found[one].items()
                },
            )
            for one, other in permutations(found, 2)
            if found[one]
        ],
    )


def write(plan: Plan, measured: Mapping[str, Measured], made: Report, quality: str | None, folder: Path) -> None:
    """Outputs, report and plot. `quality` is the plot's metric, None for the task's first."""
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    for name, each in measured.items():
        with (folder / "outputs" / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for item, output in zip(plan.items, each.outputs, strict=True):
                row = {"source": item.source, "references": item.references, "output": output}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    report.write(made, folder)
    points, metric = _points(made, quality)
    if points:
        title = f"{made.items:,} items of {made.data}. {made.machine}"
        frontier.draw(points, report.NAMES[metric], title, folder, is_lower_better=metric == "perplexity")
    else:
        logger.warning("no plot: there is no %s for every model", metric)


def machine() -> str:
    """What speed is measured on, and how busy it is."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {count} CPUs, load {os.getloadavg()[0]:.1f}"


def _turned(trials: Sequence[Trial], turn: int) -> list[Trial]:
    """Each round begins with another model, so that none always follows the same one."""
    first = turn % len(trials)
    return [*trials[first:], *trials[:first]]


def _checked(spec: ModelSpec, raw: Mapping[str, object]) -> Mapping[str, object]:
    clean, problems = check(raw, spec)
    if problems:
        raise BadRequest("\n".join(f"model {spec.name}: {problem}" for problem in problems))
    return clean


def _decoding(clean: Mapping[str, object]) -> Params:
    return decoding_params(clean)


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


def _metrics(plan: Plan, measured: Mapping[str, Measured]) -> dict[str, dict[str, Metric]]:
    if not plan.items[0].references:
        return {name: {} for name in measured}
    references = [item.references for item in plan.items]
    return {name: metrics(each.outputs, references, plan.tokenizer) for name, each in measured.items()}


def _findings(
    plan: Plan,
    spec: ModelSpec,
    params: Mapping[str, object],
    measured: Mapping[str, Measured],
    found: Mapping[str, Metric],
    samples: Mapping[str, Floats],
) -> Findings:
    mine = measured[spec.name]
    sources, references = [item.source for item in plan.items], [item.references for item in plan.items]
    twin = plan.twins.get(spec.name)
    return Findings(
        name=spec.name,
        speed=_speed(mine.rounds, len(plan.items)),
        load_seconds=mine.loaded.seconds,
        shipped_bytes=mine.loaded.shipped_bytes,
        engine_bytes=mine.loaded.engine_bytes,
        peak_bytes=mine.peak_bytes,
        cut=mine.rounds[0].cut,
        unfinished=mine.rounds[0].unfinished,
        copied_whole=copied_whole(mine.outputs, sources),
        copied_words=copied_words(mine.outputs, sources),
        recipe=mine.loaded.recipe,
        params=params,
        scores={
            name: Scored(metric.score, interval(samples[name]), metric.signature) for name, metric in found.items()
        },
        length_ratio=length_ratio(mine.outputs, references) if found else None,
        twin=twin,
        agreement=agreement(mine.outputs, measured[twin].outputs) if twin else None,
        perplexity=mine.perplexity,
        baseline=mine.baseline,
    )


def _speed(rounds: Sequence[Round], items: int) -> Speed:
    seconds = [each.seconds for each in rounds]
    middle = statistics.median(seconds)
    return Speed(
        seconds=seconds,
        items_per_second=items / middle,
        input_tokens_per_second=rounds[0].input_tokens / middle,
        output_tokens_per_second=statistics.median(each.output_tokens / each.seconds for each in rounds),
    )


def _points(made: Report, quality: str | None) -> tuple[list[frontier.Point], str]:
    metric = quality or (made.shown[0] if made.compared or made.findings[0].scores else "perplexity")
    points = []
    for each in made.findings:
        if metric == "perplexity" and each.perplexity is not None:
            points.append(frontier.Point(each.name, each.speed.items_per_second, each.perplexity.perplexity))
        elif metric in each.scores:
            scored = each.scores[metric]
            points.append(frontier.Point(each.name, each.speed.items_per_second, scored.score, scored.interval))
    return (points if len(points) == len(made.findings) else []), metric


def _record(arguments: Sequence[str], files: Sequence[Path], where: str, seconds: float, folder: Path) -> None:
    """What made the figures: enough to make them again, or to see why they come out otherwise."""
    said = {
        "command": ["python", "-m", "training.evaluate", *arguments],
        "data": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "machine": where,
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
    (folder / "record.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _params(words: Sequence[str]) -> dict[str, object]:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL", help="NAME, NAME=FOLDER or NAME=NAME,…")
    parser.add_argument("--data", type=Path, required=True, help="inputs with references: .tsv, .jsonl or text")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--source", help="the inputs' column, counted from 0, or key")
    parser.add_argument("--reference", nargs="+", default=[], help="the references' columns or keys")
    parser.add_argument("--parallel", nargs="+", type=Path, default=[], help="reference files of a plain text's lines")
    parser.add_argument("--limit", type=int, help="use only so many items, from the first")
    parser.add_argument("--task", type=Task, choices=list(SHOWN), help="what models given as folders do")
    parser.add_argument("--registry", nargs="+", type=Path, default=[], help="registry files beside the built-in one")
    parser.add_argument("--param", nargs="+", default=[], help="decoding parameters for all models, NAME=VALUE")
    parser.add_argument("--twin", nargs="+", default=[], help="full-precision twin of all others, or MODEL=TWIN")
    parser.add_argument("--baseline", help="whom the others are compared with (default: the first)")
    parser.add_argument("--quality", choices=[*METRICS, "perplexity"], help="the plot's metric")
    parser.add_argument("--ngrams", type=Path, help="like the data: a 3-gram baseline's training texts")
    parser.add_argument("--no-perplexity", action="store_true", help="leave perplexity out")
    parser.add_argument("--rounds", type=int, default=3, help="how often each model's speed is taken (default: 3)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="bootstrap resamples (default: 1000)")
    parser.add_argument("--tokenizer", default="13a", help="sacreBLEU's, for BLEU (default: 13a)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the best there is)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="for converted and downloaded models")
    return parser


def _planned(asked: argparse.Namespace) -> Plan:
    columns = {"source": asked.source, "references": asked.reference}
    return plan(
        contenders(asked.models, load([BUILTIN, *asked.registry]), asked.task),
        read(asked.data, **columns, parallel=asked.parallel, limit=asked.limit),
        params=_params(asked.param),
        twins=asked.twin,
        baseline=asked.baseline,
        rounds=asked.rounds,
        samples=asked.samples,
        tokenizer=asked.tokenizer,
        cache=asked.cache,
        device=asked.device,
        has_perplexity=not asked.no_perplexity,
        counted=read(asked.ngrams, **columns) if asked.ngrams else (),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 if something was asked for wrongly, or 1 if a model could not be measured."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = _parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # rouge-score tells at every turn which tokenizer it uses.
    logging.getLogger("absl").setLevel(logging.WARNING)
    began = time.monotonic()
    try:
        planned = _planned(asked)
        asked.out.mkdir(parents=True, exist_ok=True)
        measured = measure(planned)
        made = judge(planned, measured, asked.data.name)
    except (BadReferences, BadContender, BadRequest, RegistryError) as exc:
        print(exc, file=sys.stderr)
        return 2
    except TrialFailed as exc:
        print(exc, file=sys.stderr)
        return 1
    write(planned, measured, made, asked.quality, asked.out)
    files = [path for path in (asked.data, *asked.parallel, asked.ngrams) if path is not None]
    _record(words, files, planned.machine, time.monotonic() - began, asked.out)
    print(report.markdown(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
