"""Cut a model's vocabulary to the tokens of a corpus: the embedding tables of multilingual models shrink greatly.

bushel models prune trim MODEL OUT --texts FILE... [--least 1] [--keep-characters]

Kept are the tokens that the texts are made of, all special ones, bytes, and what byte-pair merges need on their way. A
text all of whose tokens are kept is split as before, and the model's scores for the kept tokens are the same. Texts
with other tokens are spelled in smaller pieces that are kept. Give texts of both sides, and enough of them.
"""

import collections
import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from training.errors import CannotMake
from training.folders import model_folder, open_model, open_tokenizer
from training.lines import lines
from training.making.artifact import Making, making, parameters, rebuilt
from training.making.options import trimming
from training.making.outcome import outcome
from training.making.pieces import NORMAL, Pieces
from training.progress import progress
from training.provenance import file_digest
from training.settings import run
from workers.engines.quiet import quietly

ID_KEYS = ("_token_id", "_token_ids", "_words_ids", "_decoder_ids")
# Lists of ids (`suppress_tokens`), or how many there may be (`max_new_tokens`).
LIST_KEYS = ("_tokens",)


class Tokens(Protocol):
    """A model's tokenizer, as far as cutting it goes."""

    def used(self, texts: Iterable[str]) -> collections.Counter[int]:
        """How often each id occurs in the texts, read as inputs and as outputs."""

    def needed(self, ids: set[int], characters: bool) -> set[int]:
        """Those ids and all that have to be there with them."""

    def cut(self, rows: Sequence[int], folder: Path) -> None:
        """Write the tokenizer's files with only these ids, numbered anew in this order."""


