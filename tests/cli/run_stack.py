"""Runs a Supervisor over real servers and stand-ins, as a program of its own, so that a test can signal and kill it.

    run_stack.py FOLDER PLAN

PLAN is JSON: a list of stages, each a list of parts; a part is "postgres", "valkey" or
{"name", "flags", "stop"?, "start_seconds"?, "once"?}.

Prints one line per announcement, then `up` once everything is ready.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

from cli.stack.errors import StackError
from cli.stack.lock import FolderLock
from cli.stack.postgres import Postgres
from cli.stack.process import Child, Part
from cli.stack.supervisor import Interrupted, Stage, Supervisor, Tone
from cli.stack.valkey import Valkey

STANDIN = Path(__file__).with_name("standin.py")


def part(folder: Path, wanted: Any) -> Part:
    if wanted == "postgres":
        return Postgres(folder / "postgres").part()
    if wanted == "valkey":
        return Valkey(folder / "valkey").part()
    name, events = wanted["name"], folder / "events"

    def has_started(child: Child) -> str | None:
        started = events.exists() and f"start {name} " in events.read_text()
        return None if started and "never-ready" not in wanted["flags"] else "it has not noted its start"

    return Part(
        name=name,
        command=(sys.executable, "-S", str(STANDIN), name, str(events), *wanted["flags"]),
        probe=has_started,
        start_seconds=wanted.get("start_seconds", 20.0),
        stop=((signal.SIGTERM, wanted.get("stop", 10.0)),),
        once=wanted.get("once", False),
    )


def say(*words: str) -> None:
    sys.stdout.write(" | ".join(words) + "\n")
    sys.stdout.flush()


def announce(name: str, text: str, tone: Tone) -> None:
    say(tone, name, text)


def main(folder: Path, plan: list[Any]) -> int:
    try:
        with FolderLock(folder):
            stages = [Stage(tuple(part(folder, wanted) for wanted in stage)) for stage in plan]
            Supervisor(stages, folder / "logs", announce).run(lambda: say("up"))
    except Interrupted:
        return 130
    except StackError as exc:
        say("failed", str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
