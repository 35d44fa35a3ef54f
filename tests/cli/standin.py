"""A stand-in for a part: notes its start and its end in a file, and dies or hangs when told to.

standin.py NAME EVENTS [--die-after SECONDS [--succeed]] [--deaf] [--child] [--say TEXT]
"""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


def note(events: Path, word: str, name: str) -> None:
    with events.open("a") as file:
        file.write(f"{word} {name} {os.getpid()} {time.monotonic()}\n")


def main(name: str, events: Path, flags: list[str]) -> None:
    def leave(number: int, frame: object) -> None:
        note(events, "stop", name)
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "--deaf" in flags else leave)
    if "--child" in flags:
        # Hears the same signals as we do only if it is in our process group.
        child = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        with events.open("a") as file:
            file.write(f"child {name} {child.pid} 0\n")
    note(events, "start", name)
    if "--say" in flags:
        print(flags[flags.index("--say") + 1], flush=True)  # noqa: T201 - its output is the point
    if "--die-after" in flags:
        select.select([], [], [], float(flags[flags.index("--die-after") + 1]))
        sys.exit(0 if "--succeed" in flags else 3)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
