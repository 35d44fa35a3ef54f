"""The engine that other tests rely on misbehaves exactly as told."""

import math
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from models.registry import EngineKind, ModelSpec, Task
from tests.engines.conftest import generated, outputs
from workers.engines.base import Engine, EngineBroken, Message, ModelUnavailable, OutOfMemory, Params, Prompt
from workers.engines.load import open_engine


def echo(**options: object) -> Engine:
    spec = ModelSpec("echo", Task.GENERATION, Path(), EngineKind.ECHO, options=options)  # type: ignore[arg-type]
    return open_engine(spec, Path("/nowhere"))


def test_the_output_is_the_input() -> None:
    texts = ["one two", "  spaces\tand\nlines ", "", "ß €"]

    assert outputs(echo(), texts, Params()) == texts
    assert outputs(echo(transform="upper"), texts[:1], Params()) == ["ONE TWO"]
    assert outputs(echo(transform="reverse"), texts[:1], Params()) == ["owt eno"]
    chat = Prompt(messages=(Message("system", "be kind"), Message("user", "hello you")))
    assert outputs(echo(), [chat], Params()) == ["hello you"]


def test_lengths_and_stops_are_honoured() -> None:
    engine = echo()
    made = generated(engine, engine.encode([Prompt("a b c"), Prompt("a b")], Params()), Params(max_new_tokens=2))

    assert [(len(each.tokens), each.finish_reason) for each in made] == [(2, "length"), (2, "stop")]
    assert outputs(engine, ["say b and c"], Params(stop=(" and",))) == ["say b"]
    assert engine.encode([Prompt("w" + " w" * 1029)], Params())[0].dropped == 6


def test_the_best_of_a_search_are_one_word_shorter_each() -> None:
    engine, params = echo(scores=True), Params(num_beams=4, n=3)

    [made] = generated(engine, engine.encode([Prompt("a b c")], params), params)

    assert engine.decode(made.all, params) == ["a b c", "a b", "a"]
    assert [each.score for each in made.all] == pytest.approx([-0.1, -0.2, -0.3])
    [plain] = generated(echo(), engine.encode([Prompt("a b c")], params), params)
    assert [each.score for each in plain.all] == [None, None, None]


def test_a_text_has_always_the_same_vector_of_length_one() -> None:
    spec = ModelSpec("echo", Task.EMBEDDING, Path(), EngineKind.ECHO)
    engine = open_engine(spec, Path("/nowhere"))

    made = generated(engine, engine.encode([Prompt("one"), Prompt("two"), Prompt("one")], Params()), Params())
    numbers = [struct.unpack("<8f", each.vector or b"") for each in made]

    assert numbers[0] == numbers[2] != numbers[1]
    assert all(math.hypot(*each) == pytest.approx(1, abs=1e-6) for each in numbers)
    assert engine.decode(made, Params()) == ["", "", ""]


def test_it_notices_a_stop_while_it_is_slow() -> None:
    engine = echo(seconds_per_batch=60.0, batch_tokens=1)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()

    made = list(engine.generate(engine.encode([Prompt("a"), Prompt("b")], Params()), Params(), stop.is_set))

    assert made == []
    assert time.monotonic() - start < 1


def test_shrinking_makes_a_batch_fit() -> None:
    engine = echo(capacity=10)
    encoded = engine.encode([Prompt("one two three")] * 16, Params())
    shrunk = 0
    while True:
        try:
            made = generated(engine, encoded, Params())
            break
        except OutOfMemory:
            assert engine.shrink()
            shrunk += 1

    assert len(made) == 16
    assert shrunk == 3  # 48 tokens, 24, 12, 6


def test_a_prompt_that_never_fits_cannot_be_shrunk() -> None:
    engine = echo(capacity=2)

    with pytest.raises(OutOfMemory):
        generated(engine, engine.encode([Prompt("one two three")], Params()), Params())
    assert not engine.shrink()


@pytest.mark.parametrize(("marker", "error"), [("[[fail]]", ValueError), ("[[oom]]", OutOfMemory)])
def test_markers_are_obeyed_only_where_options_say_so(marker: str, error: type[Exception]) -> None:
    assert outputs(echo(), [marker], Params()) == [marker]

    with pytest.raises(error):
        outputs(echo(markers=True), ["fine", f"not {marker} fine"], Params())


def test_a_broken_engine_stays_broken() -> None:
    engine = echo(markers=True)

    with pytest.raises(EngineBroken):
        outputs(engine, ["[[broken]]"], Params())
    with pytest.raises(EngineBroken):
        outputs(engine, ["harmless"], Params())


def test_a_kill_is_a_kill() -> None:
    program = (
        "from tests.engines.test_echo import echo, outputs, Params\noutputs(echo(markers=True), ['[[kill]]'], Params())"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)

    assert done.returncode == -9


def test_a_hang_notices_nothing() -> None:
    engine = echo(markers=True)
    thread = threading.Thread(target=outputs, args=(engine, ["[[hang]]"], Params()), daemon=True)

    thread.start()
    thread.join(0.3)

    assert thread.is_alive()


def test_an_unavailable_model_says_why() -> None:
    with pytest.raises(ModelUnavailable, match="the dog ate it"):
        echo(unavailable="the dog ate it")
    with pytest.raises(ModelUnavailable, match="options cannot be understood"):
        echo(transform="rot13")


def test_a_batch_by_its_number_does_not_fit_once() -> None:
    engine = echo(oom_at=2)

    assert outputs(engine, ["first"], Params()) == ["first"]
    with pytest.raises(OutOfMemory):
        outputs(engine, ["second"], Params())
    assert outputs(engine, ["third"], Params()) == ["third"]


@pytest.mark.parametrize(("marker", "answers"), [("[[short]]", 1), ("[[twice]]", 4)])
def test_it_answers_too_few_or_too_many(marker: str, answers: int) -> None:
    engine = echo(markers=True)
    encoded = engine.encode([Prompt("fine"), Prompt(f"not {marker}")], Params())

    assert len(list(engine.generate(encoded, Params(), lambda: False))) == answers


def test_what_it_computes_is_logged_a_line_each(tmp_path: Path) -> None:
    outputs(echo(log=str(tmp_path / "log")), ["one", "two"], Params())

    assert sorted((tmp_path / "log").read_text().splitlines()) == ["one", "two"]


def test_loading_takes_as_long_as_told() -> None:
    start = time.monotonic()

    echo(load_seconds=0.3)

    assert time.monotonic() - start >= 0.3
