"""`bushel doctor`: what is wrong with this installation, and what to do about it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

import click
from rich.console import Console
from rich.text import Text

from cli import show
from cli.access import Target
from cli.checkup import broker, catalog, database, door, folder, libraries, machine, software, storage, variables
from cli.checkup.finding import Finding, Outcome
from cli.checkup.rounds import Check, Report, make
from cli.checkup.scene import Kind, Scene, survey
from cli.exits import Exit
from cli.inert import inert
from db.discretion import redacted

_STYLES = {Outcome.OK: "green", Outcome.INFO: "dim", Outcome.WARNING: "yellow", Outcome.PROBLEM: "bold red"}
_SECONDS = 10.0
# A driver may take its time to wake up a device.
_GPU_SECONDS = 30.0

CHECKS = (
    Check("python", software.python),
    Check("packages", software.packages),
    Check("settings", variables.settings),
    Check("data", folder.data),
    Check("stack", folder.stack),
    Check("database", database.database),
    Check("schema", database.schema),
    Check("broker", broker.broker),
    Check("store", storage.store),
    Check("models", catalog.models),
    Check("workers", catalog.workers),
    Check("gpu", machine.gpu, _GPU_SECONDS),
    Check("machine", machine.machine),
    Check("port", door.port),
    Check("api", door.api),
    Check("key", door.key),
    Check("clock", door.clock),
)
_NAME = max(len(check.name) for check in CHECKS)
_OUTCOME = max(map(len, Outcome))
_NOT_OF = {
    Kind.STACK: frozenset[str](),
    Kind.DEPLOYMENT: frozenset({"stack", "port"}),
    Kind.CLIENT: frozenset(check.name for check in CHECKS) - {"python", "packages", "settings", "api", "key", "clock"},
}
_TOLD = {
    Kind.STACK: "`bushel up` in {data}",
    Kind.DEPLOYMENT: "a deployment by settings, data in {data}",
    Kind.CLIENT: "a client of {url}",
}


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([check.name for check in CHECKS]),
    metavar="NAME",
    help=f"Only this check; may be repeated. There are: {', '.join(check.name for check in CHECKS)}.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=_SECONDS,
    show_default=True,
    help="Longest time for a check.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(target: Target, only: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Check the installation, and say what to do about what is wrong.

    Looks at what is here: the `bushel up` of the data folder, or the deployment that BUSHEL_DATABASE_URL and the other
    settings describe, or else the API that the command line talks to. Nothing is changed, and no password or key is
    shown. What is down is said to be down, and the rest is looked at all the same.

    \b
    Exit codes: 0 all is well, or there are only warnings; 1 there are problems.
    """
    scene = survey(target, os.environ, seconds)
    libraries.load(scene.kind)
    checks = _chosen(scene, only)
    reports = _masked(scene, make(scene, checks, seconds))
    outcomes = _print_json(scene, reports) if as_json else _print(scene, reports)
    if Outcome.PROBLEM in outcomes:
        raise click.exceptions.Exit(Exit.FAILED)


def _chosen(scene: Scene, only: Sequence[str]) -> list[Check]:
    """Those that were asked for, whatever is here; else those that make sense here."""
    if only:
        return [check for check in CHECKS if check.name in only]
    return [check for check in CHECKS if check.name not in _NOT_OF[scene.kind]]


def _masked(scene: Scene, reports: Iterable[Report]) -> Iterator[Report]:
    """Without secrets, wherever they come from: servers quote what they were told, and libraries their addresses."""

    def mask(text: str) -> str:
        return redacted(text, scene.secrets)

    for report in reports:
        findings = [replace(each, found=mask(each.found), advice=mask(each.advice)) for each in report.findings]
        yield Report(report.name, findings)


def _print(scene: Scene, reports: Iterable[Report]) -> list[Outcome]:
    console = show.stdout()
    where = _TOLD[scene.kind].format(data=scene.data, url=redacted(scene.access.url, scene.secrets))
    console.print(f"Looking at {where}", style="dim", markup=False, soft_wrap=True)
    outcomes = []
    for report in reports:
        name = report.name
        for finding in report.findings:
            outcomes.append(finding.outcome)
            _print_finding(console, name, finding)
            name = ""
    console.print(_summary(outcomes), markup=False, soft_wrap=True)
    return outcomes


def _print_finding(console: Console, name: str, finding: Finding) -> None:
    line = Text.assemble(
        (f"{name:<{_NAME}} ", "bold"),
        (f"{finding.outcome:<{_OUTCOME}} ", _STYLES[finding.outcome]),
        inert(finding.found),
    )
    console.print(line, soft_wrap=True)
    if finding.advice:
        console.print(Text(" " * (_NAME + _OUTCOME + 2) + f"-> {inert(finding.advice)}"), soft_wrap=True)


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = [(outcomes.count(kind), kind) for kind in (Outcome.PROBLEM, Outcome.WARNING)]
    told = [f"{count} {show.plural(kind, count)}" for count, kind in counts if count]
    return ", ".join(told) if told else "all is well"


def _print_json(scene: Scene, reports: Iterable[Report]) -> list[Outcome]:
    found = list(reports)
    outcomes = [finding.outcome for report in found for finding in report.findings]
    show.print_json(
        {
            "ok": Outcome.PROBLEM not in outcomes,
            "kind": scene.kind,
            "data": str(scene.data),
            "url": redacted(scene.access.url, scene.secrets),
            "checks": [
                {"name": each.name, "outcome": each.outcome, "findings": [asdict(one) for one in each.findings]}
                for each in found
            ],
        }
    )
    return outcomes
