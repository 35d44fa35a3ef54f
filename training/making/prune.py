"""Make a model smaller by leaving parts of it out: tokens, layers, or neurons and heads.

    bushel models prune trim MODEL OUT --texts FILE …        tokens that some texts do not have
    bushel models prune layers MODEL OUT --decoder 3         whole layers
    bushel models prune structured MODEL OUT --pairs FILE …  the least important neurons and heads

--help after the word says what each takes.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from training.making import options
from training.settings import called, run

# What each is told, and the module that does it, which is imported once the words are known to be right.
OPERATIONS: Mapping[str, tuple[Callable[[Sequence[str]], argparse.Namespace], str]] = {
    "trim": (options.trimming, "training.making.trim"),
    "layers": (options.dropping, "training.making.drop_layers"),
    "structured": (options.cutting, "training.making.structured"),
}


def main(argv: Sequence[str] | None = None) -> None:
    said = list(sys.argv[1:] if argv is None else argv)
    name = called.get() or "training.making.prune"
    parser = argparse.ArgumentParser(
        prog=name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=OPERATIONS, help="what is left out")
    # The rest is the operation's own.
    what = parser.parse_args(said[:1]).what
    called.set(f"{name} {what}")
    read, module = OPERATIONS[what]
    read(said[1:])
    importlib.import_module(module).main(said[1:])


if __name__ == "__main__":
    run(main)
