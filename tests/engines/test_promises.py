"""What the runner may rely on, from each engine: order, lengths, batch-mates, cuts, stops, cancelling."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import pytest

from models.registry import EngineKind
from tests.engines.conftest import CAUSAL, SEQ2SEQ, SETTINGS, Bench, generated, languages, outputs
from workers.engines.base import Encoded, Generation, Message, Params, Prompt

ENGINES = [EngineKind.CTRANSLATE2, EngineKind.TRANSFORMERS]
TEXTS = [f"{'the quick brown fox jumps over ' * (number % 4)}number {number}" for number in range(24)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [*SEQ2SEQ, *CAUSAL])
def test_output_does_not_depend_on_the_batch(bench: Bench, kind: str, engine: EngineKind) -> None:
    opened = bench.open(kind, engine)
    languages_of = languages(bench.spec(kind))
    for changes in ({}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "min_new_tokens": 4}, {"num_beams": 3}):
        params = replace(Params(max_new_tokens=10, **languages_of), **changes)
        encoded = opened.encode([Prompt(text) for text in TEXTS], params)

        together = [each.tokens for each in generated(opened, encoded, params)]
        alone = [generated(opened, [each], params)[0].tokens for each in encoded]
        backwards = [each.tokens for each in generated(opened, encoded[::-1], params)][::-1]

        assert together == alone
        assert together == backwards


def test_a_prompt_of_one_token_does_not_spoil_its_batch(bench: Bench) -> None:
    params = Params(max_new_tokens=10)
    for kind in CAUSAL:
        engine = bench.open(kind)
        encoded = engine.encode([Prompt(text) for text in ("the quick brown fox", "x", "we translate", "")], params)
        assert min(map(len, encoded)) == 1

        together = [each.tokens for each in generated(engine, encoded, params)]

        assert together == [generated(engine, [each], params)[0].tokens for each in encoded]


@pytest.mark.parametrize("engine", ENGINES)
def test_thousands_of_prompts_come_back_each_with_its_own_output(
    bench: Bench, engine: EngineKind, sentences: list[str]
) -> None:
    texts = sentences[:300] if engine is EngineKind.TRANSFORMERS else sentences
    params = Params(max_new_tokens=40)

    forwards = outputs(bench.open("starter", engine), texts, params)
    backwards = outputs(bench.open("starter", engine), texts[::-1], params)

    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 0.9 * len(texts)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_in_gives_nothing_out(bench: Bench, engine: EngineKind) -> None:
    opened = bench.open("t5", engine)

    assert opened.encode([], Params()) == []
    assert list(opened.generate([], Params(), lambda: False)) == []
    assert opened.decode([], Params()) == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_a_cut_is_reported_and_keeps_the_special_tokens(bench: Bench, kind: str, engine: EngineKind) -> None:
    opened = bench.open(kind, engine)
    params = Params(max_new_tokens=5, **languages(bench.spec(kind)))
    short, long = opened.encode([Prompt("fox"), Prompt("the quick brown fox " * 200)], params)

    assert short.dropped == 0
    assert len(long) == opened.limits.max_input
    assert long.dropped > 0
    assert long.tokens[-1] == short.tokens[-1]
    if kind in ("marian", "m2m100", "bart"):
        assert long.tokens[0] == short.tokens[0]
    assert len(generated(opened, [long], params)) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_an_input_of_exactly_as_many_tokens_as_may_be_is_not_cut(bench: Bench, engine: EngineKind) -> None:
    prompt = Prompt("the quick brown fox")
    [whole] = bench.open("bart", engine).encode([prompt], Params())
    most = len(whole)
    found = [
        bench.open("bart", engine, max_input_tokens=limit).encode([prompt], Params())[0]
        for limit in (most + 1, most, most - 1)
    ]

    assert [(len(each), each.dropped) for each in found] == [(most, 0), (most, 0), (most - 1, 1)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cut_chat_still_ends_with_the_assistants_turn(bench: Bench, engine: EngineKind) -> None:
    opened = bench.open("llama", engine)
    params = Params(max_new_tokens=20)
    short, long = (
        opened.encode([Prompt(messages=(Message("user", "the fox " * times),))], params)[0] for times in (1, 100)
    )

    assert long.dropped > 0 and short.dropped == 0
    assert len(long) == opened.limits.max_input - 20
    assert long.tokens[-6:] == short.tokens[-6:]


@pytest.mark.parametrize("engine", ENGINES)
def test_limits_come_from_the_model_and_are_lowered_by_the_entry(bench: Bench, engine: EngineKind) -> None:
    assert bench.open("starter", engine).limits.max_input == 256
    assert bench.open("t5", engine).limits.max_input == 512
    assert bench.open("m2m100", engine).limits.max_output == 95
    assert bench.open("llama", engine).limits.shared_context
    lowered = bench.open("bart", engine, max_input_tokens=30, max_output_tokens=7)
    assert (lowered.limits.max_input, lowered.limits.max_output) == (30, 7)
    made = generated(lowered, lowered.encode([Prompt("the quick brown fox")], Params()), Params())
    assert len(made[0].tokens) <= 7


@pytest.mark.parametrize("engine", ENGINES)
def test_a_length_finish_is_told_from_an_end(bench: Bench, engine: EngineKind, sentences: list[str]) -> None:
    opened = bench.open("starter", engine)
    encoded = opened.encode([Prompt(sentences[0])], Params())

    whole = generated(opened, encoded, Params(max_new_tokens=60))[0]
    cut = generated(opened, encoded, Params(max_new_tokens=2))[0]

    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.tokens == whole.tokens[:2]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["starter", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_are_literal_and_may_lie_across_tokens(
    bench: Bench, kind: str, engine: EngineKind, beams: int
) -> None:
    opened = bench.open(kind, engine)
    params = Params(max_new_tokens=24, num_beams=beams)
    texts = ["How are you today?", "We are going home now.", "I have two brothers."]
    whole = outputs(opened, texts, params)
    # From the middle of the first output, so that it begins and ends wherever tokens happen not to.
    middle = len(whole[0]) // 2
    stop = whole[0][middle : middle + 4]

    stopped = replace(params, stop=(stop, "[.*]"))
    encoded = opened.encode([Prompt(text) for text in texts], stopped)
    made = generated(opened, encoded, stopped)
    cut = opened.decode(made, stopped)

    assert cut == [text.split(stop)[0] for text in whole]
    assert made[0].finish_reason == "stop"
    assert len(made[0].tokens) < 24


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["starter", "llama"])
def test_sampling_varies_and_greedy_does_not(bench: Bench, kind: str, engine: EngineKind) -> None:
    opened = bench.open(kind, engine)
    params = Params(max_new_tokens=16, temperature=1.5)

    assert outputs(opened, TEXTS, params) != outputs(opened, TEXTS, params)
    narrow = replace(params, top_k=1)
    assert outputs(opened, TEXTS, narrow) == outputs(opened, TEXTS, Params(max_new_tokens=16))


def test_a_seed_repeats_a_sample_whatever_is_in_the_batch(bench: Bench) -> None:
    for kind in ("starter", "llama"):
        engine = bench.open(kind, EngineKind.TRANSFORMERS)
        params = Params(max_new_tokens=16, temperature=1.0, top_p=0.95, seed=3)

        together = outputs(engine, TEXTS, params)

        assert together == [outputs(engine, [text], params)[0] for text in TEXTS]
        assert together != outputs(engine, TEXTS, replace(params, seed=4))


@pytest.mark.parametrize("kind", ["starter", "llama"])
def test_copies_of_a_prompt_differ_and_are_repeated_by_their_seed(bench: Bench, kind: str) -> None:
    engine = bench.open(kind, EngineKind.TRANSFORMERS)
    params = Params(max_new_tokens=16, temperature=1.5, seed=3)
    one, other = engine.encode([Prompt("the quick brown fox"), Prompt("we translate")], params)
    copies = [msgspec.structs.replace(one, choice=choice) for choice in range(6)]

    together = [each.tokens for each in generated(engine, [*copies, other], params)]
    alone = [generated(engine, [copy], params)[0].tokens for copy in (*copies, other)]

    assert together == alone
    assert len(set(together[:6])) == 6
    # Who asks for one gets what the first of several is.
    assert together[0] == generated(engine, [one], params)[0].tokens


def test_copies_of_a_prompt_differ_without_a_seed_too(bench: Bench) -> None:
    for engine in (bench.open("llama", kind) for kind in ENGINES):
        params = Params(max_new_tokens=16, temperature=1.5)
        [one] = engine.encode([Prompt("the quick brown fox")], params)

        made = generated(engine, [msgspec.structs.replace(one, choice=choice) for choice in range(6)], params)

        assert len({each.tokens for each in made}) == 6


def test_seeded_samples_follow_the_models_distribution(bench: Bench) -> None:
    """The noise must not shift the odds: the first token's frequencies are near its probabilities."""
    import torch

    from workers.engines.sampling import SeededSampler

    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = [Encoded((number,)) for number in range(20_000)]
    scores = probabilities.log().repeat(len(rows), 1)

    drawn = SeededSampler(rows, 1)(torch.zeros(len(rows), 1), scores).argmax(-1)

    assert torch.bincount(drawn, minlength=4) / len(rows) == pytest.approx(probabilities, abs=0.015)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_cancel_ends_a_long_decode_within_a_second(bench: Bench, engine: EngineKind, beams: int) -> None:
    opened = bench.open("t5", engine, max_output_tokens=100_000)
    params = Params(max_new_tokens=32_768 if beams == 1 else 2000, min_new_tokens=2000, num_beams=beams)
    encoded = opened.encode([Prompt(text) for text in TEXTS], params)
    start = time.monotonic()

    made = list(opened.generate(encoded, params, lambda: time.monotonic() - start > 0.3))

    assert time.monotonic() - start < 1.3
    assert made == []


