"""Smaller models are whole models: they load, generate, run on CTranslate2, and keep what they promise to keep."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import torch

from tests import models as tiny
from training.folders import open_model, open_tokenizer
from training.making import drop_layers, structured, trim
from training.making.artifact import CannotMake
from training.making.pieces import Pieces
from workers.engines.convert import convert

MAKERS: dict[str, Callable[[Path], Path]] = {
    "marian": tiny.make_marian,
    "t5": tiny.make_t5,
    "bart": tiny.make_bart,
    "pegasus": tiny.make_pegasus,
    "m2m100": tiny.make_m2m100,
    "llama": tiny.make_causal,
    "qwen2": lambda folder: tiny.make_causal(folder, "qwen2"),
    "llama-pieces": lambda folder: tiny.make_causal(folder, pieces=True, padding=5),
    "gpt2": lambda folder: tiny.make_causal(folder, "gpt2"),
}
# What the trimmed vocabularies are made for; every text of it is made of tokens that stay.
SURVIVING = ("the quick brown fox sleeps in the warm sun", "Guten Morgen, wie geht es dir heute?")
PAIRS = [("the lazy dog", "der faule Hund"), ("all day long", "den ganzen Tag"), ("nobody knows", "niemand weiß")]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model of the kind, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "model"
            made[kind].mkdir()
            MAKERS[kind](made[kind])
        return made[kind]

    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(SURVIVING) + "\n", "utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), "utf-8")
    return path


def size(model: Any) -> int:
    return sum(each.numel() for each in model.parameters())


def generated(folder: Path, text: str = SURVIVING[0]) -> list[int]:
    rows = open_tokenizer(folder)(text, return_tensors="pt")
    rows.pop("token_type_ids", None)
    made = open_model(folder).generate(**rows, max_new_tokens=6, num_beams=1, do_sample=False, min_length=0)
    return [int(id) for id in made[0]]


def runs_on_ctranslate2(folder: Path, converted: Path) -> bool:
    convert(folder, converted, "float32")
    tokenizer = open_tokenizer(folder)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(SURVIVING[0])["input_ids"])
    if json.loads((folder / "config.json").read_text()).get("is_encoder_decoder"):
        translator = ctranslate2.Translator(str(converted))
        return bool(
            translator.translate_batch([tokens], beam_size=1, min_decoding_length=3, max_decoding_length=6)[
                0
            ].hypotheses[0]
        )
    generator = ctranslate2.Generator(str(converted))
    found = generator.generate_batch([tokens], max_length=6, min_length=3, include_prompt_in_result=False)
    expected = generated(folder)[len(tokens) :][:3]
    return bool(found[0].sequences_ids[0][:3] == expected)


def scores(model: Any, rows: torch.Tensor) -> torch.Tensor:
    inputs = {"input_ids": rows}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = rows
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs).logits
    return logits


@pytest.mark.parametrize("kind", MAKERS)
def test_a_trimmed_model_agrees_with_the_full_one_on_what_survives(
    kind: str, folders: Callable[[str], Path], texts: Path, tmp_path: Path
) -> None:
    full, out = folders(kind), tmp_path / "out"

    trim.main([str(full), str(out), "--texts", str(texts)])

    record = json.loads((out / "record.json").read_text())
    old, new = open_tokenizer(full), open_tokenizer(out)
    before, after = open_model(full), open_model(out)
    assert after.config.vocab_size == record["vocabulary"] < record["vocabulary_before"]
    assert size(after) == record["parameters"] < record["parameters_before"]
    kept = {id: old.convert_tokens_to_ids(new.convert_ids_to_tokens(id)) for id in range(len(new))}
    for text in SURVIVING:
        theirs, ours = old(text)["input_ids"], new(text)["input_ids"]
        assert new.convert_ids_to_tokens(ours) == old.convert_ids_to_tokens(theirs)
        assert new.decode(ours, skip_special_tokens=True) == old.decode(theirs, skip_special_tokens=True)
        wanted = scores(before, torch.tensor([theirs]))
        found = scores(after, torch.tensor([ours]))
        torch.testing.assert_close(found[..., list(kept)], wanted[..., list(kept.values())], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["marian", "t5", "bart", "pegasus", "m2m100", "llama"])
def test_a_trimmed_model_runs_on_ctranslate2(
    kind: str, folders: Callable[[str], Path], texts: Path, tmp_path: Path
) -> None:
    trim.main([str(folders(kind)), str(tmp_path / "out"), "--texts", str(texts)])

    assert runs_on_ctranslate2(tmp_path / "out", tmp_path / "converted")


def test_a_trimmed_model_can_still_read_other_texts(
    folders: Callable[[str], Path], texts: Path, tmp_path: Path
) -> None:
    other = "the woodchuck sleeps here"

    trim.main([str(folders("marian")), str(tmp_path / "out"), "--texts", str(texts), "--keep-characters"])

    old, new = open_tokenizer(folders("marian")), open_tokenizer(tmp_path / "out")
    assert new.decode(new(other)["input_ids"], skip_special_tokens=True) == other
    assert len(new(other)["input_ids"]) > len(old(other)["input_ids"])


def test_the_pad_row_of_marian_stays_zero_and_last(
    folders: Callable[[str], Path], texts: Path, pairs: Path, tmp_path: Path
) -> None:
    full = str(folders("marian"))

    trim.main([full, str(tmp_path / "trimmed"), "--texts", str(texts)])
    drop_layers.main([full, str(tmp_path / "dropped"), "--decoder", "1"])
    structured.main([full, str(tmp_path / "cut"), "--pairs", str(pairs), "--ffn", "0.5"])

    for name in ("trimmed", "dropped", "cut"):
        model = open_model(tmp_path / name)
        pad = open_tokenizer(tmp_path / name).pad_token_id
        assert pad == model.config.pad_token_id == model.config.decoder_start_token_id == model.config.vocab_size - 1
        assert model.generation_config.bad_words_ids == [[pad]]
        assert not model.model.shared.weight[pad].any()


def test_sentencepiece_files_are_cut_to_the_pieces_wanted(folders: Callable[[str], Path], tmp_path: Path) -> None:
    import sentencepiece

    whole = Pieces(folders("marian") / "source.spm")

    whole.cut(tmp_path / "cut.spm", lambda piece: piece.kind != 1 or len(piece.text) < 3)

    cut = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "cut.spm"))
    full = sentencepiece.SentencePieceProcessor(model_file=str(folders("marian") / "source.spm"))
    assert [piece.text for piece in whole.pieces] == [full.id_to_piece(id) for id in range(full.get_piece_size())]
    assert all(len(cut.id_to_piece(id)) < 3 for id in range(cut.get_piece_size()) if not special(cut, id))
    assert cut.get_score(cut.piece_to_id("th")) == full.get_score(full.piece_to_id("th"))
    assert cut.decode(cut.encode("the fox")) == "the fox"


def special(pieces: Any, id: int) -> bool:
    return bool(pieces.is_control(id) or pieces.is_unknown(id))


@pytest.mark.parametrize("kind", MAKERS)
def test_layers_can_be_dropped(kind: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    if kind == "gpt2":
        with pytest.raises(CannotMake, match="gpt2"):
            drop_layers.main([str(folders(kind)), str(tmp_path / "out"), "--decoder", "1"])
        assert not (tmp_path / "out").exists()
        return

    # The second layer: T5's first one has the position bias.
    drop_layers.main([str(folders(kind)), str(tmp_path / "out"), "--decoder", "1,"])

    full, small = open_model(folders(kind)), open_model(tmp_path / "out")
    assert size(small) < size(full)
    prefix = {"t5": "decoder.block", "llama": "model.layers", "qwen2": "model.layers", "llama-pieces": "model.layers"}
    before, after = full.state_dict(), small.state_dict()
    layers = prefix.get(kind, "model.decoder.layers")
    for name, value in after.items():
        origin = name.replace(f"{layers}.0.", f"{layers}.1.")
        assert torch.equal(value, before[origin if origin in before else name]), name
    assert generated(tmp_path / "out")
    assert runs_on_ctranslate2(tmp_path / "out", tmp_path / "converted")


@pytest.mark.parametrize(
    ("layers", "kept", "places"),
    [
        *((12, 6, [0, 2, 4, 7, 9, 11]), (12, 3, [0, 6, 11]), (12, 1, [0]), (6, 2, [0, 5]), (3, 3, [0, 1, 2])),
        # As DistilBART has it, where two layers are as far.
        (6, 3, [0, 2, 5]),
    ],
)
def test_layers_are_kept_as_far_apart_as_can_be(layers: int, kept: int, places: list[int]) -> None:
    assert drop_layers.spaced(layers, kept) == places


@pytest.mark.parametrize("said", ["3", "0", "0,2", "two", "0,x"])
def test_layers_that_are_not_there_cannot_be_kept(said: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CannotMake, match="cannot be kept"):
        drop_layers.main([str(folders("marian")), str(tmp_path / "out"), "--decoder", said])


def test_a_stack_that_is_not_there_is_named(folders: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CannotMake, match="no encoder; it has decoder"):
        drop_layers.main([str(folders("llama")), str(tmp_path / "out"), "--encoder", "1"])


def test_numbers_that_are_no_tokens_stay_as_they_are() -> None:
    new = {3: 0, 5: 1, 9: 2}
    settings = {"max_new_tokens": 9, "num_assistant_tokens": 20, "suppress_tokens": [3, 4, 5], "eos_token_id": 9}

    trim.renumber(settings, new)

    assert settings == {"max_new_tokens": 9, "num_assistant_tokens": 20, "suppress_tokens": [0, 1], "eos_token_id": 2}


def test_a_corpus_without_texts_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n")

    with pytest.raises(CannotMake, match="no texts"):
        trim.main([str(folders("marian")), str(tmp_path / "out"), "--texts", str(tmp_path / "texts.txt")])


@pytest.mark.parametrize("kind", ["marian", "t5", "bart", "pegasus", "m2m100", "llama", "qwen2"])
def test_neurons_can_be_cut(kind: str, folders: Callable[[str], Path], pairs: Path, tmp_path: Path) -> None:
    structured.main([str(folders(kind)), str(tmp_path / "out"), "--pairs", str(pairs), "--ffn", "0.5"])

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    sizes = [
        config[key] for key in ("encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "intermediate_size") if key in config
    ]
    assert set(sizes) == {32}
    assert size(open_model(tmp_path / "out")) < size(open_model(folders(kind)))
    assert generated(tmp_path / "out")
    assert runs_on_ctranslate2(tmp_path / "out", tmp_path / "converted")


@pytest.mark.parametrize("kind", ["t5", "llama", "qwen2"])
def test_heads_can_be_cut(kind: str, folders: Callable[[str], Path], pairs: Path, tmp_path: Path) -> None:
    structured.main([str(folders(kind)), str(tmp_path / "out"), "--pairs", str(pairs), "--heads", "0.5"])

    small = open_model(tmp_path / "out")
    if kind == "t5":
        assert small.config.num_heads == 1 and small.config.d_kv == 16
    else:
        assert (small.config.num_attention_heads, small.config.num_key_value_heads) == (2, 1)
        assert small.model.layers[0].self_attn.head_dim == 8
    assert size(small) < size(open_model(folders(kind)))
    assert generated(tmp_path / "out")
    # CTranslate2 takes a head to be the width divided by their number; it says so, and does not go on wrongly.
    with pytest.raises(ValueError, match="dimension"):
        runs_on_ctranslate2(tmp_path / "out", tmp_path / "converted")


def test_heads_of_bart_are_refused(folders: Callable[[str], Path], pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotMake, match="heads cannot be cut"):
        structured.main([str(folders("bart")), str(tmp_path / "out"), "--pairs", str(pairs), "--heads", "0.5"])

    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("kind", ["t5", "llama", "marian"])
def test_what_does_nothing_is_cut_first(kind: str, folders: Callable[[str], Path]) -> None:
    """Parts whose output is silenced have no importance, and a model without them says the same."""
    model = open_model(folders(kind))
    silenced = model
    for stack in structured.anatomy(model.config).stacks:
        for layer in stack.of(silenced):
            layer.get_submodule(stack.columns).weight.data[:, ::2] = 0
            if kind != "marian":
                for attention in stack.attentions:
                    output = layer.get_submodule(attention.output).weight.data
                    output[:, : output.shape[1] // 2] = 0
    batches = structured.batches_of(folders(kind), silenced, PAIRS)

    small = structured.shrunk(silenced, batches, ffn=0.5, heads=0.5 if kind != "marian" else 1.0)

    rows = batches[0]["input_ids"][:1]
    torch.testing.assert_close(scores(small, rows), scores(silenced, rows), rtol=1e-4, atol=1e-4)


def test_a_folder_that_is_there_is_not_written_over(folders: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(CannotMake, match="exists already"):
        drop_layers.main([str(folders("marian")), str(tmp_path / "out"), "--decoder", "1"])
