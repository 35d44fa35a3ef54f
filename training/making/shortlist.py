"""A lexical shortlist: for each source token, the target tokens that an output may be made of.

bushel models shortlist MODEL OUT --pairs TRAIN.tsv [--heldout VALID.tsv] [--best 50] [--common 100]
bushel models shortlist MODEL OUT --recipe RECIPE.toml --data FOLDER

CTranslate2 computes scores only for the shortlist of what is in a batch, instead of for the whole vocabulary. OUT is a
copy of the model's folder with the lists in `vmap.txt`, which the engine uses where the model's registry entry has the
option `shortlist`: a source token, a tab, its target tokens; the line of the empty source is for every batch. A recipe
is that of a training: its `train` parts make the lists, its `valid` parts judge them. What the lists cover of held-out
outputs, what they cost in BLEU and chrF and what they gain in speed is printed, and stands in `record.json`.
The candidates of a batch are put together, so an output can differ with what shares its batch.
"""

import argparse
import collections
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.spec import EngineKind, ModelSpec, Task
from scoring.metrics import metrics
from training.errors import BadSettings, CannotMake
from training.folders import model_folder, open_tokenizer
from training.making.alignment import align
from training.making.artifact import making
from training.making.options import Sizes, shortlisting
from training.pairs import Part
from training.progress import progress
from training.provenance import file_digest
from training.recipe import CausalRecipe, check_files, load
from training.settings import run
from training.spread import spread
from workers.engines.base import Encoded, Engine, EngineError, Params, Prompt
from workers.engines.calibration import cpu_count
from workers.engines.files import find_files
from workers.engines.load import open_engine
from workers.engines.shortlist import VMAP, has_forced_tokens

Strings = Sequence[str]
# Which batches coverage is told of.
BATCH = 32
BATCH_TOKENS = 1024
LONGEST = 128
# Source tokens by target tokens of all pairs; each takes 40 bytes while they are aligned.
MEETINGS = 50_000_000
# Points of BLEU or chrF whose loss is warned of.
MUCH = 2.0
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")


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
    """Of held-out pairs: the share of target tokens, and of sentences all of whose tokens, are in the lists; how long
    those are."""

    pairs: int
    tokens: float
    sentences: float
    candidates: float
    candidates_of_batch: float


class Spelling:
    """A model's tokens as strings, for the pairs of a file."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = open_tokenizer(folder)
        # Padding is never said.
        self.special = tuple(each for each in self._tokenizer.all_special_tokens if each != self._tokenizer.pad_token)

    def pairs(self, part: Part, folder: Path, most: int) -> list[tuple[Strings, Strings]]:
        """At most so many, from all over the file."""
        tokenizer, found = self._tokenizer, []
        chosen = spread(list(part.read(folder)), most)
        for pair in progress(chosen, len(chosen), "splitting into tokens"):
            tag = f"{pair.tag} " if pair.tag else ""
            source = tokenizer(tag + pair.source, verbose=False)["input_ids"]
            target = tokenizer(text_target=pair.target, verbose=False)["input_ids"]
            found.append((self._strings(source), self._strings(target)))
        return found

    def _strings(self, ids: Sequence[int]) -> Strings:
        return tuple(self._tokenizer.convert_ids_to_tokens(ids))


def affordable(pairs: list[tuple[Strings, Strings]], meetings: int = MEETINGS) -> list[tuple[Strings, Strings]]:
    """As many of the pairs, from all over them, as alignment has memory for: long ones take much."""
    total = sum((len(source) + 1) * len(target) for source, target in pairs)
    return pairs if total <= meetings else spread(pairs, max(1, len(pairs) * meetings // total))


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
    """How much of the pairs' targets is in the lists, each sentence on its own."""
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


@dataclass(frozen=True, slots=True)
class Judged:
    """Held-out texts of one direction, with what they should become."""

    params: Params
    prompts: Sequence[Prompt]
    references: Sequence[str]


def judged(part: Part, folder: Path, most: int, beams: int) -> Judged:
    pairs = spread(list(part.read(folder)), most)
    tag = f"{part.tag} " if part.tag else ""
    return Judged(
        Params(max_new_tokens=LONGEST, num_beams=beams),
        [Prompt(tag + pair.source) for pair in pairs],
        [pair.target for pair in pairs],
    )