def test_an_abandoned_generator_leaves_the_engine_usable(bench: Bench, sentences: list[str]) -> None:
    engine = bench.open("starter")
    params = Params(max_new_tokens=40)
    encoded = engine.encode([Prompt(text) for text in sentences[:200]], params)

    running = engine.generate(encoded, params, lambda: False)
    next(running)
    running.close()

    assert len(generated(engine, encoded, params)) == 200


def test_a_call_that_is_let_in_early_changes_nothing(bench: Bench, sentences: list[str]) -> None:
    """The second begins when the last batches of the first are on the device, in another thread."""
    engine = bench.open("starter", options={"inter_threads": 2, "intra_threads": 1, "batch_tokens": 256})
    params = Params(max_new_tokens=40)
    encoded = [
        engine.encode([Prompt(text) for text in texts], params) for texts in (sentences[:150], sentences[150:300])
    ]
    alone = [generated(engine, each, params) for each in encoded]
    drained = threading.Event()

    def made(number: int) -> list[Generation]:
        if number == 1:
            assert drained.wait(60)
        return sorted(engine.generate(encoded[number], params, lambda: False, drained.set), key=lambda each: each.index)

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(made, range(2)))

    assert [[each.tokens for each in some] for some in together] == [[each.tokens for each in some] for some in alone]


