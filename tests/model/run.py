"""The long form of the ledger's model: many runs in parts, each with a seed of its own, on a server of its own.

    make ledger-model EXAMPLES=2000 SEED=1

A part that fails prints what was done, shortened, and how to see it again.
"""

import argparse
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

import migrations
from cli.stack.postgres import Postgres
from tests.model.machine import LedgerMachine
from tests.model.world import World

_PART = 50
CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


def run(
    machine: type[LedgerMachine], world: World, examples: int, steps: int, number: int, shorten: bool = True
) -> None:
    """Raises what was found, if something was. The same number does the same again."""
    bound = seed(number)(type(machine.__name__, (machine,), {"world": world}))
    phases = [Phase.generate, Phase.shrink] if shorten else [Phase.generate]
    wanted = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(bound, settings=wanted)


@contextmanager
def own_world() -> Iterator[World]:
    # In memory where there is such a folder: every file is synced, as the service does.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        Path(folder).chmod(0o755)
        with Postgres(Path(folder) / "postgres", settings=CARELESS) as server:
            migrations.upgrade(server.url)
            world = World(server.url, Path(folder) / "files")
            yield world
            world.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the first part")
    asked = parser.parse_args()
    # The service's log of leases that ran out, which is what is done to them here.
    logging.getLogger("workers").setLevel(logging.CRITICAL)
    began, done, number = time.monotonic(), 0, asked.seed
    with own_world() as world:
        while done < asked.examples:
            part = min(_PART, asked.examples - done)
            try:
                run(LedgerMachine, world, part, asked.steps, number)
            except BaseException:
                click.echo(f"again: make ledger-model EXAMPLES={part} SEED={number}")
                raise
            done += part
            number += 1
            click.echo(f"{done} runs of up to {asked.steps} steps, {time.monotonic() - began:.0f} s, seed {number - 1}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
