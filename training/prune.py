"""Make a model smaller by leaving parts of it out: tokens, layers, or neurons and heads.

python -m training.prune trim | layers | structured MODEL OUT …    (--help after the word says what each takes)
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from training import drop_layers, structured, trim
from training.settings import called, run

OPERATIONS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "trim": trim.main,
    "layers": drop_layers.main,
    "structured": structured.main,
}


def main(argv: Sequence[str] | None = None) -> None:
    said = list(sys.argv[1:] if argv is None else argv)
    if not said or said[0] not in OPERATIONS:
        print(__doc__)
        raise SystemExit(0 if said[:1] in (["-h"], ["--help"]) else 2)
    if (name := called.get()) is not None:
        called.set(f"{name} {said[0]}")
    OPERATIONS[said[0]](said[1:])


if __name__ == "__main__":
    run(main)
