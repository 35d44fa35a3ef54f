"""The starter model through the whole service, against the loop that people write with `transformers`.

Method. The 1,500 English sentences of the model's heldout.tsv, which it never saw in training, in the file's order.

service       A private service with one model worker and the shipped registry (CTranslate2, int8). A job of all the
              sentences goes first, so that the model is converted, calibrated and loaded. Then the sentences go in as
              one JSONL file. "end to end" is the client's clock from before the upload until a look at the job,
              every 50 ms, shows it completed; "own clock" is the database's from the job's creation to `completed`;
              "running" is the part of it from `in_progress` to `finalizing`.
transformers  MarianMTModel in float32 in this process, with PyTorch's default threads: batches of 32 in the file's
              order, padded to the longest of each, `generate` with the same beams and the same max_new_tokens, decoded
              without special tokens. A batch goes first. No file, no database, nothing is kept.

Service and transformers take turns, so that whatever else the machine does meets both; medians are shown, and how
many times as fast as plain transformers each is, by the medians and ("fastest") by the best round of each. Where others
compete for the processors the latter is the fairer one: PyTorch's threads wait for one another at every operation and
lose more than their share. The idle service stays up while transformers runs.

BLEU and chrF are sacreBLEU's with default settings, on all references of each sentence: sentences have 1 to 7, so the
reference streams are filled up with None, which sacreBLEU leaves out (`nrefs:var` in the signature). "agreement" is
the chrF of the service's output against the transformers output, "same" the share of sentences that are equal to the
letter. The job's audit is checked; a wrong or missing line ends the benchmark.

    python -m benchmarks.heldout [--beams 1,4] [--repeat 3] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from benchmarks import machine
from benchmarks.service import BenchmarkFailed, Service, running
from benchmarks.tables import markdown

MODEL = "tatoeba-en-de-draft"
FOLDER = Path(__file__).resolve().parents[1] / "models" / MODEL
MAX_NEW_TOKENS = 128
BATCH = 32
_SECONDS = 900.0

References = list[list[str | None]]


@dataclass(slots=True)
class Found:
    """Everything measured with one number of beams; seconds are one a round."""

    end_to_end: list[float] = field(default_factory=list)
    own_clock: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    transformers: list[float] = field(default_factory=list)
    service_texts: list[str] = field(default_factory=list)
    transformers_texts: list[str] = field(default_factory=list)


def read_heldout(path: Path) -> tuple[list[str], References]:
    """Sources, and as many streams of references as the sentence with most of them has."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    streams = zip_longest(*(row[1:] for row in rows))
    return [row[0] for row in rows], [list(stream) for stream in streams]


def translate_by_service(service: Service, sources: Sequence[str], beams: int, path: Path, found: Found) -> None:
    path.write_text("".join(json.dumps({"text": source}) + "\n" for source in sources), encoding="utf-8")
    began = time.perf_counter()
    file_id = service.upload(path)
    job_id = service.submit(
        task="translation",
        model=MODEL,
        input_file_id=file_id,
        format="jsonl",
        params={"num_beams": beams, "max_new_tokens": MAX_NEW_TOKENS},
    )
    service.watch(job_id, _SECONDS)
    found.end_to_end.append(time.perf_counter() - began)
    timeline = service.timeline(job_id)
    found.own_clock.append(timeline.completed)
    found.running.append(timeline.finalizing - timeline.in_progress)
    service.check_audit(job_id)
    found.service_texts = _results(service, job_id, len(sources))


def _results(service: Service, job_id: str, count: int) -> list[str]:
    answer = service.http.get(f"/v1/jobs/{job_id}/results").raise_for_status()
    lines = [json.loads(line) for line in answer.content.splitlines()]
    if [line["index"] for line in lines] != list(range(count)):
        raise BenchmarkFailed(f"the results of {job_id} are not those of {count} inputs in their order")
    return [line["output"]["text"] for line in lines]


