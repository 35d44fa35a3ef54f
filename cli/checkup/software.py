"""Python and its packages: are they there, and in the versions that Bushel is made for."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cli.checkup.finding import Finding, info, ok, problem, warning
from cli.checkup.requirements import Requirement, fits, needs, requirement
from cli.checkup.scene import Kind, Scene

_OLDEST_PYTHON = (3, 11)
# For those who work on Bushel itself.
_NOT_FOR_USERS = frozenset({"dev"})
_SHOWN = 6


def python(scene: Scene) -> Iterator[Finding]:
    told = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        yield problem(told, f"Bushel needs Python {oldest} or newer: make a virtual environment with one")
    else:
        yield ok(told)


def packages(scene: Scene) -> Iterator[Finding]:
    try:
        known = [requirement(text) for text in metadata.requires("bushel") or ()]
        version = metadata.version("bushel")
    except metadata.PackageNotFoundError:
        yield warning("Bushel itself is not installed here, it only runs from its folder", "pip install --editable .")
        return
    extras = sorted({each.extra for each in known} - {""} - _NOT_FOR_USERS)
    whole = [extra for extra in extras if not _missing(needs(known, extra))]
    yield ok(f"bushel {version}{' with ' + ', '.join(whole) if whole else ', the command line alone'}")
    yield from _of_role(scene, known, whole)
    for extra in (extra for extra in extras if extra not in whole):
        yield info(f"the extra {extra} is not installed (lacks {_listed(_missing(needs(known, extra)))})")
    yield from _unfit(known, [*whole, ""])
    yield from _unlike_tested()


def _of_role(scene: Scene, known: list[Requirement], whole: list[str]) -> Iterator[Finding]:
    """What this machine cannot do its work without."""
    if lacking := _missing(needs(known, "")):
        yield problem(f"{_listed(lacking)} not installed", "pip install --force-reinstall bushel")
    if scene.kind is Kind.STACK and "local" not in whole:
        lacking = _missing(needs(known, "local"))
        yield problem(f"`bushel up` needs {_listed(lacking)}", "pip install 'bushel[local]'")
    if scene.kind is Kind.DEPLOYMENT and not {"api", "worker"} & set(whole):
        yield problem("neither the API nor a worker can run here", "pip install 'bushel[api]', or 'bushel[worker]'")


def _unfit(known: list[Requirement], extras: list[str]) -> Iterator[Finding]:
    wanted = dict.fromkeys(each for extra in extras for each in needs(known, extra))
    for each in wanted:
        version = version_of(each.name)
        if version is not None and not fits(version, each.versions):
            advice = f"pip install '{each.name}{each.versions}'"
            yield warning(f"{each.name} {version} is none of {each.versions}, which Bushel is made for", advice)


def _unlike_tested() -> Iterator[Finding]:
    """In a checkout: what differs from the very versions that the tests ran with."""
    constraints = Path(__file__).parents[2] / "constraints.txt"
    if not constraints.is_file():
        return
    pins = dict(line.split("==") for line in constraints.read_text("utf-8").splitlines() if line.count("==") == 1)
    present = {name: version for name in pins if (version := version_of(name)) is not None}
    # Of torch there are builds, which say which they are behind a plus.
    unlike = [f"{name} {had}" for name, had in present.items() if had.partition("+")[0] != pins[name].strip()]
    if unlike:
        yield info(f"{len(unlike)} of {len(present)} differ from constraints.txt: {_listed(unlike)}")
    else:
        yield ok(f"{len(present)} packages are in the versions of constraints.txt")


def _missing(wanted: list[Requirement]) -> list[str]:
    return [each.name for each in wanted if version_of(each.name) is None]


def version_of(name: str) -> str | None:
    """Of a package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
