"""How fast is a model through the service, beside what the same model can do on the same machine by other means?

Method. Every way gets the same texts, the same weights, the same number of beams and the same bounds of the output's
length, on the same processors: this process and all it starts keep to `--cpus` of them.

transformers, row by row      MarianMTModel in float32, one line at a time, in the order of the lines
transformers, batches of 32   the same, 32 lines at a time, padded to the longest of each: the loop most people write.
                              Both with as many threads as processors or with one, whichever is faster on a few lines:
                              beside other work, torch's threads lose far more than their share
CTranslate2, defaults         int8, `translate_iterable` with its default batches (32 lines), threads and translator
CTranslate2, tuned            int8, sorted by length, batches by tokens; the number of translators and threads, the call
                              and the size of a batch are the best of a grid, measured for each model and number of
                              beams at the start of the run, on a sample of the lines. sentencepiece encodes all lines
                              in one call and decodes all outputs in one call, which is counted: texts in, texts out
our engine alone              int8, the worker's engine in this process, by the protocol that the worker uses: encode,
                              generate, decode. It calibrates itself when it is loaded
our service, end to end       from before the lines are written into a file until the parsed results are there: upload,
                              job, a look every 50 ms until it is completed, download. API, database, broker and workers
                              run on the same processors. The model was loaded by a job before

The ways take turns, beginning with another one each round; medians are shown. transformers is given a sample of the
lines, spread evenly over their lengths, and compared by lines a second: all of them would take hours. Its output in
batches of 32 is the reference that every other output is compared with: chrF, and the share of lines that are the same
to the letter. On a GPU, where transformers runs in bfloat16 and CTranslate2 and we in 16 bits too, it is done once more
in float32, untimed. Lines are one to six everyday sentences each, no two alike, so that nothing is
won by computing what is the same once; the result cache is off.

The model with random weights has 60 million parameters (d_model 512, 6 + 6 layers, 32,001 tokens). It says nothing
sensible and would never end, so all outputs have the same length, by a minimum that equals the maximum. It says one
token again and again, another one for most inputs; which one hangs on small differences, so that int8 may say another
than float32, and its agreement alone tells little of an error. For that there is the float32 conversion, which is
compared as well, and not timed.

Not fair: to transformers in that it is not quantized (its users rarely do), to CTranslate2 in nothing we know of; to us
in that the others do without a file, a database and a second process.

    python -m benchmarks.engine [--model NAME] [--lines 20000] [--beams 1,4] [--rounds 5] [--shortlist]
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.agreement import Agreement, agreement
from benchmarks.alone import Alone
from benchmarks.contender import contender, conversion, for_device, source_of, with_shortlist, write_registry
from benchmarks.decoding import Decoding
from benchmarks.endtoend import EndToEnd
from benchmarks.heldout import read_lines
from benchmarks.marian import NAME as RANDOM
from benchmarks.plain import Plain
from benchmarks.plot import Bar, draw
from benchmarks.publishing import add_options, publish, say
from benchmarks.raw import Pieces, Raw
from benchmarks.service import BenchmarkFailed, running
from benchmarks.tables import markdown
from benchmarks.ways import Timed, Way, spread, take_turns
from models.spec import ModelSpec

N0, N1 = "transformers, row by row", "transformers, batches of 32"
R0, R = "CTranslate2, defaults", "CTranslate2, tuned"
ALONE, SERVICE = "our engine alone", "our service, end to end"
WITH_SHORTLIST = f"{SERVICE}, shortlist"
TWIN = "CTranslate2, float32"
# On how many lines the settings of CTranslate2 are tried: a tenth, but not so few that it is chance.
GRID_SHARE, GRID_LINES = 10, 300


@dataclass(frozen=True, slots=True)
class Sizes:
    lines: int
    rows_n0: int
    rows_n1: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A model with one way of decoding: what every way took, and how its outputs compare with the reference."""

    model: str
    decoding: Decoding
    threads: int
    setting: str
    tried: dict[str, float]
    timed: dict[str, Timed]
    tokens: dict[str, int]
    agreements: dict[str, Agreement]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.decoding.name}"

    def ratio(self, one: str, other: str) -> float | None:
        """How many times as fast one is as the other, by the medians; None where one of them did not run."""
        if one not in self.timed or other not in self.timed:
            return None
        return self.timed[one].rate / self.timed[other].rate


