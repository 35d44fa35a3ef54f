"""`bushel up` with variables for PostgreSQL alone: as a program, with its supervisor and its parts.

python -m chaos.up DATA PORT WORKERS MODEL... (CHAOS_DATABASE holds the variables, as JSON)
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cli.local import Access, read_access, write_access
from cli.stack import parts
from cli.stack.lock import FolderLock
from cli.stack.supervisor import Action, Stage, Supervisor

VARIABLE = "CHAOS_DATABASE"


def main(data: Path, port: int, workers: int, models: Sequence[str]) -> None:
    """Until a signal ends it, as `bushel up` does."""
    environment = json.loads(os.environ.pop(VARIABLE))
    parts.make_folders(data)
    with FolderLock(data):
        where = parts.layout(data, "127.0.0.1", port)

        def make_first_key() -> None:
            known = read_access(data)
            write_access(data, Access(where.url, parts.first_key(where) or (known.api_key if known else None)))

        plan = (
            Stage((replace(where.postgres.part(), environment=environment),)),
            Stage((where.valkey.part(),)),
            Stage((parts.migrations(where),)),
            Action("first key", make_first_key),
            Stage((parts.api(where), parts.io_worker(where), *parts.model_workers(where, workers, models))),
        )
        supervisor = Supervisor(plan, where.logs, lambda name, text, tone: print(name, text, flush=True))
        supervisor.run(lambda: print(f"Bushel is up: {where.url}", flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
