"""Everyday sentences with their German translations, and mixed lines made of them.

The models that come with Bushel may have learned from some of them: they show speed, and that two ways of running a
model say the same, not how good it is.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.service import BenchmarkFailed

SENTENCES = Path(__file__).with_name("sentences.tsv")
# How many sentences a mixed line has: short ones as of a list of phrases, long ones as of a paragraph.
SENTENCES_PER_LINE = (1, 2, 2, 3, 4, 6)
_SEED = 6


def read_sources(path: Path = SENTENCES) -> list[str]:
    """The sentences of the source language, in the file's order."""
    return [line.partition("\t")[0] for line in path.read_text(encoding="utf-8").splitlines() if line]


def mixed_lines(sentences: Sequence[str], count: int) -> list[str]:
    """So many lines of one to six sentences each, no two alike, the same ones every time.

    No two alike, since what is the same is computed once by some and again by others.
    """
    chance, lines = random.Random(_SEED), dict[str, None]()
    tries = 0
    while len(lines) < count:
        tries += 1
        if tries > 20 * count + 1_000:
            raise BenchmarkFailed(f"{len(sentences)} sentences do not make {count} different lines")
        many = chance.choice(SENTENCES_PER_LINE)
        lines[" ".join(chance.choices(sentences, k=many))] = None
    return list(lines)


def read_lines(path: Path | None, count: int) -> list[str]:
    """The first lines of a file that are not blank, without repetitions; or mixed ones of the sentences."""
    if path is None:
        return mixed_lines(read_sources(), count)
    lines = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()))
    if len(lines) < count:
        raise BenchmarkFailed(f"{path} has only {len(lines):,} different lines; ask for at most so many with --lines")
    return lines[:count]
