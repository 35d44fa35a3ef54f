"""Log-probabilities of the output's tokens, against a plain forward pass, and the bytes that they stand for."""

import math
from dataclasses import replace

import pytest
import torch

from models.registry import EngineKind
from tests.engines.conftest import CAUSAL, SETTINGS, Bench, generated
from workers.engines.base import Engine, Generation, Params, Prompt

TEXTS = ["the quick brown fox", "x", "Émile sleeps in the sun 🙂", "we translate text by the file"]
PROMPTS = [Prompt(text) for text in TEXTS]


def told(engine: Engine, params: Params, prompts: list[Prompt] = PROMPTS) -> list[Generation]:
    return generated(engine, engine.encode(prompts, params), params)


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"temperature": 1.3, "top_p": 0.9, "top_k": 40, "seed": 2}, id="sampled"),
        pytest.param({"repetition_penalty": 1.5, "min_new_tokens": 6}, id="bent"),
        pytest.param({"json_schema": '{"type":"string"}'}, id="held"),
    ],
)
def test_they_are_those_of_a_forward_pass(bench: Bench, kind: str, changes: dict[str, object]) -> None:
    engine = bench.open(kind, EngineKind.TRANSFORMERS)
    params = Params(max_new_tokens=10, top_logprobs=3, **changes)  # type: ignore[arg-type]
    encoded = engine.encode(PROMPTS, params)

    for prompt, each in zip(encoded, generated(engine, encoded, params), strict=True):
        expected = _distribution(engine, [*prompt.tokens, *each.tokens])[len(prompt) - 1 : -1]
        assert each.logprobs is not None and len(each.logprobs) == len(each.tokens) == len(expected)
        for token, odds, row in zip(each.tokens, each.logprobs, expected, strict=True):
            assert odds.logprob == pytest.approx(float(row[int(token)]), abs=1e-3)
            assert [top.logprob for top in odds.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)


def test_the_likeliest_come_first_and_hold_the_greedy_choice(bench: Bench) -> None:
    engine = bench.open("llama", EngineKind.TRANSFORMERS)

    for each in told(engine, Params(max_new_tokens=8, top_logprobs=20)):
        for odds in each.logprobs or ():
            assert len(odds.top) == 20
            assert (odds.top[0].text, odds.top[0].logprob) == (odds.text, odds.logprob)
            assert sorted((top.logprob for top in odds.top), reverse=True) == [top.logprob for top in odds.top]
            assert sum(math.exp(top.logprob) for top in odds.top) <= 1.0001


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_bytes_of_the_tokens_are_those_of_the_text(bench: Bench, kind: str) -> None:
    engine = bench.open(kind, EngineKind.TRANSFORMERS)
    for seed in range(5):
        params = Params(max_new_tokens=16, temperature=1.5, seed=seed, top_logprobs=0)
        made = told(engine, params)

        for each, text in zip(made, engine.decode(made, params), strict=True):
            joined = b"".join(odds.bytes for odds in each.logprobs or ())
            # A character may be cut off by the length limit; the text shows that as the replacement character.
            assert joined.decode("utf-8", "replace") == text
            assert all(odds.top == () for odds in each.logprobs or ())


def test_a_sentencepiece_output_begins_without_the_space_that_decoding_drops(bench: Bench) -> None:
    engine = bench.open("llama-pieces", EngineKind.TRANSFORMERS)
    compared = []
    for seed in range(20):
        params = Params(max_new_tokens=3, temperature=1.5, seed=seed, top_logprobs=1)
        made = told(engine, params)

        for each, text in zip(made, engine.decode(made, params), strict=True):
            # What is no UTF-8 is replaced by tokenizers in another way than by Python.
            if "\ufffd" not in text:
                assert b"".join(odds.bytes for odds in each.logprobs or ()) == text.encode()
                compared.append(engine._tokens.borrowed)  # type: ignore[attr-defined]


def test_special_tokens_have_a_name_and_no_bytes(bench: Bench) -> None:
    engine = bench.open("llama", EngineKind.TRANSFORMERS)
    made = told(engine, Params(max_new_tokens=40, temperature=2.0, seed=1, top_logprobs=20), PROMPTS * 4)

    seen = {
        top.text: top.bytes for each in made for odds in each.logprobs or () for top in odds.top if "<|" in top.text
    }

    assert seen
    assert set(seen) <= {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert set(seen.values()) == {b""}


def test_nothing_behind_a_stop_string_is_told(bench: Bench) -> None:
    engine = bench.open("llama", EngineKind.TRANSFORMERS)
    params = Params(max_new_tokens=24, top_logprobs=0)
    [whole] = engine.decode(told(engine, params, PROMPTS[:1]), params)
    stopped = replace(params, stop=(whole[6:9],))

    [made] = told(engine, stopped, PROMPTS[:1])
    [text] = engine.decode([made], stopped)

    joined = b"".join(odds.bytes for odds in made.logprobs or ())
    assert joined.decode("utf-8", "replace").startswith(text)
    assert len(made.logprobs or ()) <= len(made.tokens)
    assert len(joined) - len((made.logprobs or ())[-1].bytes) < len(text.encode())


def test_they_do_not_depend_on_the_batch(bench: Bench) -> None:
    engine = bench.open("qwen2", EngineKind.TRANSFORMERS)
    params = Params(max_new_tokens=8, top_logprobs=2)

    for together, prompt in zip(told(engine, params), PROMPTS, strict=True):
        [alone] = told(engine, params, [prompt])
        assert together.tokens == alone.tokens
        assert [odds.logprob for odds in together.logprobs or ()] == pytest.approx(
            [odds.logprob for odds in alone.logprobs or ()], abs=1e-4
        )


def test_scores_come_along_and_nothing_comes_unasked(bench: Bench) -> None:
    scored = bench.open("llama", EngineKind.TRANSFORMERS, options={**SETTINGS, "scores": True})
    plain = bench.open("llama", EngineKind.TRANSFORMERS)

    for each in told(scored, Params(max_new_tokens=4, min_new_tokens=4, top_logprobs=0)):
        chosen = [odds.logprob for odds in each.logprobs or ()]
        assert each.score == pytest.approx(sum(chosen) / len(chosen))
    assert all(each.logprobs is None for each in told(scored, Params(max_new_tokens=4)))
    assert all((each.logprobs, each.score) == (None, None) for each in told(plain, Params(max_new_tokens=4)))


def _distribution(engine: Engine, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = engine._model(torch.tensor([tokens])).logits[0]  # type: ignore[attr-defined]
    return torch.log_softmax(logits.float(), -1)
