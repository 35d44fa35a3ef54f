"""Measure the models that come with Bushel, and write docs/models.md and the figures of their cards.

    python -m training.publishing.publish --data FOLDER [--models NAME …] [--work FOLDER] [--limit N]

starters.toml beside it says which models, on which files. Each group is one evaluation, kept in the work folder: what
is measured there already, of the same models on the same files, is not measured again.
Written are docs/models.md from its template, docs/models/GROUP.md, .svg and .png, models/measured.json, and in
models/NAME/README.md what is between the marks of the figures. With --models, only groups with one of them are
measured; what the work folder has of the others is written as it is.
"""

import argparse
import io
import json
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.registry import BUILTIN, load
from models.spec import ModelSpec
from training.errors import TrainingError
from training.evaluation import evaluate
from training.evaluation.plan import CACHE
from training.evaluation.references import read
from training.learning.train import begin
from training.publishing.cards import Example, write_card
from training.publishing.figures import Figures
from training.publishing.measured import write_measured
from training.publishing.page import write_page
from training.publishing.starters import Group, chosen
from training.publishing.starters import load as load_starters
from training.settings import parse, run

logger = logging.getLogger("training")

ROOT = Path(__file__).parents[2]
EXAMPLES, SEED = 10, 1


class NotMeasured(TrainingError):
    """An evaluation has failed; it has said why."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} could not be measured; see above")
        self.name = name


@dataclass(frozen=True, slots=True)
class Publishing:
    """Where everything is. `root` has docs/, models/ and training/."""

    root: Path
    data: Path
    work: Path
    cache: Path
    limit: int | None = None
    device: str | None = None


def publish(at: Publishing, models: Sequence[str] = ()) -> None:
    """Measure what is wanted, and write the page and the cards of all that is measured."""
    registry = load([BUILTIN, at.root / "models" / "registry.toml"])
    groups = load_starters(at.root / "training" / "publishing" / "starters.toml")
    wanted = chosen(groups, registry, models)
    for number, (group, words) in enumerate(wanted, start=1):
        logger.info("%d of %d: %s: %s", number, len(wanted), group.name, ", ".join(words))
        measure(at, group, words)
    every = [(group, at.work / group.name / "figures") for group, _ in chosen(groups, registry, ())]
    figures = [Figures.read(group, folder) for group, folder in every if (folder / "report.json").is_file()]
    write_page(at.root, figures)
    write_measured(at.root, figures)
    for folder, specs in _folders(at.root, registry.all()).items():
        write_card(folder, specs, figures, examples(at, figures, specs))


def measure(at: Publishing, group: Group, words: Sequence[str]) -> None:
    """The group's figures, and what its models say to the examples."""
    out = at.work / group.name
    usual = ["--registry", str(at.root / "models" / "registry.toml"), "--cache", str(at.cache)]
    usual += ["--models", *words, *(["--device", at.device] if at.device else [])]
    if group.params:
        usual += ["--param", *(f"{name}={value}" for name, value in group.params.items())]
    # No examples of test files: nobody is to look at them.
    asked = ["--data", str(at.data / group.data), "--out", str(out / "figures"), *_columns(at, group), "--examples=0"]
    if len(words) > 1:
        asked += ["--twin", words[0].partition("=")[0]]
    if group.ngrams:
        asked += ["--ngrams", str(at.data / group.ngrams)]
    if at.limit:
        asked += ["--limit", str(at.limit)]
    _evaluate(group.name, [*usual, *asked, *group.options])
    if group.examples is not None:
        sample = _sample(at, group, out)
        rest = ["--rounds", "1", "--no-perplexity", "--source", "source", "--reference", "references"]
        _evaluate(group.name, [*usual, "--data", str(sample), "--out", str(out / "examples"), *rest])


def examples(at: Publishing, figures: Sequence[Figures], specs: Sequence[ModelSpec]) -> list[Example]:
    """Ten in all for the models of a folder, from its groups in turn: the first ones of each group's random sample."""
    names = [spec.name for spec in specs]
    found = []
    for each in figures:
        here = [name for name in names if name in {row.name for row in each.rows}]
        paths = {name: at.work / each.group.name / "examples" / "outputs" / f"{name}.jsonl" for name in here}
        if here and all(path.is_file() for path in paths.values()):
            found.append([_example(each.group, rows) for rows in _together(paths)])
    return [one for turn in range(EXAMPLES) for one in (some[turn] for some in found if turn < len(some))][:EXAMPLES]


def _together(paths: Mapping[str, Path]) -> list[dict[str, dict[str, Any]]]:
    """The rows of the outputs' files, of each model the same item."""
    of_each = {
        name: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for name, path in paths.items()
    }
    return [dict(zip(of_each, rows, strict=True)) for rows in zip(*of_each.values(), strict=True)]


def _example(group: Group, rows: Mapping[str, Mapping[str, Any]]) -> Example:
    first = next(iter(rows.values()))
    outputs = {name: str(row["output"]) for name, row in rows.items()}
    return Example(group.title, str(first["source"]), [str(each) for each in first["references"]], outputs)


def _columns(at: Publishing, group: Group) -> list[str]:
    said = ["--source", group.source] if group.source is not None else []
    said += ["--reference", *group.reference] if group.reference else []
    return said + (["--parallel", *(str(at.data / path) for path in group.parallel)] if group.parallel else [])


def _sample(at: Publishing, group: Group, out: Path) -> Path:
    """Some items by chance, always the same ones."""
    assert group.examples is not None
    items = read(at.data / group.examples, source=group.source, references=group.reference)
    chance = random.Random(SEED)
    some = chance.sample(items, min(EXAMPLES, len(items)))
    path = out / "sample.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"source": item.source, "references": list(item.references)} for item in some]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def _evaluate(name: str, words: Sequence[str]) -> None:
    # What it prints is in the folder too.
    with redirect_stdout(io.StringIO()):
        code = evaluate.main(words)
    if code:
        raise NotMeasured(name)


def _folders(root: Path, specs: Sequence[ModelSpec]) -> dict[Path, list[ModelSpec]]:
    """The models that are in the tree, by their folders: several may have one."""
    found: dict[Path, list[ModelSpec]] = {}
    for spec in specs:
        if isinstance(spec.source, Path) and spec.source.is_relative_to((root / "models").resolve()):
            found.setdefault(spec.source, []).append(spec)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="training.publishing.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the files that starters.toml names")
    parser.add_argument("--models", nargs="+", default=[], help="measure only groups with one of these")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that is written to (default: this one)")
    parser.add_argument("--work", type=Path, help="where evaluations are kept (default: ROOT/build/models-report)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="for converted models")
    parser.add_argument("--limit", type=int, help="use only so many items of each file, to try this out")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the best there is)")
    asked = parse(parser, argv)
    begin(None)
    work = asked.work or asked.root / "build" / "models-report"
    publish(Publishing(asked.root.resolve(), asked.data, work, asked.cache, asked.limit, asked.device), asked.models)


if __name__ == "__main__":
    run(main)