class Plain:
    """Marian as its documentation shows it."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, MarianMTModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
        self.threads = torch.get_num_threads()

    def translate(self, sources: Sequence[str], beams: int) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(sources), BATCH):
            batch = self._tokenizer(list(sources[start : start + BATCH]), return_tensors="pt", padding=True)
            # max_length of the model's generation_config would otherwise be warned about with every batch.
            outputs = self._model.generate(**batch, num_beams=beams, max_new_tokens=MAX_NEW_TOKENS, max_length=None)
            texts += self._tokenizer.batch_decode(outputs, skip_special_tokens=True)
        return texts


def measure(beams: Sequence[int], repeat: int) -> tuple[dict[int, Found], References]:
    sources, references = read_heldout(FOLDER / "heldout.tsv")
    found = {each: Found() for each in beams}
    with tempfile.TemporaryDirectory(prefix="bushel-heldout-") as folder, running([MODEL]) as service:
        path = Path(folder) / "heldout.jsonl"
        plain = Plain(FOLDER)
        _say("warming up")
        for each in beams:
            translate_by_service(service, sources, each, path, Found())
            plain.translate(sources[:BATCH], each)
        for turn in range(repeat):
            for each in beams:
                _say(f"round {turn + 1} of {repeat}, beams {each}")
                translate_by_service(service, sources, each, path, found[each])
                began = time.perf_counter()
                found[each].transformers_texts = plain.translate(sources, each)
                found[each].transformers.append(time.perf_counter() - began)
    return found, references


def report(found: dict[int, Found], references: References) -> str:
    """Speed, then quality, both as tables; the signatures below."""
    count = len(references[0])
    speeds, quality = [], []
    for beams, one in found.items():
        plain = statistics.median(one.transformers)
        ways = {
            "service, end to end": one.end_to_end,
            "service, own clock": one.own_clock,
            "service, running": one.running,
            "transformers": one.transformers,
        }
        for name, seconds in ways.items():
            middle = statistics.median(seconds)
            spread = f"{min(seconds):.2f} - {max(seconds):.2f}"
            speeds.append([f"{_decoding(beams)}: {name}", f"{middle:.2f}", spread, f"{count / middle:,.0f}"])
            speeds[-1] += [f"{plain / middle:.1f}", f"{min(one.transformers) / min(seconds):.1f}"]
    bleu, chrf = BLEU(), CHRF()
    for beams, one in found.items():
        # None is in sacreBLEU's documentation, not in its types.
        for name, texts in (("service", one.service_texts), ("transformers", one.transformers_texts)):
            scores = [metric.corpus_score(texts, references).score for metric in (bleu, chrf)]  # type: ignore[arg-type]
            quality.append([f"{_decoding(beams)}: {name}", *(f"{score:.1f}" for score in scores)])
        agreement = CHRF().corpus_score(one.service_texts, [one.transformers_texts]).score
        same = sum(a == b for a, b in zip(one.service_texts, one.transformers_texts, strict=True)) / count
        quality[-2] += [f"{agreement:.1f}", f"{same:.1%}"]
        quality[-1] += ["", ""]
    return "\n\n".join(
        (
            markdown(["", "seconds", "least - most", "sentences/s", "x plain", "x, fastest"], speeds),
            markdown(["", "BLEU", "chrF", "agreement, chrF", "same"], quality),
            f"BLEU {bleu.get_signature()}; chrF {chrf.get_signature()}",
        )
    )


def _decoding(beams: int) -> str:
    return "greedy" if beams == 1 else f"beam {beams}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Speed and quality of the starter model, with and without Bushel.")
    parser.add_argument("--beams", default="1,4", help="comma-separated (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there, outputs included")
    options = parser.parse_args(arguments)
    about = machine.describe()
    try:
        found, references = measure([int(each) for each in options.beams.split(",")], options.repeat)
    except BenchmarkFailed as exc:
        _say(f"failed: {exc}")
        return 1
    print(f"{about}. Medians of {options.repeat}.\n\n{report(found, references)}")
    if options.json:
        content: dict[str, Any] = {"machine": about, "found": {beams: asdict(one) for beams, one in found.items()}}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