class FastTokens:
    """A tokenizer.json: Unigram (T5, Pegasus, mBART) or BPE (NLLB, Llama, Qwen, GPT-2, BART)."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = open_tokenizer(folder)
        if not getattr(self._tokenizer, "backend_tokenizer", None):
            raise CannotMake(f"the tokenizer {type(self._tokenizer).__name__} cannot be cut")
        self._said = json.loads(self._tokenizer.backend_tokenizer.to_str())
        model = self._said["model"]
        if model["type"] not in ("Unigram", "BPE"):
            raise CannotMake(f"a {model['type']} vocabulary cannot be cut; Unigram and BPE can")
        is_list = model["type"] == "Unigram"
        spelled = {text: id for id, (text, _) in enumerate(model["vocab"])} if is_list else model["vocab"]
        self._ids: dict[str, int] = {**spelled, **{each["content"]: each["id"] for each in self._said["added_tokens"]}}
        self._texts = {id: text for text, id in self._ids.items()}
        self._merges = [
            tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in model.get("merges", ())
        ]

    def used(self, texts: Iterable[str]) -> collections.Counter[int]:
        return collections.Counter(id for text in texts for id in self._tokenizer(text, verbose=False)["input_ids"])

    def needed(self, ids: set[int], characters: bool) -> set[int]:
        model, kept = self._said["model"], set(ids)
        kept |= {each["id"] for each in self._said["added_tokens"]} | set(self._tokenizer.all_special_ids)
        kept |= {id for text, id in self._ids.items() if _is_byte(text)}
        for text in (model.get("unk_token"), self._texts.get(model.get("unk_id"))):
            if text is not None:
                kept.add(self._ids[text])
        if _has(self._said.get("pre_tokenizer"), "ByteLevel"):
            from tokenizers.pre_tokenizers import ByteLevel

            kept |= {self._ids[each] for each in ByteLevel.alphabet() if each in self._ids}
        if characters:
            kept |= {id for text, id in self._ids.items() if len(text) == 1}
        parts = collections.defaultdict(list)
        for left, right in self._merges:
            parts[left + right].append((left, right))
        spelled = closure((self._texts[id] for id in kept if id in self._texts), parts)
        return kept | {self._ids[text] for text in spelled}

    def cut(self, rows: Sequence[int], folder: Path) -> None:
        # What is in its settings besides goes on to be true; the vocabulary is replaced below.
        with quietly():
            self._tokenizer.save_pretrained(folder)
        said, new = copy.deepcopy(self._said), {old: place for place, old in enumerate(rows)}
        model = said["model"]
        if model["type"] == "Unigram":
            model["vocab"] = [model["vocab"][old] for old in rows if old < len(model["vocab"])]
            if model.get("unk_id") is not None:
                model["unk_id"] = new[model["unk_id"]]
        else:
            model["vocab"] = {text: new[old] for text, old in model["vocab"].items() if old in new}
            kept = model["vocab"]
            model["merges"] = [[a, b] for a, b in self._merges if a in kept and b in kept and a + b in kept]
        for each in said["added_tokens"]:
            each["id"] = new[each["id"]]
        _renumber_post_processor(said.get("post_processor"), new)
        (folder / "tokenizer.json").write_text(json.dumps(said, ensure_ascii=False), "utf-8")
        settings = folder / "tokenizer_config.json"
        content = json.loads(settings.read_text("utf-8"))
        if "added_tokens_decoder" in content:
            decoder = content["added_tokens_decoder"]
            content["added_tokens_decoder"] = {str(new[int(id)]): each for id, each in decoder.items()}
            settings.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")


class PieceTokens:
    """sentencepiece files and a vocab.json beside them that gives the ids: Marian and M2M100."""

    def __init__(self, folder: Path, files: Sequence[str], extra: Iterable[int]) -> None:
        import sentencepiece

        self._folder, self._extra = folder, set(extra)
        self._files = {name: Pieces(folder / name) for name in files}
        self._splitters = [sentencepiece.SentencePieceProcessor(model_file=str(folder / name)) for name in files]
        self._ids: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))

    def used(self, texts: Iterable[str]) -> collections.Counter[int]:
        found: collections.Counter[int] = collections.Counter()
        for text in texts:
            for splitter in self._splitters:
                found.update(self._ids[each] for each in splitter.encode(text, out_type=str) if each in self._ids)
        return found

    def needed(self, ids: set[int], characters: bool) -> set[int]:
        texts = {text for text, id in self._ids.items() if id in ids}
        normal = {piece.text for each in self._files.values() for piece in each.pieces if piece.kind == NORMAL}
        # Special ones, language codes, padding: whatever is not a piece of text.
        texts |= {text for text in self._ids if text not in normal or (characters and len(text) == 1)}
        for each in self._files.values():
            if each.is_bpe:
                texts |= closure(texts, _splits({piece.text for piece in each.pieces}))
        return {self._ids[text] for text in texts if text in self._ids} | self._extra

    def cut(self, rows: Sequence[int], folder: Path) -> None:
        new = {old: place for place, old in enumerate(rows)}
        vocabulary = {text: new[old] for text, old in self._ids.items() if old in new}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=1), "utf-8")
        for name, pieces in self._files.items():
            # A piece without an id is no worse off than before; it was unknown and would now be split otherwise.
            pieces.cut(
                folder / name,
                lambda piece: piece.kind != NORMAL or piece.text in vocabulary or piece.text not in self._ids,
            )


def closure(texts: Iterable[str], parts: Mapping[str, Sequence[tuple[str, str]]]) -> set[str]:
    """All tokens that are merged on the way to these, by any way.

    >>> sorted(closure(["abc"], {"abc": [("a", "bc")], "bc": [("b", "c")], "xy": [("x", "y")]}))
    ['a', 'abc', 'b', 'bc', 'c']
    """
    found: set[str] = set()
    waiting = list(texts)
    while waiting:
        text = waiting.pop()
        if text not in found:
            found.add(text)
            waiting += [part for pair in parts.get(text, ()) for part in pair]
    return found


class _splits(dict[str, list[tuple[str, str]]]):
    """sentencepiece's BPE writes no merges down: any two pieces merge that make a third."""

    def __init__(self, texts: set[str]) -> None:
        self._texts = texts

    def get(self, text: str, default: Any = None) -> Any:
        cuts = ((text[:at], text[at:]) for at in range(1, len(text)))
        return [(left, right) for left, right in cuts if left in self._texts and right in self._texts]


def tokens_of(folder: Path, config: Any) -> Tokens:
    if config.model_type == "marian":
        if not config.share_encoder_decoder_embeddings or (folder / "target_vocab.json").exists():
            raise CannotMake("a Marian model with two vocabularies cannot be cut here")
        return PieceTokens(folder, ["source.spm", "target.spm"], ())
    if (folder / "sentencepiece.bpe.model").exists() and (folder / "vocab.json").exists():
        # M2M100: its languages follow the vocabulary, and some rows nobody uses follow them.
        first = len(json.loads((folder / "vocab.json").read_text("utf-8")))
        return PieceTokens(folder, ["sentencepiece.bpe.model"], range(first, config.vocab_size))
    return FastTokens(folder)


