"""`make demo`: start a stack, translate the example files, show what came out, stop. The same as `bushel demo`."""

import sys

from cli.main import run

if __name__ == "__main__":
    sys.exit(run(["demo", *sys.argv[1:]]))
