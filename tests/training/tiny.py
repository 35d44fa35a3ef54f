"""Data and recipes so small that a training takes seconds."""

import gzip
import json
import random
from pathlib import Path

WORDS = {
    "one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs", "seven": "sieben",
    "eight": "acht", "nine": "neun", "ten": "zehn", "red": "rot", "green": "grün", "blue": "blau", "cat": "Katze",
    "dog": "Hund", "house": "Haus", "tree": "Baum", "road": "Straße", "sun": "Sonne", "moon": "Mond",
}  # fmt: skip
ENGLISH, GERMAN = list(WORDS), list(WORDS.values())

SHAPE = """
[shape]
d_model = 32
encoder_layers = 2
decoder_layers = 2
ffn = 64
heads = 2
positions = 64
dropout = 0.1
"""
PACE = """
[pace]
rate = 5e-3
warm_up = 5
batch_tokens = 200
max_steps = {steps}
decay = 4
checkpoint_every = 4
validate_every = 8
{pace}
"""
PARTS = """
[[train]]
file = "pairs.tsv"
source = 0
target = 1
{more}
[[valid]]
file = "pairs.tsv"
source = 0
target = 1
{more}
"""


def write_data(folder: Path, count: int = 120) -> Path:
    """Pairs that are translated word by word, and the same as texts."""
    rng = random.Random(3)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for _ in range(count):
        places = [rng.randrange(len(ENGLISH)) for _ in range(rng.randint(2, 6))]
        pairs.append((" ".join(ENGLISH[each] for each in places), " ".join(GERMAN[each] for each in places)))
    (folder / "pairs.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in pairs), "utf-8")
    with gzip.open(folder / "texts.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"title": one, "abstract": other}) + "\n" for one, other in pairs)
    return folder


def marian_recipe(
    folder: Path, steps: int = 12, more: str = 'tag = ">>de<<"', settings: str = "", pieces: int = 64, pace: str = ""
) -> Path:
    path = folder / "marian.toml"
    head = f'pieces = {pieces}\nmax_tokens = 40\nmetric = "loss"\n{settings}\n'
    path.write_text(head + SHAPE + PACE.format(steps=steps, pace=pace) + PARTS.format(more=more))
    return path


def causal_recipe(folder: Path, steps: int = 12, settings: str = "", name: str = "causal") -> Path:
    path = folder / f"{name}.toml"
    shape = "[shape]\nd_model = 32\nlayers = 2\nffn = 64\nheads = 2\nkey_value_heads = 1\ncontext = 48\n"
    parts = "".join(
        f'[[{side}]]\nfile = "texts.jsonl.gz"\ntemplate = """Title: {{title}}\nAbstract: {{abstract}}"""\n'
        for side in ("train", "valid")
    )
    path.write_text(f'kind = "causal"\npieces = 320\n{settings}\n' + shape + PACE.format(steps=steps, pace="") + parts)
    return path


def finetune_recipe(folder: Path, steps: int = 12, settings: str = "", more: str = "") -> Path:
    path = folder / "finetune.toml"
    head = f'kind = "finetune"\nmax_tokens = 60\nmetric = "loss"\n{settings}\n'
    path.write_text(head + PACE.format(steps=steps, pace="") + PARTS.format(more=more))
    return path
