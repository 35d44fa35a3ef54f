"""Running a chunk's prompts so that a fault costs as few of them as possible."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.engines.base import Encoded, Engine, EngineBroken, Generation, OutOfMemory, Params, ignore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one prompt has no output."""

    code: str
    message: str
    # The decoding parameter that is to blame, if one is.
    param: str | None = None


@dataclass(slots=True)
class Outputs:
    """What came out, by place in the prompts. Places in neither dict were not reached (stopped)."""

    generations: dict[int, Generation] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    # How often the device batch was halved on the way.
    halvings: int = 0


class WrongOutputs(Exception):
    """The engine broke its promise: an index twice, one that was never asked for, or too few or too many of them."""


def generate(
    engine: Engine,
    prompts: Sequence[Encoded],
    params: Params,
    should_stop: Callable[[], bool],
    on_progress: Callable[[], None] = lambda: None,
    slices: Sequence[Sequence[int]] | None = None,
    is_enough: Callable[[], bool] = lambda: False,
    on_drained: Callable[[], None] = ignore,
) -> Outputs:
    """Generate for every prompt; a prompt that cannot be done fails alone.

    With `slices` (places, together all prompts) the engine is given one slice after the other, and
    no further one once `is_enough` says so: what runs is finished, what waits is left. `on_drained` is
    called when the engine says so of the last one; the next chunk may begin beside it then.

    Out of memory halves the device batch and goes on with what is left; a prompt that does not fit by itself is a
    fault. Beside another chunk on the device it proves nothing, and what is left is left. Any other exception is
    bisected to the guilty prompts: with one among n, the prompts run at most three times on average. EngineBroken is
    passed on: nothing in this process can be trusted after it.
    """
    outputs = Outputs()
    todo = [list(range(len(prompts)))] if slices is None else [list(places) for places in reversed(slices)]
    while todo and not should_stop() and not is_enough():
        if not (places := todo.pop()):
            # A batch that failed only after its last answer has nothing left.
            continue
        try:
            _attempt(engine, prompts, places, params, should_stop, on_progress, outputs, ignore if todo else on_drained)
        except EngineBroken:
            raise
        except OutOfMemory as exc:
            left = [place for place in places if place not in outputs.generations]
            is_smaller = engine.shrink()
            outputs.halvings += is_smaller
            if exc.is_shared:
                logger.warning("out of memory beside another chunk: %s", exc, extra={"action": "batch_halved"})
                break
            if is_smaller:
                logger.warning(
                    "out of memory, going on with smaller batches: %s", exc, extra={"action": "batch_halved"}
                )
                todo.append(left)
            elif len(left) == 1:
                outputs.faults[left[0]] = Fault("item_too_large", f"this item alone does not fit the device: {exc}")
            else:
                todo += _halves(left)
        except Exception as exc:
            left = [place for place in places if place not in outputs.generations]
            if len(left) == 1:
                logger.warning("an item failed in the engine", exc_info=exc, extra={"action": "item_failed"})
                message = f"the engine failed on this item: {type(exc).__name__}"
                outputs.faults[left[0]] = Fault("engine_error", message)
            else:
                todo += _halves(left)
    return outputs


def _halves(places: list[int]) -> list[list[int]]:
    """For a stack, so the first half comes last."""
    middle = len(places) // 2
    return [places[middle:], places[:middle]]


def _attempt(
    engine: Engine,
    prompts: Sequence[Encoded],
    places: list[int],
    params: Params,
    should_stop: Callable[[], bool],
    on_progress: Callable[[], None],
    outputs: Outputs,
    on_drained: Callable[[], None],
) -> None:
    """One call of the engine; its promise - each prompt once, none else - is checked as it answers."""
    seen = 0
    for generation in engine.generate([prompts[place] for place in places], params, should_stop, on_drained):
        if not 0 <= generation.index < len(places) or places[generation.index] in outputs.generations:
            raise WrongOutputs(f"the engine answered prompt {generation.index} of {len(places)} twice or unasked")
        outputs.generations[places[generation.index]] = generation
        seen += 1
        on_progress()
    if seen < len(places) and not should_stop():
        raise WrongOutputs(f"the engine returned {seen} outputs for {len(places)} prompts")
