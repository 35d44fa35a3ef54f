"""Embeddings: the vectors that a plain use of transformers gives, one by one or in any batch."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from models.registry import EngineKind, ModelSpec, Task
from tests.engines.conftest import SETTINGS, Bench, generated
from workers.engines.base import Engine, Message, ModelUnavailable, OutOfMemory, Params, Prompt
from workers.engines.load import open_engine

TEXTS = [
    "the quick brown fox",
    "x",
    "we translate, summarize and generate text by the file; every line is kept in order",
    "Émile sleeps in the sun",
    "how much wood",
    "",
]
KINDS = ("bert", "mpnet", "st-mean", "st-cls")


def opened(bench: Bench, kind: str, **changes: object) -> Engine:
    return bench.open(kind, EngineKind.TRANSFORMERS, **changes)


def vectors(engine: Engine, texts: list[str]) -> np.ndarray:
    made = generated(engine, engine.encode([Prompt(text) for text in texts], Params()), Params())
    assert all(each.tokens == () and each.finish_reason == "stop" for each in made)
    return np.stack([np.frombuffer(each.vector or b"", "<f4") for each in made])


def naive(folder: Path, text: str, mode: str = "mean", limit: int = 64) -> np.ndarray:
    """By the book: one text, no padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
    with torch.inference_mode():
        hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[0]
    return (hidden[0] if mode == "cls" else hidden.mean(0)).numpy()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers(bench: Bench, kind: str) -> None:
    folder = Path(bench.spec(kind).source)

    found = vectors(opened(bench, kind), TEXTS)

    for text, vector in zip(TEXTS, found, strict=True):
        assert cosine(vector, naive(folder, text, "cls" if kind == "st-cls" else "mean")) > 0.99999
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert cosine(found[0], found[2]) < 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_does_not_depend_on_its_batch(bench: Bench, kind: str) -> None:
    engine = opened(bench, kind)
    small = opened(bench, kind, options={**SETTINGS, "batch_tokens": 20})

    alone = np.concatenate([vectors(engine, [text]) for text in TEXTS])

    for together in (vectors(engine, TEXTS), vectors(engine, TEXTS[::-1])[::-1], vectors(small, TEXTS)):
        assert np.abs(together - alone).max() < 1e-5


def test_vectors_may_be_left_as_long_as_they_are(bench: Bench) -> None:
    found = vectors(opened(bench, "bert", options={**SETTINGS, "normalize": False}), TEXTS[:1])[0]

    assert found == pytest.approx(naive(Path(bench.spec("bert").source), TEXTS[0]), abs=1e-4)
    assert abs(np.linalg.norm(found) - 1) > 0.1


def test_a_prefix_is_put_before_every_text(bench: Bench) -> None:
    told = opened(bench, "bert", prefix="we translate: ")

    assert vectors(told, ["the fox"]) == pytest.approx(
        vectors(opened(bench, "bert"), ["we translate: the fox"]), abs=1e-6
    )


@pytest.mark.parametrize(("kind", "limit"), [("bert", 64), ("mpnet", 64), ("st-mean", 48)])
def test_a_long_text_is_cut_and_says_so(bench: Bench, kind: str, limit: int) -> None:
    engine = opened(bench, kind)
    text = "the quick brown fox " * 100

    short, long = engine.encode([Prompt("fox"), Prompt(text)], Params())

    assert engine.limits.max_input == limit == len(long)
    assert short.dropped == 0 and long.dropped > 100
    assert (long.tokens[0], long.tokens[-1]) == (short.tokens[0], short.tokens[-1])
    assert cosine(vectors(engine, [text])[0], naive(Path(bench.spec(kind).source), text, limit=limit)) > 0.99999


def test_special_tokens_spelled_out_are_text(bench: Bench) -> None:
    engine = opened(bench, "bert")

    [spelled] = engine.encode([Prompt("a [SEP] b")], Params())

    assert spelled.tokens.count(3) == 1


def test_decoding_gives_no_text_and_chats_are_refused(bench: Bench) -> None:
    engine = opened(bench, "bert")
    made = generated(engine, engine.encode([Prompt("fox")], Params()), Params())

    assert engine.decode(made, Params()) == [""]
    assert list(engine.generate([], Params(), lambda: False)) == []
    with pytest.raises(ValueError, match="takes a text, not messages"):
        engine.encode([Prompt(messages=(Message("user", "hello"),))], Params())


