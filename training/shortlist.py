"""A lexical shortlist: for each source token, the target tokens that an output may be made of.

python -m training.shortlist MODEL OUT --pairs TRAIN.tsv [--heldout VALID.tsv] [--best 50] [--common 100]

CTranslate2 computes scores only for the shortlist of what is in a batch, instead of for the whole vocabulary. It reads
`vmap.txt` beside the converted model: a source token, a tab, its target tokens; the line of the empty source is for
every batch. OUT is the model converted to int8, with that file, `record.json` and, with held-out pairs, how many of
their target tokens the lists cover and what decoding with them costs in agreement and gains in speed.
The candidates of a batch are put together, so an output can differ with what shares its batch.
"""

import argparse
import collections
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import sacrebleu

from training.alignment import align
from training.folders import model_folder, open_tokenizer
from training.languages import told
from training.making import CannotMake, file_digest, making
from training.pairs import Part
from training.progress import progress
from workers.engines.convert import convert

Strings = Sequence[str]
VMAP = "vmap.txt"
BATCH = 32


@dataclass(frozen=True, slots=True)
class Shortlist:
    """`always` are for every batch, `of` those of a source token; tokens as the model spells them."""

    always: tuple[str, ...]
    of: Mapping[str, tuple[str, ...]]

    def candidates(self, sources: Iterable[Strings]) -> set[str]:
        """What a batch may be answered with."""
        tokens = {token for source in sources for token in source}
        return {*self.always, *(target for token in tokens for target in self.of.get(token, ()))}

    def write(self, path: Path) -> None:
        """The format keeps fields apart by tabs and spaces: tokens with one in them are left out."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for source, targets in (("", self.always), *sorted(self.of.items())):
                said = [target for target in targets if _is_spelled(target)]
                if said and (not source or _is_spelled(source)):
                    file.write(f"{source}\t{' '.join(said)}\n")


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of held-out pairs: tokens and whole sentences that can be said, and how long the lists are."""

    pairs: int
    tokens: float
    sentences: float
    candidates: float
    candidates_of_batch: float


class Spelling:
    """A model's tokens as strings, for the pairs of a file."""

    def __init__(self, folder: Path, source_lang: str | None = None, target_lang: str | None = None) -> None:
        self._tokenizer = told(open_tokenizer(folder), source_lang, target_lang)
        # Padding is never said.
        self.special = tuple(each for each in self._tokenizer.all_special_tokens if each != self._tokenizer.pad_token)

    def pairs(self, part: Part, folder: Path, most: int) -> list[tuple[Strings, Strings]]:
        found = []
        for pair in progress(itertools.islice(part.read(folder), most), None, "splitting into tokens"):
            tag = f"{pair.tag} " if pair.tag else ""
            source = self._tokenizer(tag + pair.source, verbose=False)["input_ids"]
            target = self._tokenizer(text_target=pair.target, verbose=False)["input_ids"]
            found.append((self._strings(source), self._strings(target)))
        return found

    def text(self, tokens: Strings) -> str:
        ids = self._tokenizer.convert_tokens_to_ids(list(tokens))
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _strings(self, ids: Sequence[int]) -> Strings:
        return tuple(self._tokenizer.convert_ids_to_tokens(ids))


def shortlist(pairs: Sequence[tuple[Strings, Strings]], best: int, common: int, special: Strings = ()) -> Shortlist:
    """The likeliest targets of every source token, itself if it can be said, and the commonest for every batch."""
    spelled = sorted({token for pair in pairs for side in pair for token in side})
    ids = {token: id for id, token in enumerate(spelled)}
    found = align([([ids[each] for each in source], [ids[each] for each in target]) for source, target in pairs])
    counts = collections.Counter(token for _, target in pairs for token in target)
    # What is said without anything that asks for it belongs to every batch too.
    unasked = [spelled[id] for id in found.best(best).get(-1, ())]
    always = dict.fromkeys((*special, *(token for token, _ in counts.most_common(common)), *unasked))
    of: dict[str, tuple[str, ...]] = {}
    for source, targets in found.best(best).items():
        if source >= 0:
            itself = [spelled[source]] if spelled[source] in counts else []
            likely = dict.fromkeys((*itself, *(spelled[id] for id in targets)))
            of[spelled[source]] = tuple(each for each in likely if each not in always)
    return Shortlist(tuple(always), of)


def coverage(lists: Shortlist, pairs: Sequence[tuple[Strings, Strings]], batch: int = BATCH) -> Coverage:
    """How much of the pairs' targets could be said, each sentence on its own."""
    said = whole = total = size = 0
    for source, target in pairs:
        candidates = lists.candidates([source])
        hits = sum(token in candidates for token in target)
        said, total, size = said + hits, total + len(target), size + len(candidates)
        whole += hits == len(target)
    starts = range(0, len(pairs), batch)
    batches = [len(lists.candidates(source for source, _ in pairs[start : start + batch])) for start in starts]
    count = max(1, len(pairs))
    return Coverage(len(pairs), said / max(1, total), whole / count, size / count, sum(batches) / max(1, len(batches)))


