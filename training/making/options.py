"""What the tools that make a model of another one are told.

Nothing here takes torch: help and mistakes are answered at once, and not after the seconds that its import takes.
"""

import argparse
import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import BadSettings
from training.settings import add_again, add_home, parse

# Method -> what CTranslate2 calls it.
CTRANSLATE2 = {
    "int8": "int8",
    "int8-bf16": "int8_bfloat16",
    "int16": "int16",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
TORCHAO = ("torchao-int8", "torchao-int4")
MODEL = "a model's folder, or a name in the registry"
LAYERS = "how many layers to keep, or which, as 0,2,5 (default: all)"


@dataclass(frozen=True)
class Sizes:
    """How long shortlists are, and how many pairs, of all files together, are read to make and to judge them."""

    best: int = 50
    common: int = 100
    pairs: int = 200_000
    judged: int = 500
    compute_type: str = "int8"
    beams: int = 1


def quantizing(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser("quantize")
    parser.add_argument("--method", choices=(*CTRANSLATE2, *TORCHAO), default="int8", help="default: %(default)s")
    parser.add_argument("--texts", type=Path, help="a line each, for the report and for --smooth (default: a few)")
    parser.add_argument("--smooth", action="store_true", help="even out channels before rounding")
    return _read(parser, argv, "texts")


def student(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser("students", "teacher")
    parser.add_argument("--encoder-layers", type=int, help="how many of them to keep (default: all)")
    parser.add_argument("--decoder-layers", type=int, help="how many of them to keep (default: all)")
    parser.add_argument("--layers", type=int, help="of a causal model: how many to keep (default: all)")
    parser.add_argument(
        "--anew",
        type=_size,
        action="append",
        metavar="NAME=VALUE",
        help="a size in its config, with random weights instead of the teacher's; may be repeated (default: none)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the weights that are made anew (default: %(default)s)")
    return _read(parser, argv)


def shortlisting(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser("shortlist")
    parser.add_argument("--pairs", type=Path, help="tab-separated: source, target (default: those of --recipe)")
    parser.add_argument(
        "--heldout", type=Path, help="pairs that coverage and cost are measured on (default: they are not measured)"
    )
    parser.add_argument(
        "--recipe", type=Path, help="of a training: its files instead of --pairs and --heldout (default: none)"
    )
    parser.add_argument(
        "--data", type=Path, default=Path(), help="the folder of the recipe's files (default: the current one)"
    )
    parser.add_argument(
        "--best", type=int, default=Sizes.best, help="targets of each source token (default: %(default)s)"
    )
    parser.add_argument(
        "--common", type=int, default=Sizes.common, help="commonest targets, for every batch (default: %(default)s)"
    )
    parser.add_argument(
        "--most-pairs", type=int, default=Sizes.pairs, help="pairs the lists are made of (default: %(default)s)"
    )
    parser.add_argument(
        "--judged", type=int, default=Sizes.judged, help="held-out pairs that are decoded (default: %(default)s)"
    )
    parser.add_argument(
        "--beams", type=int, default=Sizes.beams, help="for decoding the held-out pairs (default: %(default)s)"
    )
    parser.add_argument("--tag", help="put before every source, as >>deu<< (default: nothing)")
    asked = _read(parser, argv)
    if (asked.recipe is None) == (asked.pairs is None):
        raise BadSettings("either --pairs or --recipe says what the lists are made of")
    return _there(asked, "pairs", "heldout")


def trimming(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser("trim")
    parser.add_argument(
        "--texts", type=Path, nargs="+", required=True, help="lines, or tables of texts; plain, gzip, xz"
    )
    parser.add_argument(
        "--least", type=int, default=1, help="how often a token has to occur to stay (default: %(default)s)"
    )
    parser.add_argument("--keep-characters", action="store_true", help="keep every single character")
    return _read(parser, argv, "texts")


def dropping(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser("drop_layers")
    parser.add_argument("--encoder", help=LAYERS)
    parser.add_argument("--decoder", help=LAYERS)
    asked = _read(parser, argv)
    if not (asked.encoder or asked.decoder):
        parser.error("say which layers to keep: --encoder, --decoder")
    return asked


def cutting(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser("structured")
    parser.add_argument("--pairs", type=Path, required=True, help="tab-separated: source, target")
    parser.add_argument("--ffn", type=float, default=1.0, help="fraction of the neurons that is kept (default: all)")
    parser.add_argument("--heads", type=float, default=1.0, help="fraction of the heads that is kept (default: all)")
    parser.add_argument(
        "--batches", type=int, default=8, help="batches of 8 pairs that importance is judged on (default: %(default)s)"
    )
    parser.add_argument("--source-lang", help="for a multilingual model (default: its tokenizer's)")
    parser.add_argument("--target-lang", help="for a multilingual model (default: its tokenizer's)")
    parser.add_argument("--tag", help="put before every source, as >>deu<< (default: nothing)")
    asked = _read(parser, argv, "pairs")
    if not (0 < asked.ffn <= 1 and 0 < asked.heads <= 1) or asked.ffn == asked.heads == 1:
        parser.error("--ffn and --heads are fractions, and one of them is to be below 1")
    return asked


def _parser(module: str, what: str = "model") -> argparse.ArgumentParser:
    """With what all of them are told: a model and the folder to write. The help says what the tool's module says."""
    # Read and not imported, which would take torch.
    said = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{module}.py").read_text("utf-8")))
    parser = argparse.ArgumentParser(
        prog=f"training.making.{module}", description=said, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(what, help=MODEL)
    parser.add_argument("out", type=Path, help="the folder to write; it must not be there already")
    add_home(parser)
    add_again(parser)
    return parser


def _read(parser: argparse.ArgumentParser, argv: Sequence[str] | None, *files: str) -> argparse.Namespace:
    return _there(parse(parser, argv), *files)


def _there(asked: argparse.Namespace, *files: str) -> argparse.Namespace:
    """BadSettings if an option names a file that is not there."""
    for name in files:
        said = getattr(asked, name)
        for path in said if isinstance(said, list) else [said]:
            if path is not None and not path.is_file():
                raise BadSettings(f"--{name}: there is no file {path}")
    return asked


def _size(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form name=value")
    try:
        return name, json.loads(value)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{value!r} of {name} is no number: {exc}") from exc