def trimmed(model: Any, rows: Sequence[int]) -> Any:
    """A copy of the model that knows these tokens only, numbered by their place in `rows`."""
    old, new = model.config.vocab_size, {each: place for place, each in enumerate(rows)}
    config = copy.deepcopy(model.config)
    renumber(config.__dict__, new)
    config.vocab_size = len(rows)
    if hasattr(config, "decoder_vocab_size"):
        config.decoder_vocab_size = len(rows)
    kept = torch.tensor(rows)
    tables = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each}
    names = {name for name, each in model.named_parameters(remove_duplicate=False) if id(each) in tables}
    names |= {f"{name.removesuffix('.weight')}.bias" for name in names}
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith("final_logits_bias"):
            value = value.index_select(1, kept)
        elif name in names:
            assert len(value) == old
            value = value.index_select(0, kept)
        weights[name] = value
    made = rebuilt(model, config, weights)
    made.generation_config = copy.deepcopy(model.generation_config)
    renumber(made.generation_config.__dict__, new)
    return made


def renumber(settings: dict[str, Any], new: Mapping[int, int]) -> None:
    """Give the settings that are ids of tokens their new numbers; lists lose the tokens that are gone."""
    for key, value in settings.items():
        if (key.endswith(ID_KEYS) and value is not None) or (key.endswith(LIST_KEYS) and isinstance(value, list)):
            settings[key] = _renumbered(value, new)


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | list):
        return value
    if isinstance(value, int):
        return new.get(value)
    if value and all(isinstance(each, list) for each in value):
        # Sequences of tokens: one of which a token is gone can no longer occur.
        return [[new[id] for id in each] for each in value if all(id in new for id in each)] or None
    return [new[each] for each in value if each in new]


@dataclass(frozen=True, slots=True)
class Trimming:
    """What was asked for: texts, how often a token must occur in them, and whether single characters stay anyway."""

    texts: tuple[Path, ...]
    least: int = 1
    characters: bool = False


def trim(source: Path, out: Path, asked: Trimming, is_again: bool = False) -> None:
    """Write the model with the smaller vocabulary to `out`."""
    settings = {
        "texts": {path.name: file_digest(path) for path in asked.texts},
        "least": asked.least,
        "characters": asked.characters,
    }
    with making(source, out, "trim", settings, is_again) as made:
        model = open_model(source)
        tokens = tokens_of(source, model.config)
        counts = tokens.used(progress(_texts(asked.texts), None, "reading texts"))
        if not counts:
            raise CannotMake(f"there are no texts in {', '.join(map(str, asked.texts))}")
        used = {id for id, times in counts.items() if times >= asked.least}
        rows = sorted(
            id for id in tokens.needed(used | _named(model), asked.characters) if id < model.config.vocab_size
        )
        _write(made, model, tokens, rows, counts)


def _write(made: Making, model: Any, tokens: Tokens, rows: Sequence[int], counts: Mapping[int, int]) -> None:
    kept, total = set(rows), sum(counts.values())
    made.record |= {
        "vocabulary_before": model.config.vocab_size,
        "vocabulary": len(rows),
        "parameters_before": parameters(model),
        # 1 unless rare tokens were asked to go.
        "coverage": sum(times for id, times in counts.items() if id in kept) / total if total else None,
    }
    tokens.cut(rows, made.folder)
    made.save(trimmed(model, rows))
    for name in ("spiece.model", "tokenizer.model", "merges.txt", "vocab.json", "sentencepiece.bpe.model"):
        # What the tokenizer.json replaces would contradict it.
        if (made.folder / "tokenizer.json").exists():
            (made.folder / name).unlink(missing_ok=True)


def _named(model: Any) -> set[int]:
    """The tokens that the model's settings name, which have to stay whatever the texts are."""
    found: set[int] = set()
    for settings in (model.config.__dict__, model.generation_config.__dict__):
        for key, value in settings.items():
            if key.endswith(("_token_id", "_token_ids")) and value is not None:
                found |= {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)}
    return {id for id in found if id >= 0}


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _has(part: Any, kind: str) -> bool:
    if not isinstance(part, dict):
        return False
    return part.get("type") == kind or any(_has(each, kind) for each in part.get("pretokenizers", ()))


def _renumber_post_processor(part: Any, new: Mapping[int, int]) -> None:
    if not isinstance(part, dict):
        return
    for each in (part.get("special_tokens") or {}).values() if part.get("type") == "TemplateProcessing" else ():
        each["ids"] = [new[id] for id in each["ids"]]
    for key in ("sep", "cls"):
        if isinstance(part.get(key), list):
            part[key][1] = new[part[key][1]]
    for each in part.get("processors", ()):
        _renumber_post_processor(each, new)


def _texts(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        for line in lines(path):
            # Columns of a table are texts of their own.
            yield from (text for text in line.split("\t") if text)


def main(argv: Sequence[str] | None = None) -> None:
    asked = trimming(argv)
    wanted = Trimming(tuple(asked.texts), asked.least, asked.keep_characters)
    trim(model_folder(asked.model, asked.home), asked.out, wanted, asked.again)
    print(outcome(asked.out))


if __name__ == "__main__":
    run(main)
