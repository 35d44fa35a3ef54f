"""Runs the models of a plan against each other: rounds in turn, then what each model is asked alone."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from models.spec import Task
from training.evaluation.measured import Measured, Probed, Shelf
from training.evaluation.plan import Plan
from training.evaluation.trial import Trial
from training.progress import progress
from workers.engines.load import decoding_params

logger = logging.getLogger("training")

WARM_UP = 32


def measure(plan: Plan, shelf: Shelf) -> dict[str, Measured]:
    """Every model's figures, those on the shelf not measured again; TrialFailed if a model cannot do it.

    Models that have something left to do are all loaded at once, so that they can take turns.
    """
    measured = {spec.name: shelf.take(spec.name) for spec in plan.specs}
    with ExitStack() as stack:
        trials: list[Trial] = []
        for place, (spec, params) in enumerate(zip(plan.specs, plan.params, strict=True)):
            found = measured[spec.name]
            if not _is_done(plan, place, found):
                logger.info("loading %s", spec.name)
                trial = stack.enter_context(Trial(spec, plan.cache, decoding_params(params), plan.device))
                loaded = trial.load()
                found.loaded = found.loaded or loaded
                trials.append(trial)
                trial.run([item.source for item in plan.items[:WARM_UP]])
            else:
                logger.info("%s: measured by an earlier run", spec.name)
        _rounds(plan, trials, measured, shelf)
        for trial in trials:
            _alone(plan, trial, measured[trial.spec.name], shelf)
    # An earlier run may have had more of them.
    for found in measured.values():
        del found.rounds[plan.rounds :]
    return measured


def _rounds(plan: Plan, trials: Sequence[Trial], measured: dict[str, Measured], shelf: Shelf) -> None:
    texts = [item.source for item in plan.items]
    turns = [
        trial
        for turn in range(plan.rounds)
        for trial in _turned(trials, turn)
        if len(measured[trial.spec.name].rounds) <= turn
    ]
    for trial in progress(turns, len(turns), "rounds"):
        found = measured[trial.spec.name]
        found.rounds.append(trial.run(texts))
        done, seconds = len(found.rounds), found.rounds[-1].seconds
        logger.info("%s: round %d of %d took %.1f s", trial.spec.name, done, plan.rounds, seconds)
        found.peak_bytes = max(found.peak_bytes, trial.peak_bytes())
        shelf.put(trial.spec.name, found)


def _turned(trials: Sequence[Trial], turn: int) -> list[Trial]:
    """Each round begins with another model, so that none always follows the same one."""
    first = turn % max(1, len(trials))
    return [*trials[first:], *trials[:first]]


def _alone(plan: Plan, trial: Trial, found: Measured, shelf: Shelf) -> None:
    """The probe first: what comes after it gives the engine back."""
    place = [spec.name for spec in plan.specs].index(trial.spec.name)
    if not _is_probed(plan, place, found):
        asked = plan.probes[place]
        logger.info("%s: bias probe, %d inputs", trial.spec.name, len(asked.texts))
        outputs = trial.run(asked.texts, asked.params).outputs
        nats = trial.nats(asked.texts) if asked.task is Task.GENERATION else []
        found.probed = Probed(asked.digest, outputs, nats)
        shelf.put(trial.spec.name, found)
    if plan.has_perplexity and found.perplexity is None:
        logger.info("%s: perplexity", trial.spec.name)
        found.perplexity = trial.perplexity(plan.items)
        shelf.put(trial.spec.name, found)
    if plan.counted and found.baseline is None:
        logger.info("%s: 3-gram baseline", trial.spec.name)
        found.baseline = trial.baseline(plan.items, plan.counted)
        shelf.put(trial.spec.name, found)


def _is_done(plan: Plan, place: int, found: Measured) -> bool:
    return (
        len(found.rounds) >= plan.rounds
        and (found.perplexity is not None or not plan.has_perplexity)
        and (found.baseline is not None or not plan.counted)
        and _is_probed(plan, place, found)
    )


def _is_probed(plan: Plan, place: int, found: Measured) -> bool:
    if not plan.probes:
        return True
    return found.probed is not None and found.probed.digest == plan.probes[place].digest
