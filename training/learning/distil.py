"""Teach a small model what a large one says: the teacher's outputs become the targets (Kim and Rush 2016).

    bushel models distil RECIPE.toml --data FOLDER --out FOLDER --model NAME [--url URL] [--beams 4]
                         [--n-best 4 --learn best|nearest|all]
                         [--student FOLDER] [--references] [--keep 0.9] [--teacher FOLDER]

The teacher is a model of a running Bushel (`bushel up`), which is given the sources of the recipe's training files as
jobs; the key is found as the `bushel` command finds it. What it answers is kept in OUT/pairs, and asked for once: the
same command goes on with a job that runs, and with a training that was stopped.

With --n-best, the teacher gives as many answers to each source as its search found best, of which the student learns
the surest one (--learn best), the one most like the reference (nearest, Kim and Rush's interpolation), or all.

A recipe of kind marian makes a student from nothing. One of kind finetune needs --student, a folder as `bushel models
student` makes it; with `kl` in the recipe it learns word by word as well, from the teacher's folder, which --teacher
names.
"""

import argparse
import dataclasses
import gzip
import hashlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

from cli.access import Target
from cli.client import Client
from cli.errors import CLIError, Refused
from cli.wire import Job
from training.errors import TrainingError
from training.learning.similarity import similarity
from training.learning.train import add_running, begin, check_folders, go, seeded, task_of, without_denormals
from training.pairs import Part
from training.progress import progress
from training.provenance import write_json
from training.recipe import CausalRecipe, FinetuneRecipe, Recipe, check_files, load
from training.settings import parse, run
from training.spread import spread

_POLL_SECONDS = 0.5


class NoLessons(TrainingError):
    """The teacher cannot be asked, or has not answered."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a teacher is asked for."""

    model: str
    task: str = "translation"
    params: Mapping[str, object] = field(default_factory=dict)


class Lessons:
    """The teacher's answers for each training file: asked for as jobs of a running Bushel, and kept in a folder."""

    def __init__(self, client: Client, asked: Asked, folder: Path) -> None:
        self._client, self._asked, self._folder = client, asked, folder

    def of(self, number: int, part: Part, data: Path, limit: int | None = None) -> Path:
        """Pairs as JSON lines: `source`, `target` (the teacher's), `reference`, `score` (its mean log-probability).

        The answers to a source follow each other, the search's best first, and each differs from those before it.
        Sources that the teacher failed at are not there.
        """
        references: dict[str, str] = {}
        for pair in part.read(data):
            references.setdefault(pair.source, pair.target)
        if limit is not None:
            references = dict(spread(list(references.items()), limit))
        wanted = self._wanted(part, references)
        stem = f"{number}-{Path(part.file).name.split('.jsonl')[0].split('.tsv')[0]}"
        pairs, note = self._folder / f"{stem}.jsonl.gz", self._folder / f"{stem}.json"
        known: dict[str, Any] = json.loads(note.read_text("utf-8")) if note.exists() else {}
        if known.get("wanted") != wanted:
            pairs.unlink(missing_ok=True)
            known = {"wanted": wanted, "job": None}
        if pairs.exists():
            return pairs
        if known["job"] is None or not self._may_go_on(known["job"]):
            known["job"] = self._submit(wanted, list(references)).id
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(note, known)
        job = self._ended(known["job"], len(references))
        known |= self._save(job, references, pairs)
        write_json(note, known)
        return pairs

    def notes(self) -> list[dict[str, Any]]:
        """What was asked for, and what came of it."""
        return [json.loads(path.read_text("utf-8")) for path in sorted(self._folder.glob("*.json"))]

    def _wanted(self, part: Part, references: Mapping[str, str]) -> dict[str, Any]:
        languages = {"source_lang": part.source_lang, "target_lang": part.target_lang}
        params = {**self._asked.params, **{name: value for name, value in languages.items() if value is not None}}
        said = hashlib.sha256("\0".join(chain.from_iterable(references.items())).encode()).hexdigest()
        return {
            "model": self._asked.model,
            "task": self._asked.task,
            "params": params,
            "sources": len(references),
            "sha256": said,
        }

    def _check(self) -> None:
        """NoLessons if the server has no such model: before a file of all the sources is sent there."""
        known = [str(model["id"]) for model in self._client.models()]
        if self._asked.model not in known:
            raise NoLessons(
                f"the server {self._client.url} has no model {self._asked.model!r}; it has {', '.join(known) or 'none'}"
            )

    def _submit(self, wanted: Mapping[str, Any], sources: Sequence[str]) -> Job:
        self._check()
        with tempfile.TemporaryFile() as file:
            for number, text in enumerate(sources):
                file.write((json.dumps({"custom_id": str(number), "text": text}, ensure_ascii=False) + "\n").encode())
            stored = self._client.upload(cast(BinaryIO, file), "sources.jsonl")
        return self._client.create_job(
            {
                **{key: wanted[key] for key in ("model", "task", "params")},
                "input_file_id": stored.id,
                "format": {"type": "jsonl"},
                # A teacher may be at it for days; who cannot wait cancels the job.
                "completion_window": None,
                "long_input": "truncate",
                "metadata": {"for": "distillation"},
            }
        )

    def _may_go_on(self, job_id: str) -> bool:
        """Whether a job that was begun will have, or has, what is wanted."""
        try:
            job = self._client.job(job_id)
        except Refused as exc:
            if exc.status == 404:
                return False
            raise
        return not job.is_final or job.status == "completed"

    def _ended(self, job_id: str, total: int) -> Job:
        for _ in progress(self._finished(job_id), total, f"the teacher's answers ({job_id})"):
            pass
        job = self._client.job(job_id)
        if job.status != "completed":
            said = "; ".join(map(str, job.problems[:3]))
            raise CLIError(f"{job_id} is {job.status}, so there is nothing to learn" + (f": {said}" if said else ""))
        return job

    def _finished(self, job_id: str) -> Iterator[None]:
        """Something for every item, once it is finished."""
        done = 0
        while True:
            job = self._client.job(job_id)
            yield from (None for _ in range(done, job.counts.finished))
            done = max(done, job.counts.finished)
            if job.is_final:
                return
            time.sleep(_POLL_SECONDS)

    def _save(self, job: Job, references: Mapping[str, str], pairs: Path) -> dict[str, object]:
        rows = list(references.items())
        written = answered = 0
        unfinished = pairs.with_name(f".{pairs.name}")
        with _packed(unfinished) as file:
            for result, line in self._client.result_lines(job.id):
                if result.status != "succeeded":
                    continue
                source, reference = rows[result.index]
                answers = _answers(json.loads(line)["output"])
                for target, score in answers.items():
                    row = {"source": source, "target": target, "reference": reference, "score": score}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += len(answers)
                answered += bool(answers)
        os.replace(unfinished, pairs)
        return {"pairs": written, "without": len(rows) - answered, "truncated_inputs": job.truncated_inputs}


