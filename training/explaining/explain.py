"""One item of a model as a page of HTML: how likely each token was, what else could have stood there, and attention.

    python -m training.explaining.explain MODEL --text TEXT --out page.html
        [--target TEXT] [--layer N] [--param NAME=VALUE …] [--task TASK]

MODEL is a name of the registry, a folder, or either with changes (`bushel models evaluate --help` says how). With
`--target`, that text is judged instead of one the model writes. The page needs nothing but itself: no script, no other
file.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from models.registry import BUILTIN, Registry, RegistryError, load
from models.spec import ModelSpec, Task
from training.evaluation.contenders import BadContender, contenders
from training.evaluation.plan import CACHE, BadRequest, spelled
from training.explaining.insight import ROLLOUT, CannotExplain, Insight, insight, visible
from training.settings import parse, run
from workers.engines.base import EngineError

PAGE = Path(__file__).with_name("explain.html")
SHADES = 9


def page(found: Insight) -> str:
    """The whole page. Texts may hold anything: all of them are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(exp=math.exp, visible=visible)
    environment.globals.update(shade=_shade, named=_named)
    return environment.from_string(PAGE.read_text("utf-8")).render(found=found)


def _shade(share: float) -> int:
    """Which of the page's colours stands for a number from 0 to 1."""
    return min(SHADES, int(share * (SHADES + 1)))


def _named(view: str) -> str:
    return "rollout over all layers" if view == ROLLOUT else f"layer {view}, mean of its heads"


def _spec(said: str, registry: Registry, task: Task | None) -> ModelSpec:
    folder = Path(said)
    if "=" not in said and said not in registry and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text("utf-8"))
        # The task decides about defaults alone here; what the model is, its own files say.
        task = task or (Task.TRANSLATION if config.get("is_encoder_decoder") else Task.GENERATION)
        said = f"model={folder}"
    [spec] = contenders([said], registry, task)
    return spec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="NAME, FOLDER, NAME=FOLDER or NAME=NAME,…")
    parser.add_argument("--text", required=True, help="the input")
    parser.add_argument("--out", type=Path, required=True, help="the page to be written")
    parser.add_argument("--target", help="an output to be judged, instead of the model's own")
    parser.add_argument(
        "--layer", help="whose attention is shown first: a number from 1, or rollout (default: the last)"
    )
    parser.add_argument("--task", type=Task, choices=list(Task), help="what a model given as a folder does")
    parser.add_argument("--registry", nargs="+", type=Path, default=[], help="registry files beside the built-in one")
    parser.add_argument("--param", nargs="+", default=[], help="decoding parameters, NAME=VALUE")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the best there is)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="for downloaded models")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 if something was asked for wrongly, or 1 if the model cannot be loaded."""
    asked = parse(_parser(), arguments)
    try:
        spec = _spec(asked.model, load([BUILTIN, *asked.registry]), asked.task)
        params = spelled(asked.param)
        found = insight(spec, asked.text, asked.cache, params, asked.target, asked.layer, asked.device)
    except (BadContender, BadRequest, CannotExplain, RegistryError) as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 2
    except EngineError as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 1
    asked.out.write_text(page(found), "utf-8")
    print(asked.out)
    return 0


if __name__ == "__main__":
    run(main)
