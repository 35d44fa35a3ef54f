"""The settings: are all BUSHEL_ variables known, and can what they say be used."""

import difflib
import importlib.util
from collections.abc import Iterator

from cli.checkup.finding import Finding, Outcome, info, ok, problem, warning, worst
from cli.checkup.scene import Kind, Scene

_PREFIX = "BUSHEL_"
_OF_CLIENTS = ("BUSHEL_URL", "BUSHEL_API_KEY", "BUSHEL_DATA")
# Tests and the makers of documents have these.
_OF_TOOLS = ("BUSHEL_FAULTS", "BUSHEL_WRITE_COMPATIBILITY")
# Given to `bushel up` they are passed over, since it has its own.
_OWN = ("BUSHEL_DATABASE_URL", "BUSHEL_BROKER_URL")
_ALIKE = 0.7


def settings(scene: Scene) -> Iterator[Finding]:
    set_here = sorted(name for name in scene.environment if name.startswith(_PREFIX))
    for unreadable in scene.unreadable:
        yield problem(unreadable, "mend that first; what depends on it could not be looked at")
    known = _known()
    yield from _unknown(set_here, known)
    if scene.kind is Kind.CLIENT:
        yield ok(f"set: {', '.join(set_here) or 'none'}")
        return
    found = list(_unusable(scene))
    yield from found
    if worst(found) is not Outcome.PROBLEM and not scene.unreadable:
        yield ok(f"set: {', '.join(set_here) or 'none, so that everything is as it comes'}")


def _known() -> frozenset[str] | None:
    """Every variable there is; None where the server side, which has most of them, is not installed."""
    if importlib.util.find_spec("pydantic_settings") is None:
        return None
    from api.config import APISettings
    from workers.config import WorkerSettings

    fields = {*APISettings.model_fields, *WorkerSettings.model_fields}
    names = {f"{_PREFIX}{field.upper()}" for field in fields} | set(_OF_CLIENTS)
    return frozenset({*names, *(f"{name}_FILE" for name in names), *_OF_TOOLS})


def _unknown(set_here: list[str], known: frozenset[str] | None) -> Iterator[Finding]:
    candidates = known if known is not None else frozenset({*_OF_CLIENTS, "BUSHEL_API_KEY_FILE"})
    for name in set_here:
        if name in candidates:
            continue
        # Without what all of them begin with, by which any two would be alike.
        words = [candidate.removeprefix(_PREFIX) for candidate in candidates]
        alike = difflib.get_close_matches(name.removeprefix(_PREFIX), words, 1, _ALIKE)
        if alike:
            yield warning(f"{name} is set, and nobody reads it", f"did you mean {_PREFIX}{alike[0]}?")
        elif known is not None:
            yield warning(f"{name} is set, and nobody reads it", "unset it, or look it up in docs/configuration.md")


def _unusable(scene: Scene) -> Iterator[Finding]:
    """By the loaders that the API and the workers start with."""
    from api.config import APISettings
    from db.errors import ConfigError
    from workers.config import WorkerSettings

    known = {}
    if scene.kind is Kind.STACK:
        known = {"database_url": "postgresql://bushel@/bushel", "broker_url": "redis+socket:///valkey.sock"}
        for name in (*_OWN, *(f"{each}_FILE" for each in _OWN)):
            if name in scene.environment:
                yield info(f"{name} is set; `bushel up` has its own and does not use it")
    told = set(scene.unreadable)
    for loader in (APISettings, WorkerSettings):
        try:
            loader.from_environment(**known)
        except ConfigError as exc:
            for sentence in str(exc).split("; "):
                if sentence not in told:
                    told.add(sentence)
                    yield problem(sentence, "docs/configuration.md has what it may be")