def _answers(output: Mapping[str, Any]) -> dict[str, float | None]:
    """The texts of one result with their scores, in its order; what differs in its tokens alone is one text."""
    found: dict[str, float | None] = {}
    for choice in output.get("choices", [output]):
        if choice["text"].strip():
            found.setdefault(choice["text"], choice.get("score"))
    return found


def one_each(pairs: Path, learn: str) -> Path:
    """A file beside it with one answer for each source: the surest (`best`), or the one most like the reference.

    With `all`, the file itself. Without scores the surest is what the search put first.
    """
    if learn == "all":
        return pairs
    chosen = pairs.with_name(f"one-{learn}-{pairs.name}")
    with gzip.open(pairs, "rt", encoding="utf-8") as file, _packed(chosen) as kept:
        for _, answers in groupby(map(json.loads, file), key=itemgetter("source")):
            # Of equals the first, which is the better to the search.
            row = max(answers, key=_likeness if learn == "nearest" else _sureness)
            kept.write(json.dumps(row, ensure_ascii=False) + "\n")
    return chosen


def _likeness(row: Mapping[str, Any]) -> float:
    return similarity("chrf", [row["target"]], [row["reference"]])


def _sureness(row: Mapping[str, Any]) -> float:
    return -math.inf if row["score"] is None else float(row["score"])


