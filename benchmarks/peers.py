"""How fast is the service beside what somebody would run instead, with the same model?

Method. Every peer gets the same texts, the same CTranslate2 conversion (int8), the same beams and the same bound of 256
tokens, on the same processors, one after the other in turns; what does not run at the moment stays up and idle. What
each is given at once is what its interface is made for:

our service, end to end    one file, from before it is written until the parsed results are there; the model was loaded
                           by a job before
LibreTranslate, as it comes    its own server (waitress, four threads) and settings; lists of 50 texts over four
                           connections. Its package is made here from the same conversion (benchmarks/argos_package.py)
LibreTranslate, tuned      the same, with as many translators as processors, of one thread each
Celery, a task per text    prefork, a process for each processor with the model in it, one thread each; Valkey as broker
                           and result backend; one group of all texts, and all results waited for
Triton, dynamic batcher    NVIDIA Triton through nvidia-pytriton with a Python backend around CTranslate2; a request a
                           text, 64 at once; it waits 5 ms for a batch to fill up. If it does not run here, the
                           reason is said, and the others go on

LibreTranslate's length penalty is fixed at 0.2, so all use that where there are beams. Outputs of a sample of the lines
are compared with those of transformers in float32: chrF, and the share that is the same to the letter. LibreTranslate
cuts lines into sentences, and afterwards gives outputs the punctuation and the case of their inputs, so that it agrees
a little less. Lines are the sentences, each once.

Not fair: LibreTranslate would download a neural sentence splitter; here it has a rule-based one that costs next to
nothing, which favours it. Triton answers over JSON, as a client without its library would ask; gRPC costs less. Celery
and Triton keep nothing and LibreTranslate keeps nothing: only ours has the inputs and the results in a database.

    make bench-peers [ARGS="--lines 1500 --beams 4 --rounds 5"]
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks import machine, results
from benchmarks.agreement import Agreement, agreement
from benchmarks.argos_package import libretranslate, make_package
from benchmarks.celery_peer import task_per_text
from benchmarks.contender import contender, conversion, source_of, write_registry
from benchmarks.decoding import Decoding
from benchmarks.endtoend import EndToEnd
from benchmarks.heldout import read_lines, read_sources
from benchmarks.plain import Plain
from benchmarks.plot import Bar, draw
from benchmarks.publishing import add_options, publish, say
from benchmarks.service import BenchmarkFailed, running
from benchmarks.tables import markdown
from benchmarks.triton import DoesNotRun, triton
from benchmarks.ways import Timed, Way, spread, take_turns
from cli.stack.parts import check_port

OURS = "our service, end to end"
AS_IT_COMES, TUNED = "LibreTranslate, as it comes", "LibreTranslate, tuned"
CELERY, TRITON = "Celery, a task per text", "Triton, dynamic batcher"
# CTranslate2's own, which LibreTranslate does not change.
MAX_NEW_TOKENS = 256
_LENGTH_PENALTY = 0.2
_PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"


class Translator(Protocol):
    """Anything that takes part."""

    def translate(self, lines: Sequence[str], decoding: Decoding) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Found:
    decoding: Decoding
    timed: dict[str, Timed]
    agreements: dict[str, Agreement]
    # Of those that do not run here: the reason.
    missing: dict[str, str]

    def ratio(self, other: str) -> float:
        """How many times as fast ours is."""
        return self.timed[OURS].rate / self.timed[other].rate


def peers(
    folder: Path, about: dict[str, Any], decoding: Decoding, python: Path, cpus: int
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Translator]]]]:
    """Each peer's name, and what starts it."""
    tuned = {"ARGOS_INTER_THREADS": str(cpus), "ARGOS_INTRA_THREADS": "1"}
    given: dict[str, dict[str, str]] = {AS_IT_COMES: {}, TUNED: tuned}
    for name, settings in given.items():
        port = check_port("127.0.0.1", 0)
        yield name, partial(libretranslate, folder / "argos", python, port, decoding, settings)
    yield CELERY, partial(task_per_text, folder, about, cpus)
    yield TRITON, partial(triton, python, about | {"threads": cpus}, folder / "triton.log")


