"""Measure any set of models on a reference file in one run: quality, speed, size, memory, agreement, bias.

    bushel models evaluate [CONFIG.toml] --models NAME [NAME=FOLDER …] --data FILE --out FOLDER
        [--source KEY] [--reference KEY …] [--parallel FILE …] [--limit N] [--task TASK] [--param NAME=VALUE …]
        [--twin [MODEL=]TWIN …] [--baseline MODEL] [--quality METRIC] [--ngrams FILE] [--no-perplexity] [--bias]

Models are names of the registry, folders, or either with changes:

    --models translation-balanced full=translation-balanced,quantization=float32 --twin full

The options can stand in a TOML file under their names; paths are as on the command line, whose options go before it:

    models = ["translation-balanced", "full=translation-balanced,quantization=float32"]
    twin = ["full"]
    bias = true
    param = { num_beams = 1 }

Written to the folder: outputs/MODEL.jsonl, report.json, report.md, frontier.svg, frontier.png and record.json. What is
measured is kept in trials/ at once: the same command goes on after an interruption, and takes up again what it has for
the same weights, data, parameters, machine and versions, unless told `--again`.
"""

import argparse
import json
import logging
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from models.registry import BUILTIN, RegistryError, load
from models.spec import Task
from scoring.bootstrap import SAMPLES
from scoring.metrics import METRICS
from training.evaluation import frontier, report, summary
from training.evaluation.contenders import BadContender, contenders
from training.evaluation.judge import SHOWN, judge
from training.evaluation.measure import measure
from training.evaluation.measured import PACKAGES, Measured, Shelf
from training.evaluation.plan import CACHE, BadRequest, Plan, plan, spelled
from training.evaluation.probe import TEMPLATES
from training.evaluation.references import BadReferences, read
from training.evaluation.report import Report
from training.evaluation.trial import TrialFailed
from training.progress import Lines
from training.provenance import file_digest, versions, write_json
from training.settings import called, run

logger = logging.getLogger("training")