def best(pairs: Path, keep: float) -> Path:
    """A file beside it with the share of its pairs that the teacher is surest of, in their order."""
    if keep >= 1:
        return pairs
    with gzip.open(pairs, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if any(row["score"] is None for row in rows):
        raise NoLessons(f"{pairs} has pairs without a score; set `scores` in the teacher's registry entry")
    ranked = sorted(range(len(rows)), key=lambda place: -rows[place]["score"])
    kept = sorted(ranked[: max(1, round(keep * len(rows)))])
    chosen = pairs.with_name(f"best-{keep:g}-{pairs.name}")
    with _packed(chosen) as file:
        file.writelines(json.dumps(rows[place], ensure_ascii=False) + "\n" for place in kept)
    return chosen


def taught(
    recipe: Recipe | FinetuneRecipe,
    lessons: Lessons,
    data: Path,
    keep: float = 1.0,
    has_references: bool = False,
    limit: int | None = None,
    learn: str = "all",
) -> Recipe | FinetuneRecipe:
    """The recipe with the teacher's answers in place of its training files' targets, or, if asked, beside them."""
    parts = []
    for number, part in enumerate(recipe.train):
        pairs = best(one_each(lessons.of(number, part, data, limit), learn), keep)
        file = os.path.relpath(pairs, data)
        parts.append(dataclasses.replace(part, file=file, source="source", target="target"))
    return dataclasses.replace(recipe, train=(*parts, *(recipe.train if has_references else ())))


def _packed(path: Path) -> io.TextIOWrapper:
    """For writing, without the time of it: the same pairs are the same file, and have the same hash in the record."""
    return io.TextIOWrapper(cast(BinaryIO, gzip.GzipFile(path, "wb", mtime=0)), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="training.learning.distil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="a TOML file; docs/training.md lists what it may hold")
    parser.add_argument("--data", type=Path, required=True, help="folder the recipe's files are in")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training; the model is in OUT/model")
    parser.add_argument("--model", required=True, help="the teacher, by its name on the server")
    parser.add_argument(
        "--task",
        default="translation",
        choices=["translation", "summarization", "generation"],
        help="what the teacher does (default: %(default)s)",
    )
    parser.add_argument("--url", help="the server (default: as for the bushel command)")
    parser.add_argument("--beams", type=int, default=4, help="width of the teacher's search (default: %(default)s)")
    parser.add_argument(
        "--n-best",
        type=int,
        default=1,
        help="answers to each source, at most as many as --beams (default: %(default)s)",
    )
    parser.add_argument(
        "--learn",
        choices=["best", "nearest", "all"],
        default="best",
        help="of several answers: the surest, the one most like the reference, or all (default: best)",
    )
    parser.add_argument("--max-new-tokens", type=int, help="of an answer (default: the model's)")
    parser.add_argument(
        "--limit", type=int, help="at most so many sources of each training file, spread over it (default: all)"
    )
    parser.add_argument(
        "--keep", type=float, default=1.0, help="share of the answers to learn from, by score (default: all)"
    )
    parser.add_argument("--references", action="store_true", help="learn from the recipe's own targets as well")
    parser.add_argument(
        "--student", help="a folder or registered model to go on from, with a recipe of kind finetune (default: none)"
    )
    parser.add_argument(
        "--teacher", help="the teacher's folder or name in the registry, for a recipe with kl (default: none)"
    )
    parser.add_argument("--pairs-only", action="store_true", help="ask the teacher; train nothing")
    add_running(parser)
    asked = parse(parser, argv)
    recipe = seeded(load(asked.recipe), asked.seed)
    if isinstance(recipe, CausalRecipe):
        parser.error("a recipe of texts has no sources to ask a teacher about; take one of kind finetune")
    if asked.n_best == 1 and asked.learn != "best":
        parser.error(f"--learn {asked.learn} is for several answers; say --n-best 2 or more")
    params: dict[str, object] = {"num_beams": asked.beams}
    if asked.n_best != 1:
        params["n"] = asked.n_best
    learn = "all" if asked.n_best == 1 else asked.learn
    if asked.max_new_tokens is not None:
        params["max_new_tokens"] = asked.max_new_tokens
    check_files(recipe, asked.data)
    # Not before: it takes torch, and seconds.
    from training.folders import model_folder
    from training.learning.loop import Run

    begin(asked.threads)
    student, teacher = (model_folder(said, asked.home) if said else None for said in (asked.student, asked.teacher))
    if not asked.pairs_only:
        # Before the teacher is at it for hours.
        check_folders(recipe, student, teacher, "--student")
    try:
        with Target(asked.url, asked.home).client() as client:
            lessons = Lessons(client, Asked(asked.model, asked.task, params), asked.out / "pairs")
            recipe = taught(recipe, lessons, asked.data, asked.keep, asked.references, asked.limit, learn)
    except CLIError as exc:
        raise NoLessons(str(exc)) from exc
    if not asked.pairs_only:
        facts = {"lessons": lessons.notes(), "keep": asked.keep, "learn": learn}
        with without_denormals():
            go(Run(recipe, task_of(recipe, asked.data, asked.out, student, teacher), asked.out, facts), asked)


if __name__ == "__main__":
    run(main)