def test_with_one_replica_nothing_is_let_in(bench: Bench, sentences: list[str]) -> None:
    engine = bench.open("starter", options={"inter_threads": 1, "intra_threads": 2, "batch_tokens": 256})
    encoded = engine.encode([Prompt(text) for text in sentences[:20]], Params())
    told: list[bool] = []

    list(engine.generate(encoded, Params(), lambda: False, lambda: told.append(True)))

    assert told == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_score_is_the_mean_log_probability(
    bench: Bench, engine: EngineKind, beams: int, sentences: list[str]
) -> None:
    plain = bench.open("starter", EngineKind.TRANSFORMERS)
    scored = bench.open("starter", engine, options={**SETTINGS, "scores": True})
    params = Params(max_new_tokens=40, num_beams=beams, length_penalty=0.6)
    encoded = scored.encode([Prompt(text) for text in sentences[:5]], params)

    made = generated(scored, encoded, params)

    for each, text in zip(made, sentences, strict=False):
        assert each.score == pytest.approx(
            _mean_log_probability(plain, f">>de<< {text}", scored.decode([each], params)[0]), abs=2e-3
        )


def _mean_log_probability(engine: object, text: str, output: str) -> float:
    """By forced decoding, independent of how an engine searches."""
    import torch

    model, tokenizer = engine._model, engine._tokens._tokenizer  # type: ignore[attr-defined]
    tokenized = tokenizer([text], text_target=[output], return_tensors="pt")
    with torch.inference_mode():
        loss = model(**tokenized).loss
    return -float(loss)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_recipe_names_what_the_output_depends_on(bench: Bench, engine: EngineKind) -> None:
    one, other = bench.open("llama", engine).recipe, bench.open("gpt2", engine).recipe

    assert one.engine == engine and one.device == "cpu" and one.engine_version
    assert len(one.weights_hash) == 64 and one.weights_hash != other.weights_hash
    assert one.tokenizer_hash and one.quantization == "float32"