def test_a_cancel_is_noticed_between_two_layers(bench: Bench) -> None:
    engine = opened(bench, "bert", options={**SETTINGS, "batch_tokens": 100_000})
    encoded = engine.encode([Prompt("the quick brown fox " * 10)] * 512, Params())
    asked = iter([False, True])

    assert list(engine.generate(encoded, Params(), lambda: next(asked, True))) == []


def test_a_cancel_ends_much_work_within_a_second(bench: Bench) -> None:
    engine = opened(bench, "bert")
    encoded = engine.encode([Prompt("the quick brown fox")], Params()) * 200_000
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()

    made = list(engine.generate(encoded, Params(), stop.is_set))

    assert time.monotonic() - start < 3
    assert 0 < len(made) < len(encoded)


def test_a_batch_that_does_not_fit_can_be_halved(bench: Bench) -> None:
    engine = opened(bench, "bert", options={**SETTINGS, "batch_tokens": 64, "fresh": True})
    assert [engine.shrink() for _ in range(7)] == [True] * 6 + [False]
    assert len(vectors(engine, TEXTS)) == len(TEXTS)


def test_a_full_memory_is_told_as_such(bench: Bench) -> None:
    engine = opened(bench, "bert", options={**SETTINGS, "batch_tokens": 128, "fuller": True})
    model = engine._model  # type: ignore[attr-defined]

    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hook = model.register_forward_pre_hook(refuse)
    with pytest.raises(OutOfMemory):
        vectors(engine, TEXTS[:2])
    hook.remove()

    assert engine.shrink()
    assert len(vectors(engine, TEXTS[:2])) == 2


def _changed(bench: Bench, tmp_path: Path, name: str, content: object) -> ModelSpec:
    folder = tmp_path / "model"
    shutil.copytree(bench.spec("st-mean").source, folder)
    (folder / name).write_text(json.dumps(content), "utf-8")
    return replace(bench.spec("st-mean", EngineKind.TRANSFORMERS), source=folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens", id="max"),
        pytest.param("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken", id="last token"),
        pytest.param(
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling_mode_cls_token and pooling_mode_mean_tokens",
            id="two at once",
        ),
        pytest.param("modules.json", [{"type": "sentence_transformers.models.Dense"}], "Dense layer", id="dense"),
        pytest.param(
            "modules.json", [{"path": "9_Pooling", "type": "x.Pooling"}], "9_Pooling.*is missing", id="no config"
        ),
    ],
)
def test_a_folder_that_asks_for_more_than_pooling_is_refused(
    bench: Bench, tmp_path: Path, name: str, content: object, said: str
) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        open_engine(_changed(bench, tmp_path, name, content), tmp_path, "cpu")


def test_the_newer_layout_of_sentence_transformers_is_read_too(bench: Bench, tmp_path: Path) -> None:
    spec = _changed(bench, tmp_path, "1_Pooling/config.json", {"pooling_mode": "cls"})

    found = vectors(open_engine(spec, tmp_path, "cpu"), TEXTS[:1])[0]

    assert cosine(found, naive(Path(spec.source), TEXTS[0], "cls")) > 0.99999


def test_case_is_lowered_where_the_folder_says_so(bench: Bench, tmp_path: Path) -> None:
    engine = open_engine(_changed(bench, tmp_path, "sentence_bert_config.json", {"do_lower_case": True}), tmp_path)

    assert engine.encode([Prompt("FOX")], Params()) == engine.encode([Prompt("fox")], Params())


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_what_is_no_encoder_is_refused(bench: Bench, kind: str) -> None:
    with pytest.raises(ModelUnavailable, match="is no encoder"):
        open_engine(bench.spec(kind, EngineKind.TRANSFORMERS, task=Task.EMBEDDING), bench.cache, "cpu")


def test_more_input_than_there_are_positions_is_refused(bench: Bench) -> None:
    with pytest.raises(ModelUnavailable, match="max_input_tokens is 65, but the model has room for 64"):
        open_engine(bench.spec("mpnet", EngineKind.TRANSFORMERS, max_input_tokens=65), bench.cache, "cpu")


def test_the_recipe_says_how_vectors_are_made(bench: Bench) -> None:
    recipe = opened(bench, "st-cls").recipe

    assert recipe.details["pooling"] == "cls" and recipe.details["normalize"] is True
    assert recipe.details["dtype"] == "float32"
