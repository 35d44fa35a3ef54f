"""The training loop that all kinds of model share: pace, checkpoints, curve, record, and the end of a run."""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import torch

from training.errors import BadData, OtherTraining
from training.learning.checkpoints import KEPT, Checkpoints, Progress, average
from training.learning.curve import Curve
from training.learning.optimizers import optimizer_of
from training.progress import LOG_SECONDS, Bar
from training.provenance import file_digest, versions, write_json
from training.recipe import AnyRecipe, Pace

logger = logging.getLogger("training")
Found = TypeVar("Found", bound=Sized)

SAID_EVERY = 100  # steps, or LOG_SECONDS if those are over before
# Of scores, as the log has them: losses are small numbers.
_DIGITS = {"loss": 3, "perplexity": 3}
_ENDS = {"last": "the last checkpoint", "average": "the average of the last checkpoints"}
PACKAGES = ("torch", "transformers", "sentencepiece", "tokenizers")


class Task(Protocol):
    """What is trained, and on what. A batch is whatever the task makes of its own data."""

    @property
    def model(self) -> Any:
        """On its device, in training mode."""
        ...

    @property
    def files(self) -> Mapping[str, Path]:
        """The files it was read from, by the names the record gives them."""
        ...

    def batches(self, epoch: int) -> Sequence[Any]:
        """The same for the same epoch, so that a run can go on in the middle of one."""
        ...

    def loss(self, batch: Any) -> tuple[torch.Tensor, int]:
        """The loss of a batch, and how many target tokens it has."""
        ...

    def hold(self) -> None:
        """Put back what must not be trained; called after every gradient, step and average."""
        ...

    def scores(self) -> list[float]:
        """One for every validation file, higher is better. The model is in evaluation mode."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model with all that its users need."""
        ...

    def facts(self) -> dict[str, object]:
        """What the record says of the data."""
        ...


def rate(pace: Pace, progress: Progress) -> float:
    """The learning rate of the next step."""
    warm = min(1.0, (progress.step + 1) / pace.warm_up)
    if progress.decay_from is None:
        return pace.rate * warm
    done = (progress.step - progress.decay_from) / pace.decay
    return pace.rate * warm * max(0.0, 1 - math.sqrt(done))