@pytest.mark.parametrize("engine", ENGINES)
def test_shrinking_ends_at_a_single_prompt(bench: Bench, engine: EngineKind) -> None:
    options = {**SETTINGS, "batch_tokens": 8, "fresh": True}
    opened = bench.open("llama", engine, options=options)

    assert [opened.shrink() for _ in range(4)] == [True, True, True, False]
    assert len(outputs(opened, TEXTS[:4], Params(max_new_tokens=3))) == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_messages_for_a_model_without_chats_are_refused_by_name(bench: Bench, engine: EngineKind) -> None:
    chat = Prompt(messages=(Message("user", "hello"),))

    with pytest.raises(ValueError, match="model bart takes a text, not messages"):
        bench.open("bart", engine).encode([chat], Params())


def test_foreign_tokens_are_the_callers_fault_not_the_devices(bench: Bench) -> None:
    engine = bench.open("t5", EngineKind.TRANSFORMERS)

    with pytest.raises(IndexError):
        list(engine.generate([Encoded((999_999,))], Params(max_new_tokens=2), lambda: False))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["m2m100", "llama"])
def test_encoding_and_decoding_may_go_on_beside_generating(bench: Bench, kind: str, engine: EngineKind) -> None:
    """The runner reads, generates and writes in three threads; fast tokenizers refuse two users at a wrong moment."""
    opened = bench.open(kind, engine)
    params = Params(max_new_tokens=6, stop=("zzz",), **languages(bench.spec(kind)))
    other = replace(params, source_lang="de" if params.source_lang else None)
    encoded = opened.encode([Prompt(text) for text in TEXTS], params)
    made = generated(opened, encoded, params)
    texts = opened.decode(made, params)

    def rounds(work: Callable[[], object]) -> list[object]:
        return [work() for _ in range(8)]

    with ThreadPoolExecutor(4) as pool:
        same = pool.submit(rounds, lambda: opened.encode([Prompt(text) for text in TEXTS], params))
        foreign = pool.submit(rounds, lambda: opened.encode([Prompt(text) for text in TEXTS], other))
        written = pool.submit(rounds, lambda: opened.decode(made, params))
        again = [generated(opened, encoded, params) for _ in range(4)]

    assert all(each == encoded for each in same.result())
    assert len(foreign.result()) == 8
    assert all(each == texts for each in written.result())
    assert all([one.tokens for one in each] == [one.tokens for one in made] for each in again)