def write(plan: Plan, measured: Mapping[str, Measured], made: Report, quality: str | None, folder: Path) -> list[Path]:
    """Outputs, report and plot; those of them that people look at. `quality` is the plot's metric, None for the task's
    first.
    """
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    for name, each in measured.items():
        with (folder / "outputs" / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for item, output in zip(plan.items, each.outputs, strict=True):
                row = {"source": item.source, "references": item.references, "output": output}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    report.write(made, folder)
    points, metric = _points(made, quality)
    if points:
        is_lower_better = metric == "perplexity"
        frontier.draw(points, report.NAMES[metric], _title(plan, made, metric), folder, is_lower_better)
        return [folder / "report.md", folder / "frontier.png"]
    logger.warning("no plot: there is no %s for every model", metric)
    return [folder / "report.md"]


def _title(plan: Plan, made: Report, metric: str) -> str:
    said = [str(plan.specs[0].task).capitalize()]
    if languages := _languages(plan):
        said.append(languages)
    what = f"{' '.join(said)}: {report.NAMES[metric]} against speed"
    return f"{what}\n{made.items:,} items of {made.data}. {made.machine}"


def _languages(plan: Plan) -> str:
    """From which to which the models translate, as far as any of them says."""
    for spec, params in zip(plan.specs, plan.params, strict=True):
        sources = [str(params["source_lang"])] if params.get("source_lang") else spec.source_languages
        targets = [str(params["target_lang"])] if params.get("target_lang") else spec.target_languages
        if len(sources) == 1 and len(targets) == 1:
            return f"{sources[0]} to {targets[0]}"
    return ""


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


def _record(words: Sequence[str], asked: argparse.Namespace, made: Report, began: datetime, seconds: float) -> None:
    """What made the figures: enough to make them again, or to see why they come out otherwise."""
    files = [asked.config, asked.data, *asked.parallel, asked.ngrams, TEMPLATES if asked.bias else None]
    said = {
        "command": ["python", "-m", "training.evaluation.evaluate", *words],
        "options": {key: value for key, value in sorted(vars(asked).items()) if value is not None},
        "data": {str(path): file_digest(path) for path in files if path is not None},
        "weights": {each.name: each.recipe.get("weights_hash") for each in made.findings},
        "resumed": made.resumed,
        "machine": made.machine,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "versions": versions(PACKAGES),
    }
    write_json(asked.out / "record.json", said)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called.get(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="these options in a file")
    parser.add_argument("--config", dest="config_file", type=Path, metavar="FILE.toml", help="the same")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="NAME, NAME=FOLDER or NAME=NAME,…")
    parser.add_argument("--data", type=Path, help="inputs with references: .tsv, .jsonl or text")
    parser.add_argument("--out", type=Path, help="folder for what is found")
    parser.add_argument("--source", help="the inputs' column, counted from 0, or key")
    parser.add_argument("--reference", nargs="+", default=[], help="the references' columns or keys")
    parser.add_argument("--parallel", nargs="+", type=Path, default=[], help="reference files of a plain text's lines")
    parser.add_argument("--limit", type=int, help="use only so many items, spread over the file")
    parser.add_argument("--task", type=Task, choices=list(SHOWN), help="what models given as folders do")
    parser.add_argument("--registry", nargs="+", type=Path, default=[], help="registry files beside the built-in one")
    parser.add_argument("--param", nargs="+", default=[], help="decoding parameters for all models, NAME=VALUE")
    parser.add_argument("--twin", nargs="+", default=[], help="full-precision twin of all others, or MODEL=TWIN")
    parser.add_argument("--baseline", help="whom the others are compared with (default: the first)")
    parser.add_argument("--quality", choices=[*METRICS, "perplexity"], help="the plot's metric")
    parser.add_argument("--ngrams", type=Path, help="like the data: a 3-gram baseline's training texts")
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--perplexity", action=flag, default=True, help="take it, or leave it out")
    parser.add_argument("--bias", action=flag, default=False, help="ask every model what the bias probe asks")
    parser.add_argument("--examples", type=int, default=10, help="items shown in the report (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each model's speed is taken (default: 3)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="bootstrap resamples (default: 1000)")
    parser.add_argument("--tokenizer", help="sacreBLEU's, for BLEU (default: the target language's; mostly 13a)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the best there is)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="for converted and downloaded models")
    parser.add_argument("--again", action=flag, default=False, help="measure also what an earlier run has measured")
    return parser


def _asked(words: Sequence[str]) -> argparse.Namespace:
    """The options, those of the file overridden by those of the command line; BadRequest for what neither may say."""
    parser = _parser()
    asked = parser.parse_args(words)
    config = asked.config_file or asked.config
    if config is not None:
        known = vars(asked).keys() - {"config", "config_file"}
        asked = parser.parse_args([*_spelled(config, known), *words])
    if missing := [name for name in ("models", "data", "out") if getattr(asked, name) is None]:
        raise BadRequest(f"missing: {', '.join(f'--{name}' for name in missing)}")
    return asked


def _spelled(path: Path, known: set[str]) -> list[str]:
    """The file's options as words of the command line."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise BadRequest(f"{path}: cannot be read: {exc}") from exc
    if unknown := said.keys() - known:
        raise BadRequest(f"{path}: unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    words: list[str] = []
    for name, value in said.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name}")
        elif isinstance(value, list) and value:
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict) and name == "param" and value:
            words += ["--param", *(f"{key}={json.dumps(each)}" for key, each in value.items())]
        elif isinstance(value, (str, int)):
            words.append(f"--{name}={value}")
        else:
            raise BadRequest(f"{path}: {name} = {value!r} is nothing that --{name} can be")
    return words


def _planned(asked: argparse.Namespace) -> Plan:
    columns = {"source": asked.source, "references": asked.reference}
    return plan(
        contenders(asked.models, load([BUILTIN, *asked.registry]), asked.task),
        read(asked.data, **columns, parallel=asked.parallel, limit=asked.limit),
        params=spelled(asked.param),
        twins=asked.twin,
        baseline=asked.baseline,
        rounds=asked.rounds,
        samples=asked.samples,
        tokenizer=asked.tokenizer,
        cache=asked.cache,
        device=asked.device,
        has_perplexity=asked.perplexity,
        counted=read(asked.ngrams, **columns) if asked.ngrams else (),
        has_bias=asked.bias,
        examples=asked.examples,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 if something was asked for wrongly, or 1 if a model could not be measured."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[Lines()])
    # rouge-score tells at every turn which tokenizer it uses.
    logging.getLogger("absl").setLevel(logging.WARNING)
    began, clock = datetime.now(UTC), time.monotonic()
    try:
        asked = _asked(words)
        planned = _planned(asked)
        measured = measure(planned, Shelf(asked.out / "trials", planned, is_empty=asked.again))
        made = judge(planned, measured, asked.data.name)
    except (BadReferences, BadContender, BadRequest, RegistryError) as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 2
    except TrialFailed as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 1
    written = write(planned, measured, made, asked.quality, asked.out)
    _record(words, asked, made, began, time.monotonic() - clock)
    print(summary.text(made))
    print(f"written to {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    run(main)