def measure(lines: list[str], options: argparse.Namespace) -> Found:
    beams = options.beams
    decoding = Decoding(beams, MAX_NEW_TOKENS, length_penalty=_LENGTH_PENALTY if beams > 1 else 1.0)
    started: dict[str, Translator] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bushel-peers-")))
        # Valkey may not run as who we are.
        folder.chmod(0o711)
        spec = contender(options.model, folder / "cache")
        converted, compute_type = conversion(spec, folder / "cache")
        make_package(folder / "argos", converted, source_of(spec), options.peers)
        registry = write_registry(replace(spec, max_output_tokens=None), folder / "registry.toml")
        service = stack.enter_context(running([spec.name], {"BUSHEL_REGISTRY": str(registry)}))
        started[OURS] = EndToEnd(service, spec.name, folder)
        about = {
            "model": str(converted),
            "source": str(source_of(spec)),
            "compute_type": compute_type,
            "options": {
                "beam_size": beams,
                "max_decoding_length": MAX_NEW_TOKENS,
                "length_penalty": decoding.length_penalty,
            },
        }
        for name, start in peers(folder, about, decoding, options.peers, machine.cpus()):
            say(f"starting {name}")
            try:
                started[name] = stack.enter_context(start())
            except DoesNotRun as exc:
                missing[name] = str(exc)
                say(f"{name} does not run here: {exc}")
        ways = [_way(name, one, decoding, len(lines)) for name, one in started.items()]
        timed = take_turns(ways, lines, options.rounds, say)
    say("the reference: transformers in float32")
    sample = spread([len(line) for line in lines], options.sample)
    plain = Plain(source_of(spec), "cpu", True, spec.prefix)
    plain.choose_threads(lines[:4], decoding, machine.cpus())
    reference = dict(zip(sample, plain.translate([lines[place] for place in sample], decoding), strict=True))
    agreements = {name: agreement(each.outputs, reference) for name, each in timed.items()}
    return Found(decoding, timed, agreements, missing)


def _way(name: str, one: Translator, decoding: Decoding, count: int) -> Way:
    run = partial(one.translate, decoding=decoding)
    if isinstance(one, EndToEnd):
        return Way(name, range(count), run, check=one.check)
    return Way(name, range(count), run)


def table(found: Found) -> str:
    """One row a peer, with how many times as fast ours is; and why one is missing."""
    rows = []
    for name, timed in found.timed.items():
        agreed = found.agreements[name]
        spread_of = f"{min(timed.rates):,.0f} - {max(timed.rates):,.0f}"
        speed = [f"{len(timed.places):,}", f"{timed.rate:,.0f}", spread_of]
        rows.append([name, *speed, f"{found.ratio(name):.1f}", f"{agreed.chrf:.1f}", f"{agreed.same:.1%}"])
    header = [found.decoding.name, "lines", "lines/s", "least - most", "ours : it", "chrF", "same"]
    said = [f"{name} does not run here: {reason}." for name, reason in found.missing.items()]
    return "\n\n".join((markdown(header, rows), *said))


def figures(found: Found) -> dict[str, float]:
    named = {f"ours / {name}": found.ratio(name) for name in found.timed if name != OURS}
    return named | {f"{name}, chrF": agreed.chrf for name, agreed in found.agreements.items()}


def picture(found: Found, path: Path) -> None:
    bars = [
        Bar(name, timed.rate, min(timed.rates), max(timed.rates), name == OURS) for name, timed in found.timed.items()
    ]
    draw({f"{found.decoding.name}: lines a second": bars}, "lines a second, median; least and most of the rounds", path)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--model", default="translation-balanced", help="(default: %(default)s)")
    made.add_argument("--lines", type=int, default=1_000, help="sentences (default: %(default)s)")
    made.add_argument("--texts", type=Path, help="a file of lines instead of them")
    made.add_argument("--beams", type=int, default=4, help="(default: %(default)s, which is LibreTranslate's)")
    made.add_argument("--sample", type=int, default=96, help="lines that are compared (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    made.add_argument("--peers", type=Path, default=_PEERS, help="the peers' interpreter (default: .venv-peers)")
    made.add_argument("--cpus", type=int, default=machine.cpus(), help="processors for everybody (default: all)")
    add_options(made)
    return made


def _lines(options: argparse.Namespace) -> list[str]:
    if options.texts is not None:
        return read_lines(options.texts, options.lines)
    sources = list(dict.fromkeys(read_sources()))
    if options.lines > len(sources):
        raise BenchmarkFailed(f"there are {len(sources):,} sentences; ask for at most so many with --lines")
    return sources[: options.lines]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if not options.peers.is_file():
        say(f"{options.peers} is not there; `make bench-peers` makes it")
        return 2
    before = machine.facts()
    machine.keep_to(options.cpus)
    try:
        found = measure(_lines(options), options)
    except BenchmarkFailed as exc:
        say(f"failed: {exc}")
        return 1
    settings = {name: value for name, value in vars(options).items() if name not in ("print_only", "peers")}
    rounds = {
        "seconds": {name: timed.seconds for name, timed in found.timed.items()},
        "median": {name: statistics.median(timed.seconds) for name, timed in found.timed.items()},
        "agreement": {name: asdict(each) for name, each in found.agreements.items()},
        "missing": found.missing,
    }
    result = results.found("peers", __doc__, before, settings, figures(found), rounds)
    publish(result, table(found), partial(picture, found), options.print_only, "Lines a second beside peers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
