"""The loop that people write with `transformers`, a row or a batch of 32 at a time."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.decoding import Decoding

BATCH = 32


class Plain:
    """A Marian model as its documentation shows it: padded batches in the order of the lines."""

    def __init__(self, folder: Path, device: str, is_exact: bool, prefix: str = "") -> None:
        """In float32 if `is_exact`, else in bfloat16. The prefix is put before every line."""
        import torch
        from transformers import AutoTokenizer, MarianMTModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        dtype = torch.float32 if is_exact else torch.bfloat16
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = MarianMTModel.from_pretrained(folder, dtype=dtype).eval().to(device)  # type: ignore[no-untyped-call]
        self._device, self._prefix = device, prefix

    def choose_threads(self, lines: Sequence[str], decoding: Decoding, cpus: int) -> int:
        """As many as there are processors, or one: whichever is faster with these lines, and used from here on.

        Where others compete for the processors, torch's threads wait for one another at every operation, so that two
        were 25 times as slow as one. Nobody is to look good by that.
        """
        import torch

        seconds = {}
        for threads in {cpus, 1}:
            torch.set_num_threads(threads)
            self.translate(lines[:1], decoding)
            began = time.perf_counter()
            self.translate(lines, decoding)
            seconds[threads] = time.perf_counter() - began
        best = min(seconds, key=lambda threads: seconds[threads])
        torch.set_num_threads(best)
        return best

    def translate(self, lines: Sequence[str], decoding: Decoding, batch: int = BATCH) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(lines), batch):
            given = [self._prefix + line for line in lines[start : start + batch]]
            rows = self._tokenizer(given, return_tensors="pt", padding=True)
            # max_length of the model's generation_config would otherwise be warned about with every batch.
            outputs = self._model.generate(**rows.to(self._device), **decoding.params(), max_length=None)
            texts += self._tokenizer.batch_decode(outputs, skip_special_tokens=True)
        return texts