def cost(
    converted: Path, pairs: Sequence[tuple[Strings, Strings]], spelling: Spelling, longest: int = 128
) -> dict[str, Any]:
    """What decoding with the lists changes: agreement with decoding without them, chrF, and time."""
    translator = ctranslate2.Translator(str(converted), inter_threads=1, intra_threads=0)
    sources = [list(source) for source, _ in pairs]
    references = [spelling.text(target) for _, target in pairs]

    def decoded(size: int, is_short: bool) -> tuple[list[list[str]], float]:
        begun, made = time.monotonic(), []
        for start in progress(range(0, len(sources), size), len(sources) // size + 1, "decoding"):
            found = translator.translate_batch(
                sources[start : start + size], beam_size=1, max_decoding_length=longest, use_vmap=is_short
            )
            made += [result.hypotheses[0] for result in found]
        return made, time.monotonic() - begun

    decoded(BATCH, False)
    full, full_seconds = decoded(BATCH, False)
    short, short_seconds = decoded(BATCH, True)
    alone, _ = decoded(1, True)
    return {
        "same_outputs": _same(full, short),
        # Candidates are those of a batch: alone a sentence has fewer.
        "same_outputs_alone": _same(full, alone),
        "changed_by_batch": 1 - _same(short, alone),
        "chrf": {
            name: round(sacrebleu.corpus_chrf([spelling.text(each) for each in outputs], [references]).score, 2)
            for name, outputs in (("full", full), ("shortlist", short), ("shortlist_alone", alone))
        },
        "seconds": {"full": round(full_seconds, 3), "shortlist": round(short_seconds, 3)},
    }


def _same(some: Sequence[Strings], others: Sequence[Strings]) -> float:
    return sum(one == other for one, other in zip(some, others, strict=True)) / max(1, len(some))


def _is_spelled(token: str) -> bool:
    return bool(token) and not any(mark in token for mark in " \t\r\n")


@dataclass(frozen=True)
class Sizes:
    """How long the lists are, and how many pairs are read to make and to judge them."""

    best: int = 50
    common: int = 100
    pairs: int = 200_000
    judged: int = 500
    compute_type: str = "int8"


def make(source: Path, out: Path, pairs: Part, heldout: Part | None, data: Path, sizes: Sizes) -> None:
    """Write the converted model with its lists to `out`."""
    files = {Path(part.file).name: file_digest(data / part.file) for part in (pairs, heldout) if part}
    with making(source, out, "shortlist", {**asdict(sizes), "tag": pairs.tag, "files": files}) as made:
        spelling = Spelling(source, pairs.source_lang, pairs.target_lang)
        lists = shortlist(
            spelling.pairs(pairs, data, sizes.pairs),
            sizes.best,
            sizes.common,
            spelling.special,
        )
        if not lists.of:
            raise CannotMake(f"{pairs.file} has no pairs to make a shortlist of")
        # The converter wants to make the folder itself.
        made.folder.rmdir()
        convert(source, made.folder, sizes.compute_type)
        lists.write(made.folder / VMAP)
        made.record |= {"sources": len(lists.of), "always": len(lists.always)}
        if heldout:
            config = json.loads((source / "config.json").read_text("utf-8"))
            # Position 0 is the start token's.
            longest = min(128, (config.get("max_position_embeddings") or 512) - 1)
            judged = spelling.pairs(heldout, data, sizes.judged)
            made.record |= {
                "coverage": asdict(coverage(lists, judged)),
                "cost": cost(made.folder, judged, spelling, longest),
            }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or a name in the registry")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path, required=True, help="tab-separated: source, target")
    parser.add_argument("--heldout", type=Path, help="pairs that coverage and cost are measured on")
    parser.add_argument("--best", type=int, default=Sizes.best, help="targets of each source token")
    parser.add_argument("--common", type=int, default=Sizes.common, help="commonest targets, for every batch")
    parser.add_argument("--most-pairs", type=int, default=Sizes.pairs)
    parser.add_argument("--judged", type=int, default=Sizes.judged, help="held-out pairs that are decoded")
    parser.add_argument("--tag", help="put before every source, as >>deu<<")
    parser.add_argument("--source-lang", help="for a multilingual model")
    parser.add_argument("--target-lang", help="for a multilingual model")
    asked = parser.parse_args(argv)
    sizes = Sizes(asked.best, asked.common, asked.most_pairs, asked.judged)
    parts = [
        Part(str(path.absolute()), 0, 1, asked.tag, asked.source_lang, asked.target_lang) if path else None
        for path in (asked.pairs, asked.heldout)
    ]
    assert parts[0] is not None
    make(model_folder(asked.model), asked.out, parts[0], parts[1], Path(), sizes)


if __name__ == "__main__":
    main()
