"""Train the draft translator from a file of sentence pairs, on the CPU.

    python recipe.py PAIRS.tsv OUT --epochs 6 --minutes 65

PAIRS.tsv holds English, a tab and German per line. OUT gets the checkpoint, the joint vocabulary and `heldout.json`,
the English sentences (with all their references) that were kept out of training. Needs torch, transformers and
sentencepiece. This is the script the weights beside it came from, put in order; steps and settings are the same, while
the defaults of --epochs and --minutes follow the model card, since the arguments of that run were not kept.
"""

import argparse
import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel

logger = logging.getLogger("recipe")

EOS, UNKNOWN = 0, 1
PIECES = 8000
PAD = PIECES  # after the pieces, as Marian models have it
HELD_OUT = 1500
MAX_WORDS = 30
BATCH_TOKENS = 6000
PEAK_RATE, WARM_UP = 1.5e-3, 400

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine that ends with the epochs or the time, whichever is first."""

    steps: int
    start: float
    end: float

    def rate(self, step: int) -> float:
        done = max(step / self.steps, (time.time() - self.start) / (self.end - self.start))
        return PEAK_RATE * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1, done))) + 1e-6


def read(path: Path) -> list[tuple[str, str]]:
    rows = (line.split("\t")[:2] for line in path.read_text("utf-8").splitlines())
    return [(row[0], row[1]) for row in rows if len(row) == 2 and len(row[0].split()) <= MAX_WORDS]


def hold_out(pairs: list[tuple[str, str]], folder: Path) -> list[tuple[str, str]]:
    """The pairs to train on. Split by English sentence, so that no test source is seen with another reference."""
    sources = sorted({english for english, _ in pairs})
    random.shuffle(sources)
    held: dict[str, list[str]] = {english: [] for english in sources[:HELD_OUT]}
    for english, german in pairs:
        if english in held:
            held[english].append(german)
    (folder / "heldout.json").write_text(json.dumps(held, ensure_ascii=False), "utf-8")
    return [pair for pair in pairs if pair[0] not in held]


def train_pieces(pairs: list[tuple[str, str]], folder: Path) -> sentencepiece.SentencePieceProcessor:
    text = folder / "pieces.txt"
    text.write_text("".join(f"{english}\n{german}\n" for english, german in pairs), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "pieces"),
        vocab_size=PIECES,
        character_coverage=1.0,
        model_type="unigram",
        eos_id=EOS,
        unk_id=UNKNOWN,
        bos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))


def new_model() -> MarianMTModel:
    model = MarianMTModel(
        MarianConfig(
            vocab_size=PIECES + 1,
            decoder_vocab_size=PIECES + 1,
            max_position_embeddings=256,
            scale_embedding=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=PAD,
            forced_eos_token_id=EOS,
            share_encoder_decoder_embeddings=True,
            activation_function="relu",
            d_model=256,
            encoder_layers=4,
            decoder_layers=2,
            encoder_ffn_dim=1024,
            decoder_ffn_dim=1024,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            dropout=0.1,
        )
    )
    model.model.shared.weight.data[PAD] = 0
    return model


def batches(pairs: list[Pair]) -> list[list[Pair]]:
    """Batches of similar length under the token budget, in random order."""
    ordered = sorted(pairs, key=lambda pair: (len(pair[0]) + len(pair[1])) // 3 + random.random())
    done: list[list[Pair]] = []
    batch: list[Pair] = []
    longest = 0
    for pair in ordered:
        length = max(map(len, pair))
        if batch and max(longest, length) * (len(batch) + 1) > BATCH_TOKENS:
            done.append(batch)
            batch, longest = [], 0
        batch.append(pair)
        longest = max(longest, length)
    done.append(batch)
    random.shuffle(done)
    return done


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def train_step(model: MarianMTModel, optimizer: torch.optim.Optimizer, batch: list[Pair]) -> float:
    source, target = padded([pair[0] for pair in batch]), padded([pair[1] for pair in batch])
    shifted = torch.cat([torch.full((len(batch), 1), PAD), target[:, :-1]], 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(
            input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=shifted, use_cache=False
        ).logits
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=0.1
    )
    loss.backward()
    # The pad row starts the decoder. CTranslate2 starts it from zero, so the row has to stay zero.
    shared = model.model.shared.weight
    shared.grad[PAD] = 0
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    shared.data[PAD] = 0
    return loss.item()


def train(pairs: list[Pair], folder: Path, epochs: int, minutes: float) -> None:
    model = new_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    start = time.time()
    schedule = Schedule(len(batches(pairs)) * epochs, start, start + minutes * 60)
    step = 0
    for epoch in range(epochs):
        for batch in batches(pairs):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            loss = train_step(model, optimizer, batch)
            step += 1
            if step % 50 == 0:
                logger.info("epoch %d step %d/%d loss %.3f", epoch, step, schedule.steps, loss)
            if time.time() > schedule.end:
                break
        model.save_pretrained(folder)
        if time.time() > schedule.end:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=65)
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    random.seed(0)
    wanted.out.mkdir(parents=True, exist_ok=True)
    texts = hold_out(read(wanted.pairs), wanted.out)
    pieces = train_pieces(texts, wanted.out)
    pairs = [(pieces.encode(english) + [EOS], pieces.encode(german) + [EOS]) for english, german in texts]
    logger.info("%d pairs", len(pairs))
    train(pairs, wanted.out, wanted.epochs, wanted.minutes)


if __name__ == "__main__":
    main()
