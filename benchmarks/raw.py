"""CTranslate2 by itself, text in and text out: with its defaults, and as well as its settings can be chosen."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import sentencepiece

from benchmarks.decoding import Decoding

EOS = "</s>"
# Tokens of input that a batch may hold, padding included. They are not divided by the beams.
SIZES = {"cpu": (512, 1_024, 2_048, 4_096, 8_192), "cuda": (4_096, 16_384, 65_536)}
CALLS = ("translate_iterable", "translate_batch")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a good engineer chooses: threads, the call, and how many tokens a batch may hold."""

    inter_threads: int
    intra_threads: int
    call: str
    batch_tokens: int

    def __str__(self) -> str:
        threads = f"{self.inter_threads} x {self.intra_threads} threads"
        return f"{self.call}, {threads}, batches of {self.batch_tokens} tokens"


class Pieces:
    """Texts to tokens and back, all at once: sentencepiece uses its own threads for a list."""

    def __init__(self, folder: Path) -> None:
        self._source = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
        self._target = sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm"))
        self._known = frozenset(json.loads((folder / "vocab.json").read_text("utf-8")))

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        return [[*pieces, EOS] for pieces in self._source.encode(list(lines), out_type=str)]

    def decode(self, outputs: Sequence[Sequence[str]]) -> list[str]:
        texts: list[str] = self._target.decode([list(output) for output in outputs])
        return [text.strip() for text in texts]

    def count(self, outputs: Iterable[str]) -> int:
        """Tokens of these outputs, with the one that ends each."""
        return sum(len(pieces) + 1 for pieces in self._target.encode(list(outputs), out_type=str))


class Raw:
    """A converted model. `default` is as its documentation begins, `tuned` as one who has measured has it."""

    def __init__(self, converted: Path, source: Path, compute_type: str, device: str) -> None:
        """RuntimeError or ValueError where CTranslate2 cannot use the device."""
        self._converted, self._device, self._compute_type = converted, device.partition(":")[0], compute_type
        self._pieces = Pieces(source)
        self._default: Any = ctranslate2.Translator(str(converted), device=self._device, compute_type=compute_type)
        self._tuned: dict[tuple[int, int], Any] = {}

    def default(self, lines: Sequence[str], decoding: Decoding) -> list[str]:
        """`translate_iterable` with batches of 32 lines, one translator, its own choice of threads."""
        found = self._default.translate_iterable(self._pieces.encode(lines), **self._options(decoding))
        return self._pieces.decode([result.hypotheses[0] for result in found])

    def tuned(self, lines: Sequence[str], decoding: Decoding, setting: Setting) -> list[str]:
        """Sorted by length, the longest first, in batches of so many tokens."""
        encoded = self._pieces.encode(lines)
        order = sorted(range(len(encoded)), key=lambda place: -len(encoded[place]))
        translator = self._translator(setting)
        translate = getattr(translator, setting.call)
        found = translate(
            [encoded[place] for place in order],
            max_batch_size=setting.batch_tokens,
            batch_type="tokens",
            **self._options(decoding),
        )
        outputs: list[list[str]] = [[]] * len(encoded)
        for place, result in zip(order, found, strict=True):
            outputs[place] = result.hypotheses[0]
        return self._pieces.decode(outputs)

    def best_setting(
        self, lines: Sequence[str], decoding: Decoding, cpus: int, say: Callable[[str], None]
    ) -> tuple[Setting, dict[str, float]]:
        """The fastest for these lines, and the lines a second of all that were tried: threads, then call and size."""
        tried: dict[Setting, float] = {}

        def rate(setting: Setting) -> float:
            if setting not in tried:
                self.tuned(lines[:32], decoding, setting)
                began = time.perf_counter()
                self.tuned(lines, decoding, setting)
                tried[setting] = len(lines) / (time.perf_counter() - began)
                say(f"  {setting}: {tried[setting]:,.0f} lines/s")
            return tried[setting]

        pairs = threads(cpus) if self._device == "cpu" else [(1, 1)]
        sizes = SIZES[self._device]
        best = max((Setting(*pair, CALLS[0], sizes[1]) for pair in pairs), key=rate)
        around = (best.inter_threads, best.intra_threads)
        best = max((Setting(*around, call, size) for call, size in itertools.product(CALLS, sizes)), key=rate)
        self._tuned = {pair: kept for pair, kept in self._tuned.items() if pair == around}
        return best, {str(setting): found for setting, found in tried.items()}

    def _translator(self, setting: Setting) -> Any:
        pair = (setting.inter_threads, setting.intra_threads)
        if pair not in self._tuned:
            self._tuned[pair] = ctranslate2.Translator(
                str(self._converted),
                device=self._device,
                compute_type=self._compute_type,
                inter_threads=pair[0],
                intra_threads=pair[1],
            )
        return self._tuned[pair]

    def _options(self, decoding: Decoding) -> dict[str, Any]:
        return {
            "beam_size": decoding.beams,
            "max_decoding_length": decoding.max_new_tokens,
            "min_decoding_length": max(1, decoding.min_new_tokens),
            "length_penalty": decoding.length_penalty,
        }


def threads(cpus: int) -> list[tuple[int, int]]:
    """(replicas, threads of each) that use all processors.

    >>> threads(4)
    [(4, 1), (2, 2), (1, 4)]
    """
    return [(cpus // each, each) for each in range(1, cpus + 1) if cpus % each == 0 and each & (each - 1) == 0]