class Run:
    """One training: its folder, its state, its curve."""

    def __init__(
        self, recipe: AnyRecipe, task: Task, out: Path, facts: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """`facts` are for the record, beside those the task has.

        OtherTraining if the folder has a training of another recipe or of other files. Until it has ended, its pace
        may be another.
        """
        self.recipe, self.task, self.out = recipe, task, out
        out.mkdir(parents=True, exist_ok=True)
        self.model = task.model
        pace = recipe.pace
        self.optimizer = optimizer_of(self.model, pace)
        self.checkpoints = Checkpoints(out / "checkpoints")
        self._record(facts)
        self.progress = self.checkpoints.load(self.model, self.optimizer) or Progress()
        self._chance = Chance(out / "checkpoints")
        self._chance.load(self.progress.step)
        self._curve = Curve(out / "curve.jsonl", self.progress.step)

    def train(self, minutes: float | None = None, is_finishing: bool = False) -> bool:
        """Go on until the end of the decay, or for some minutes; whether the training has ended."""
        stop_at = None if minutes is None else time.monotonic() + minutes * 60
        with Bar("training") as bar:
            is_over = self._train(stop_at, is_finishing, bar)
        self._keep()
        return is_over

    def _train(self, stop_at: float | None, is_finishing: bool, bar: Bar) -> bool:
        pace, progress = self.recipe.pace, self.progress
        tokens, seconds, said = progress.tokens, progress.seconds, time.monotonic()
        for batch in self._batches():
            if progress.decay_from is None and (why := self._why_over(is_finishing)):
                progress.decay_from = progress.step
                self._curve.add("decay", progress, why=why)
                logger.info("step %d: %s: the rate now decays for %d steps", progress.step, why, pace.decay)
            end = pace.max_steps if progress.decay_from is None else progress.decay_from
            if progress.decay_from is not None and progress.step >= end + pace.decay:
                break
            begun = time.monotonic()
            loss = self._step(batch)
            progress.seconds += time.monotonic() - begun
            bar.show(progress.step, end + pace.decay)
            if progress.step % SAID_EVERY == 0 or time.monotonic() - said >= LOG_SECONDS:
                speed = (progress.tokens - tokens) / max(progress.seconds - seconds, 1e-9)
                tokens, seconds, said = progress.tokens, progress.seconds, time.monotonic()
                logger.info(
                    "epoch %d step %d loss %.3f, %.0f target tokens/s", progress.epoch, progress.step, loss, speed
                )
            if progress.step % pace.checkpoint_every == 0:
                self._keep()
            if progress.step % pace.validate_every == 0:
                self._validate("running")
            if stop_at is not None and time.monotonic() > stop_at:
                return False
        return True

    @property
    def is_finished(self) -> bool:
        """Whether OUT/model is there, made by this recipe of these data."""
        path = self.out / "model" / "record.json"
        if not path.is_file():
            return False
        made = json.loads(path.read_text("utf-8"))
        said = json.loads((self.out / "record.json").read_text("utf-8"))
        return all(made.get(key) == value for key, value in said.items() if key != "versions")

    def finish(self) -> Path:
        """Write the best of the last checkpoint and the average of the last ones; the folder they are in."""
        scores = {"last": self._validate("last")}
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(average(self.checkpoints.steps()[-KEPT:]))
        self.task.hold()
        scores["average"] = self._validate("average")
        better = "last" if scores["last"] >= scores["average"] else "average"
        if better == "last":
            self.model.load_state_dict(last)
        folder, unfinished = self.out / "model", self.out / "model.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        self.task.save(unfinished)
        record = json.loads((self.out / "record.json").read_text("utf-8"))
        record |= {"steps": self.progress.step, "seconds": round(self.progress.seconds, 1), "scores": scores}
        write_json(unfinished / "record.json", record)
        # What an earlier end of this run has written.
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
        other = "average" if better == "last" else "last"
        metric, *found = self.recipe.metric, *(self._shown(scores[name]) for name in (better, other))
        logger.info(
            "written to %s: %s with %s %s (%s: %s)", folder, _ENDS[better], metric, found[0], _ENDS[other], found[1]
        )
        return folder

    def _batches(self) -> Iterator[Any]:
        progress = self.progress
        while True:
            batches = self.task.batches(progress.epoch)
            if not batches:
                raise BadData(f"recipe {self.recipe.name}: its training files have nothing to train on")
            for batch in batches[progress.batch :]:
                progress.batch += 1
                yield batch
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _why_over(self, is_finishing: bool) -> str | None:
        """Why the rate is to decay from now on; None if it is not."""
        pace = self.recipe.pace
        if is_finishing or (self.out / "finish").exists():
            return "asked for"
        if self.progress.step >= pace.max_steps:
            return f"max_steps ({pace.max_steps}) reached"
        if 0 < pace.patience <= self._curve.since_best:
            return f"no better for {self._curve.since_best} validations"
        return None

    def _step(self, batch: Any) -> float:
        pace = self.recipe.pace
        for group in self.optimizer.param_groups:
            group["lr"] = rate(pace, self.progress)
        loss, tokens = self.task.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.task.hold()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), pace.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.hold()
        self.progress.step += 1
        self.progress.tokens += tokens
        return float(loss.detach())

    def _keep(self) -> None:
        self._chance.save(self.progress.step)
        self.checkpoints.save(self.model, self.optimizer, self.progress)
        self._chance.forget_before(self.progress.step)

    def _validate(self, what: str) -> float:
        """The mean score over the validation files, higher is better; a line of the curve."""
        self.model.eval()
        scores = self.task.scores()
        self.model.train()
        mean = sum(scores) / len(scores)
        self._curve.add(what, self.progress, scores)
        files = [part.file for part in self.recipe.valid]
        each = ", ".join(f"{self._shown(score)} ({file})" for score, file in zip(scores, files, strict=True))
        who = f" of {_ENDS[what]}" if what in _ENDS else ""
        logger.info("step %d: %s%s %s", self.progress.step, self.recipe.metric, who, each)
        return mean

    def _shown(self, score: float) -> str:
        """As people know it: what is the better the lower is a score with a minus."""
        digits = _DIGITS.get(self.recipe.metric)
        return f"{score:.1f}" if digits is None else f"{-score:.{digits}f}"

    def _record(self, facts: Mapping[str, object]) -> None:
        """Beside the curve, what made it: enough to make it again, or to see why it comes out otherwise."""
        said = {
            "recipe": asdict(self.recipe),
            **self.task.facts(),
            **facts,
            "parameters": sum(each.numel() for each in self.model.parameters()),
            "data": {name: file_digest(path) for name, path in sorted(self.task.files.items())},
            "versions": versions(PACKAGES),
        }
        path = self.out / "record.json"
        if self.checkpoints.is_begun and path.is_file():
            free = () if (self.out / "model").is_dir() else ("pace",)
            if differs := _differing(json.loads(path.read_text("utf-8")), json.loads(json.dumps(said)), free):
                raise OtherTraining(self.out, differs)
        write_json(path, said)


class Chance:
    """The state of the random numbers (dropout's, above all) beside a checkpoint: without it, a run taken up again
    would go on otherwise than an unbroken one. A checkpoint without it is taken up as well."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, step: int) -> None:
        states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        unfinished = self._folder / "random.unfinished"
        torch.save(states, unfinished)
        unfinished.replace(self._path(step))

    def load(self, step: int) -> None:
        path = self._path(step)
        if not path.exists():
            return
        here, *devices = torch.load(path, map_location="cpu", weights_only=True)
        torch.set_rng_state(here)
        # A run may be taken up on a machine with fewer devices than it began on.
        for device, state in zip(range(torch.cuda.device_count()), devices, strict=False):
            torch.cuda.set_rng_state(state, device)

    def forget_before(self, step: int) -> None:
        for path in self._folder.glob("random-*.pt"):
            if path != self._path(step):
                path.unlink()

    def _path(self, step: int) -> Path:
        return self._folder / f"random-{step:07d}.pt"


def judging(recipe: AnyRecipe, found: Sequence[Found]) -> list[Found]:
    """What was found of each validation file; BadData for a file that has nothing, before any training."""
    for file, some in zip([part.file for part in recipe.valid], found, strict=True):
        if not len(some):
            raise BadData(f"recipe {recipe.name}: {file} has nothing to judge by")
    return list(found)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], free: Sequence[str]) -> list[str]:
    """What of two records, as far as both say it, makes them different trainings; `free` may differ.

    Files are known by their content: a folder may be moved.
    """
    known, wanted = ({**record["recipe"], "data": sorted(record["data"].values())} for record in (one, other))
    known |= {"weights": one.get("weights")}
    wanted |= {"weights": other.get("weights")}
    for said in (known, wanted):
        for side in ("train", "valid"):
            said[side] = [{**part, "file": None} for part in said[side]]
    return [key for key, value in known.items() if key not in ("name", *free) and wanted.get(key, value) != value]
