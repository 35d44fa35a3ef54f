"""One bad prompt costs one result; the device running out of memory costs none."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from workers.engines.base import Encoded, EngineBroken, Generation, OutOfMemory, Params
from workers.isolation import generate


class Faulty:
    """An engine of our own that generates lengths, and breaks as it is told."""

    def __init__(self, poison: Sequence[str] = (), capacity: int = 10**9, drop: str | None = None) -> None:
        self.poison, self.capacity, self.drop = set(poison), capacity, drop
        self.batch = 64
        self.calls: list[int] = []

    def generate(
        self,
        prompts: Sequence[Encoded],
        params: Params,
        should_stop: Callable[[], bool],
        on_drained: Callable[[], None],
    ) -> Iterator[Generation]:
        for start in range(0, len(prompts), self.batch):
            batch = prompts[start : start + self.batch]
            self.calls.append(len(batch))
            words = {str(prompt.tokens[0]) for prompt in batch}
            if sum(map(len, batch)) > self.capacity:
                raise OutOfMemory("too much")
            if words & self.poison:
                raise ValueError("poison")
            for offset, prompt in enumerate(batch):
                if self.drop not in words or str(prompt.tokens[0]) != self.drop:
                    yield Generation(start + offset, prompt.tokens, "stop")

    def shrink(self) -> bool:
        halved = self.batch > 1
        self.batch = max(1, self.batch // 2)
        return halved


def prompts(count: int) -> list[Encoded]:
    return [Encoded((f"w{number}",)) for number in range(count)]


def never() -> bool:
    return False


@pytest.mark.parametrize("count", [1, 2, 7, 64, 200])
def test_a_healthy_engine_answers_every_prompt(count: int) -> None:
    outputs = generate(Faulty(), prompts(count), Params(), never)  # type: ignore[arg-type]

    assert {place: found.tokens for place, found in outputs.generations.items()} == {
        place: (f"w{place}",) for place in range(count)
    }


@pytest.mark.parametrize("guilty", [0, 1, 63, 64, 99])
def test_a_poisonous_prompt_fails_alone(guilty: int) -> None:
    outputs = generate(Faulty(poison=[f"w{guilty}"]), prompts(100), Params(), never)  # type: ignore[arg-type]

    assert set(outputs.faults) == {guilty}
    assert outputs.faults[guilty].code == "engine_error"
    assert len(outputs.generations) == 99


def test_finding_the_guilty_one_runs_the_prompts_at_most_three_times() -> None:
    engine = Faulty(poison=["w37"])

    generate(engine, prompts(64), Params(), never)  # type: ignore[arg-type]

    assert sum(engine.calls) <= 64 * 3


def test_out_of_memory_halves_the_batch_and_loses_nothing() -> None:
    engine = Faulty(capacity=10)

    outputs = generate(engine, prompts(100), Params(), never)  # type: ignore[arg-type]

    assert len(outputs.generations) == 100
    assert engine.batch <= 10


def test_a_prompt_that_never_fits_fails_alone() -> None:
    many = [*prompts(20), Encoded(("huge",) * 50)]

    outputs = generate(Faulty(capacity=20), many, Params(), never)  # type: ignore[arg-type]

    assert {place: fault.code for place, fault in outputs.faults.items()} == {20: "item_too_large"}
    assert len(outputs.generations) == 20


def test_a_missing_output_is_the_fault_of_its_prompt_only() -> None:
    outputs = generate(Faulty(drop="w5"), prompts(30), Params(), never)  # type: ignore[arg-type]

    assert set(outputs.faults) == {5}
    assert len(outputs.generations) == 29


def test_once_stopped_nothing_more_is_run() -> None:
    engine = Faulty()

    outputs = generate(engine, prompts(10), Params(), lambda: True)  # type: ignore[arg-type]

    assert engine.calls == [] and not outputs.generations and not outputs.faults


def test_a_broken_engine_is_passed_on() -> None:
    class Broken(Faulty):
        def generate(self, *_: object) -> Iterator[Generation]:
            raise EngineBroken("device-side assert")
            yield

    with pytest.raises(EngineBroken):
        generate(Broken(), prompts(3), Params(), never)  # type: ignore[arg-type]


def test_an_engine_that_fails_after_its_last_answer_is_left_at_that() -> None:
    class Late(Faulty):
        def generate(self, prompts: Sequence[Encoded], *_: object) -> Iterator[Generation]:  # type: ignore[override]
            self.calls.append(len(prompts))
            for index, prompt in enumerate(prompts):
                yield Generation(index, prompt.tokens, "stop")
            raise ValueError("on the way out")

    engine = Late()
    outputs = generate(engine, prompts(5), Params(), never)  # type: ignore[arg-type]

    assert len(outputs.generations) == 5 and not outputs.faults
    assert engine.calls == [5]


def test_one_prompt_that_never_fits_does_not_make_all_others_run_alone() -> None:
    class Stubborn(Faulty):
        def shrink(self) -> bool:
            return False

    engine = Stubborn(capacity=200)
    many = [*prompts(100), Encoded(("huge",) * 500)]
    outputs = generate(engine, many, Params(), never)  # type: ignore[arg-type]

    assert set(outputs.faults) == {100}
    assert len(engine.calls) < 30


def test_out_of_memory_beside_another_chunk_leaves_the_rest_for_later() -> None:
    class Crowded(Faulty):
        def generate(self, prompts: Sequence[Encoded], *_: object) -> Iterator[Generation]:  # type: ignore[override]
            yield Generation(0, prompts[0].tokens, "stop")
            raise OutOfMemory("too much", is_shared=True)

    engine = Crowded()
    before = engine.batch

    outputs = generate(engine, prompts(2), Params(), never)  # type: ignore[arg-type]

    assert set(outputs.generations) == {0} and not outputs.faults
    assert outputs.halvings == 1 and engine.batch < before


def test_only_the_last_slice_lets_the_next_chunk_in() -> None:
    class Drained(Faulty):
        def generate(
            self,
            prompts: Sequence[Encoded],
            params: Params,
            should_stop: Callable[[], bool],
            on_drained: Callable[[], None],
        ) -> Iterator[Generation]:
            on_drained()
            yield from super().generate(prompts, params, should_stop, on_drained)

    engine, seen = Drained(), []

    generate(  # type: ignore[arg-type]
        engine,
        prompts(6),
        Params(),
        never,
        slices=[[0, 1], [2, 3], [4, 5]],
        on_drained=lambda: seen.append(engine.calls),
    )

    assert seen == [engine.calls] and len(engine.calls) == 3