def cost(folder: Path, heldout: Sequence[Judged], compute_type: str) -> dict[str, Any]:
    """What decoding with the lists of a model's folder changes, by the engine that will do it, on the CPU.

    Outputs are compared with those without lists; `alone` is each text as a batch of its own, where it has the fewest
    candidates. Times are the better of two, each of all texts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        engines = [_opened(folder, compute_type, is_short, Path(scratch)) for is_short in (False, True)]
        try:
            # The first round warms up.
            rounds = [[_decoded(engine, heldout) for engine in engines] for _ in range(3)][1:]
            alone, _ = _decoded(engines[1], heldout, is_alone=True)
        finally:
            for engine in engines:
                engine.close()
    (full, _), (short, _) = rounds[0]
    full_seconds, short_seconds = (min(one[place][1] for one in rounds) for place in (0, 1))
    references = [[reference] for each in heldout for reference in each.references]
    made = {"full": full, "shortlist": short, "shortlist_alone": alone}
    scores = {name: metrics(texts, references, names=("bleu", "chrf")) for name, texts in made.items()}
    return {
        "same_outputs": _same(full, short),
        "same_outputs_alone": _same(full, alone),
        "changed_by_batch": 1 - _same(short, alone),
        **{
            metric: {name: round(found[metric].score, 2) for name, found in scores.items()}
            for metric in ("bleu", "chrf")
        },
        "seconds": {"full": round(full_seconds, 3), "shortlist": round(short_seconds, 3)},
        "speedup": round(full_seconds / max(short_seconds, 1e-9), 2),
    }


def _opened(folder: Path, compute_type: str, is_short: bool, cache: Path) -> Engine:
    spec = ModelSpec(
        folder.name.removesuffix(".unfinished"),
        Task.TRANSLATION,
        folder,
        EngineKind.CTRANSLATE2,
        quantization=compute_type,
        # The same for both: two calibrations could differ by more than what is looked for.
        options={
            "inter_threads": cpu_count(),
            "intra_threads": 1,
            "batch_tokens": BATCH_TOKENS,
            "shortlist": is_short,
        },
    )
    try:
        return open_engine(spec, cache, "cpu")
    except EngineError as exc:
        raise CannotMake(str(exc)) from exc


def _decoded(engine: Engine, heldout: Sequence[Judged], is_alone: bool = False) -> tuple[list[str], float]:
    """All texts, and the seconds from their tokens to those of the outputs."""
    texts: list[str] = []
    seconds = 0.0
    for each in heldout:
        encoded = engine.encode(each.prompts, each.params)
        batches: list[list[Encoded]] = [[one] for one in encoded] if is_alone else [encoded]
        for batch in progress(batches, len(batches), "decoding"):
            begun = time.monotonic()
            made = sorted(engine.generate(batch, each.params, lambda: False), key=lambda one: one.index)
            seconds += time.monotonic() - begun
            texts += engine.decode(made, each.params)
    return texts, seconds


def _same(some: Sequence[str], others: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(some, others, strict=True)) / max(1, len(some))


def _is_spelled(token: str) -> bool:
    return bool(token) and not any(mark in token for mark in " \t\r\n")


def make(
    source: Path,
    out: Path,
    pairs: Sequence[Part],
    heldout: Sequence[Part],
    data: Path,
    sizes: Sizes,
    is_again: bool = False,
) -> dict[str, Any]:
    """Write a copy of the model with its lists to `out`; its record."""
    settings = {
        **asdict(sizes),
        "pairs_of": [_described(part, data) for part in pairs],
        "heldout": [_described(part, data) for part in heldout],
    }
    files = find_files(ModelSpec(source.name, Task.TRANSLATION, source), Path())
    if not files.is_encoder_decoder or has_forced_tokens(files):
        # The engine says why when its option is set.
        raise CannotMake(f"{source}: CTranslate2 has no use for a shortlist with {files.model_type} models")
    with making(source, out, "shortlist", settings, is_again) as made:
        spelling = Spelling(source)
        most = _each(sizes.pairs, pairs)
        read = [pair for part in pairs for pair in spelling.pairs(part, data, most)]
        read = affordable(read)
        lists = shortlist(read, sizes.best, sizes.common, spelling.special)
        if not lists.of:
            raise CannotMake(f"{', '.join(part.file for part in pairs)}: no pairs to make a shortlist of")
        for path in {path for pattern in WEIGHTS for path in source.glob(pattern)}:
            shutil.copyfile(path, made.folder / path.name)
        made.copy_others()
        lists.write(made.folder / VMAP)
        made.record |= {"pairs": len(read), "sources": len(lists.of), "always": len(lists.always)}
        if heldout:
            most = _each(sizes.judged, heldout)
            unseen = [pair for part in heldout for pair in spelling.pairs(part, data, most)]
            asked = [judged(part, data, most, sizes.beams) for part in heldout]
            made.record |= {
                "coverage": asdict(coverage(lists, unseen)),
                "cost": cost(made.folder, asked, sizes.compute_type),
            }
    return made.record


def _each(all_pairs: int, parts: Sequence[Part]) -> int:
    return max(1, all_pairs // max(1, len(parts)))


def _described(part: Part, data: Path) -> dict[str, object]:
    return {**asdict(part), "file": Path(part.file).name, "sha256": file_digest(data / part.file)}


def said(record: Mapping[str, Any]) -> str:
    """The record for the person at the terminal.

    >>> print(said({"sources": 9, "always": 5}))
    Lists for 9 source tokens; 5 tokens are for every batch.
    """
    lines = [f"Lists for {record['sources']} source tokens; {record['always']} tokens are for every batch."]
    if "cost" in record:
        covered, cost = record["coverage"], record["cost"]
        lines += [
            f"Of {covered['pairs']} held-out pairs, {covered['tokens']:.2%} of the target tokens are in the lists of "
            f"their sentence, and {covered['sentences']:.1%} of the sentences have all of theirs there. A sentence has "
            f"{covered['candidates']:.0f} candidates, a batch of {BATCH} has {covered['candidates_of_batch']:.0f}.",
            f"{cost['same_outputs']:.1%} of the outputs stay as they were; {cost['changed_by_batch']:.1%} depend on "
            "what shares their batch.",
            *(
                f"{name}: {cost[key]['full']} without, {cost[key]['shortlist']} with the lists."
                for key, name in (("bleu", "BLEU"), ("chrf", "chrF"))
            ),
            f"Speed: {cost['speedup']} times that without.",
            *_warned(cost),
        ]
    return "\n".join(lines)


def _warned(cost: Mapping[str, Any]) -> Iterator[str]:
    """
    >>> list(_warned({"bleu": {"full": 30.0, "shortlist": 27.5}, "chrf": {"full": 50.0, "shortlist": 48.1}}))
    ['Warning: BLEU falls by 2.5 points. Try more pairs, or longer lists: --best, --common.']
    """
    for key, name in (("bleu", "BLEU"), ("chrf", "chrF")):
        lost = cost[key]["full"] - cost[key]["shortlist"]
        if lost > MUCH:
            yield f"Warning: {name} falls by {lost:.1f} points. Try more pairs, or longer lists: --best, --common."


def main(argv: Sequence[str] | None = None) -> None:
    asked = shortlisting(argv)
    sizes = Sizes(asked.best, asked.common, asked.most_pairs, asked.judged, beams=asked.beams)
    pairs, heldout = _parts(asked)
    print(said(make(model_folder(asked.model, asked.home), asked.out, pairs, heldout, asked.data, sizes, asked.again)))


def _parts(asked: argparse.Namespace) -> tuple[Sequence[Part], Sequence[Part]]:
    if asked.recipe is not None:
        recipe = load(asked.recipe)
        if isinstance(recipe, CausalRecipe):
            raise BadSettings(f"{asked.recipe} has texts, not pairs: a shortlist is for models that translate")
        check_files(recipe, asked.data)
        return recipe.train, recipe.valid
    pairs, heldout = (
        [Part(str(path.absolute()), 0, 1, asked.tag)] if path else [] for path in (asked.pairs, asked.heldout)
    )
    return pairs, heldout


if __name__ == "__main__":
    run(main)