def measure(
    spec: ModelSpec, lines: list[str], decodings: Sequence[Decoding], sizes: Sizes, device: str, is_short: bool
) -> Iterator[Measured]:
    """All ways with one model, loaded once."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bushel-engine-")))
        cache = folder / "cache"
        source = source_of(spec)
        pieces = Pieces(source)
        plain = Plain(source, device, device == "cpu", spec.prefix)
        raw = _raw(spec, cache, device)
        specs = for_device(spec, device)
        ours: dict[str, Any] = {}
        for suffix, each in specs.items():
            if (engine := _alone(each, cache, device)) is not None:
                stack.callback(engine.close)
                ours[ALONE + suffix] = engine
                ours[SERVICE + suffix] = _served(stack, each, folder, device, suffix)
        if is_short:
            ours[WITH_SHORTLIST] = _served(stack, with_shortlist(spec), folder, device, "-shortlist")
        lengths = [len(encoded) for encoded in pieces.encode(lines)]
        everything = range(len(lines))
        n1 = spread(lengths, sizes.rows_n1)
        n0 = [n1[place] for place in spread([lengths[place] for place in n1], sizes.rows_n0)]
        for decoding in decodings:
            say(f"{spec.name}, {decoding.name}, {len(lines):,} lines")
            ways = [
                Way(N0, n0, partial(plain.translate, decoding=decoding, batch=1)),
                Way(N1, n1, partial(plain.translate, decoding=decoding)),
            ]
            threads = plain.choose_threads([lines[place] for place in n1[:4]], decoding, machine.cpus())
            say(f"  transformers: {threads} threads")
            setting = ""
            tried: dict[str, float] = {}
            if raw is not None:
                grid = [lines[place] for place in spread(lengths, max(GRID_LINES, len(lines) // GRID_SHARE))]
                best, tried = raw.best_setting(grid, decoding, machine.cpus(), say)
                setting = str(best)
                ways.append(Way(R0, everything, partial(raw.default, decoding=decoding)))
                ways.append(Way(R, everything, partial(raw.tuned, decoding=decoding, setting=best)))
            for name, one in ours.items():
                check = {"check": one.check} if isinstance(one, EndToEnd) else {}
                ways.append(Way(name, everything, partial(one.translate, decoding=decoding), **check))
            timed = take_turns([way for way in ways if way.places], lines, sizes.rounds, say)
            outputs = {name: found.outputs for name, found in timed.items()}
            if device == "cpu":
                outputs[TWIN] = _twin(spec, cache, lines, n1, decoding)
                reference = outputs.pop(N1)
            else:
                say("the reference: transformers in float32")
                exact = Plain(source, device, True, spec.prefix).translate([lines[place] for place in n1], decoding)
                reference = dict(zip(n1, exact, strict=True))
            yield Measured(
                model=spec.name,
                decoding=decoding,
                threads=threads,
                setting=setting,
                tried=tried,
                timed=timed,
                tokens={name: _tokens(found, decoding, pieces) for name, found in timed.items()},
                agreements={name: agreement(each, reference) for name, each in outputs.items()},
            )


def _raw(spec: ModelSpec, cache: Path, device: str) -> Raw | None:
    each = spec if device == "cpu" else replace(spec, quantization="float16")
    try:
        return Raw(*_converted(each, cache), device=device)
    except (RuntimeError, ValueError) as exc:
        say(f"CTranslate2 by itself is left out: {exc}")
        return None


def _converted(spec: ModelSpec, cache: Path) -> tuple[Path, Path, str]:
    converted, compute_type = conversion(spec, cache)
    return converted, source_of(spec), compute_type


def _alone(spec: ModelSpec, cache: Path, device: str) -> Alone | None:
    from workers.engines.base import ModelUnavailable

    try:
        return Alone(spec, cache, device)
    except ModelUnavailable as exc:
        if device == "cpu":
            raise BenchmarkFailed(str(exc)) from exc
        say(f"left out: {exc}")
        return None


def _served(stack: ExitStack, spec: ModelSpec, folder: Path, device: str, suffix: str) -> EndToEnd:
    own = folder / f"service{suffix.replace(' ', '')}"
    own.mkdir()
    registry = write_registry(spec, own / "registry.toml")
    environment = {"BUSHEL_REGISTRY": str(registry), "BUSHEL_DEVICE": device}
    return EndToEnd(stack.enter_context(running([spec.name], environment)), spec.name, own)


def _twin(spec: ModelSpec, cache: Path, lines: list[str], places: list[int], decoding: Decoding) -> dict[int, str]:
    """What the conversion says that is not quantized: it must agree with transformers, whose weights it has."""
    exact = Raw(*_converted(replace(spec, quantization="float32"), cache), device="cpu")
    outputs = exact.default([lines[place] for place in places], decoding)
    return dict(zip(places, outputs, strict=True))


def _tokens(found: Timed, decoding: Decoding, pieces: Pieces) -> int:
    if decoding.is_forced:
        return len(found.outputs) * decoding.max_new_tokens
    return pieces.count(found.outputs.values())


def table(measured: Sequence[Measured]) -> str:
    """One a model and number of beams, with what was tuned below it."""
    header = ["", "lines", "lines/s", "least - most", "tokens/s", "x R", "x batches of 32", "chrF", "same"]
    parts = []
    for one in measured:
        rows = []
        for name, timed in one.timed.items():
            middle = statistics.median(timed.seconds)
            spread_of = f"{min(timed.rates):,.0f} - {max(timed.rates):,.0f}"
            ratios = [_shown(one.ratio(name, R)), _shown(one.ratio(name, N1), 1)]
            agreed = one.agreements.get(name)
            cells = [f"{agreed.chrf:.1f}", f"{agreed.same:.1%}"] if agreed else ["reference", ""]
            speed = [f"{timed.rate:,.0f}", spread_of, f"{one.tokens[name] / middle:,.0f}"]
            rows.append([name, f"{len(timed.places):,}", *speed, *ratios, *cells])
        if (twin := one.agreements.get(TWIN)) is not None:
            rows.append([TWIN, f"{twin.lines:,}", *[""] * 5, f"{twin.chrf:.1f}", f"{twin.same:.1%}"])
        said = f"\n\nR is CTranslate2, tuned: {one.setting}. transformers: {one.threads} threads."
        parts.append(f"**{one.title}** ({_lengths(one.decoding)})\n\n{markdown(header, rows)}{said}")
    return "\n\n".join(parts)


def _lengths(decoding: Decoding) -> str:
    if decoding.is_forced:
        return f"every output has {decoding.max_new_tokens} tokens"
    return f"at most {decoding.max_new_tokens} tokens"


def _shown(ratio: float | None, digits: int = 2) -> str:
    return "" if ratio is None else f"{ratio:.{digits}f}"


def figures(measured: Sequence[Measured]) -> dict[str, float]:
    """The ratios that matter, and how much outputs agree."""
    found: dict[str, float] = {}
    for one in measured:
        for name in one.timed:
            for other, word in ((R, "R"), (N1, "N1"), (N0, "N0")):
                ratio = one.ratio(name, other)
                if ratio is not None and name.startswith("our"):
                    found[f"{one.title}: {name} / {word}"] = ratio
            if name in one.agreements:
                found[f"{one.title}: {name}, chrF"] = one.agreements[name].chrf
    return found


def picture(measured: Sequence[Measured], path: Path) -> None:
    panels = {
        f"{one.title}: lines a second": [
            Bar(name, timed.rate, min(timed.rates), max(timed.rates), name.startswith("our"))
            for name, timed in one.timed.items()
        ]
        for one in measured
    }
    draw(panels, "lines a second, median; the thin line is the least and the most of the rounds", path)


def rounds_of(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {
            "model": one.model,
            "decoding": asdict(one.decoding),
            "torch_threads": one.threads,
            "setting": one.setting,
            "tried": one.tried,
            "seconds": {name: timed.seconds for name, timed in one.timed.items()},
            "lines": {name: len(timed.places) for name, timed in one.timed.items()},
            "tokens": one.tokens,
            "agreement": {name: asdict(each) for name, each in one.agreements.items()},
        }
        for one in measured
    ]


def find_device(wanted: str) -> str:
    """What was asked for; else a GPU if there is one, and a line that says so."""
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "auto":
        say(f"on {torch.cuda.get_device_name()}" if has_gpu else "no GPU is at hand here, so all of it runs on the CPU")
        return "cuda" if has_gpu else "cpu"
    if wanted != "cpu" and not has_gpu:
        raise BenchmarkFailed("there is no GPU that torch can use; leave --device out")
    return wanted


def decodings_of(model: str, beams: Sequence[int], new_tokens: int, max_new_tokens: int) -> list[Decoding]:
    if model == RANDOM:
        return [Decoding(each, new_tokens, new_tokens) for each in beams]
    return [Decoding(each, max_new_tokens) for each in beams]


def run(options: argparse.Namespace) -> list[Measured]:
    machine.keep_to(options.cpus)
    device = find_device(options.device)
    measured: list[Measured] = []
    with contextlib.ExitStack() as stack:
        made = Path(options.made or stack.enter_context(tempfile.TemporaryDirectory(prefix="bushel-made-")))
        for name in options.model or [RANDOM, "translation-balanced"]:
            sizes = Sizes(
                options.lines_random if name == RANDOM else options.lines,
                options.rows_n0,
                options.rows_n1,
                options.rounds,
            )
            lines = read_lines(options.texts, sizes.lines)
            decodings = decodings_of(name, options.beams, options.new_tokens, options.max_new_tokens)
            is_short = options.shortlist and name != RANDOM
            measured += measure(contender(name, made), lines, decodings, sizes, device, is_short)
    return measured


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument(
        "--model", action="append", help=f"a translation model that comes with Bushel, or {RANDOM}; may be repeated"
    )
    made.add_argument("--lines", type=int, default=4_000, help="lines for a trained model (default: %(default)s)")
    made.add_argument("--lines-random", type=int, default=1_000, help=f"and for {RANDOM} (default: %(default)s)")
    made.add_argument("--texts", type=Path, help="a file of lines instead of the sentences")
    made.add_argument("--rows-n0", type=int, default=24, help="lines of N0, row by row (default: %(default)s)")
    made.add_argument("--rows-n1", type=int, default=192, help="and in batches of 32 (default: %(default)s)")
    made.add_argument("--beams", type=_numbers, default=[1], help="comma-separated (default: 1)")
    made.add_argument("--new-tokens", type=int, default=32, help=f"of every output of {RANDOM} (default: %(default)s)")
    made.add_argument("--max-new-tokens", type=int, default=128, help="of outputs else (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    made.add_argument("--shortlist", action="store_true", help="the service with the model's shortlist, too")
    made.add_argument("--device", default="auto", help="cpu or cuda (default: cuda if there is one)")
    made.add_argument("--cpus", type=int, default=machine.cpus(), help="processors for everybody (default: all)")
    made.add_argument("--made", type=Path, metavar="FOLDER", help=f"keep {RANDOM} there for the next run")
    add_options(made)
    return made


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    before = machine.facts()
    try:
        measured = run(options)
    except BenchmarkFailed as exc:
        say(f"failed: {exc}")
        return 1
    settings = {name: value for name, value in vars(options).items() if name not in ("print_only", "made")}
    result = results.found("engine", __doc__, before, settings, figures(measured), rounds_of(measured))
    what = "Lines a second of every way, for each model and number of beams"
    publish(result, table(measured), partial(picture, measured), options.print_only, what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
