"""The models: is the registry sound, are the files here, and does a living worker serve each."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cli.checkup.database import reached
from cli.checkup.finding import Finding, info, ok, problem, warning
from cli.checkup.ledger import Worker
from cli.checkup.scene import Kind, Scene
from cli.checkup.software import version_of
from models.registry import BUILTIN, EngineKind, ModelSpec, Registry, RegistryError, load
from models.snapshots import available


def models(scene: Scene) -> Iterator[Finding]:
    named = scene.environment.get("BUSHEL_REGISTRY")
    files = (Path(named).expanduser() if named else BUILTIN, scene.data / "models.toml")
    try:
        registry = load(files)
    except RegistryError as exc:
        yield problem(str(exc), "mend it; models/registry.toml explains every key")
        return
    yield ok(f"{len(registry)} in {', '.join(str(file) for file in files if file.exists())}")
    if not len(registry):
        yield problem("no model is registered, so that no job can run", "bushel models add --help")
    yield from _of_each(scene, registry)


def _of_each(scene: Scene, registry: Registry) -> Iterator[Finding]:
    cache = scene.data / "models"
    converted = _converted(cache)
    ledger = reached(scene)
    workers = [each for each in (ledger.workers or ()) if each.is_alive] if ledger is not None else None
    for spec in registry.all():
        if not available(spec, cache):
            where = f"{spec.source} has no config.json" if spec.is_local else f"{spec.source} is not downloaded"
            advice = "correct its source in models.toml" if spec.is_local else f"bushel models pull {spec.name}"
            yield problem(f"{spec.name}: {where}", advice)
        else:
            yield from _served(spec, workers, _state(spec, converted))


def _served(spec: ModelSpec, workers: Sequence[Worker] | None, state: str) -> Iterator[Finding]:
    if not workers:
        # Why there are none is told by the checks of the database and of the workers.
        yield ok(f"{spec.name}: {state}")
        return
    serving = [each for each in workers if spec.name in each.models]
    able = [each for each in serving if spec.name not in each.unavailable]
    if not serving:
        advice = f"start one with -Q bushel.model.{spec.name}, or `bushel up` again if the model is new"
        yield warning(f"{spec.name}: {state}, and no worker serves it: its jobs wait", advice)
    elif not able:
        reason = serving[0].unavailable[spec.name]
        yield problem(f"{spec.name}: no worker can load it: {reason}", f"bushel models check {spec.name}")
    else:
        loaded = sum(spec.name in each.loaded for each in able)
        yield ok(f"{spec.name}: {state}; served by {len(able)}, loaded by {loaded}")


def _state(spec: ModelSpec, converted: frozenset[str]) -> str:
    if spec.engine is not EngineKind.CTRANSLATE2:
        return "here"
    return "here and converted" if spec.name in converted else "here, converted at its first use"


def _converted(cache: Path) -> frozenset[str]:
    """Models of which there is a conversion. Whether it is of their present files is known only when they load."""
    found = set()
    for about in (cache / "ctranslate2").glob("*/source.json"):
        try:
            found.add(str(json.loads(about.read_text("utf-8"))["model"]))
        except (OSError, ValueError, KeyError, TypeError):
            # One that is being written, or spoiled; it is made again when it is wanted.
            continue
    return frozenset(found)


def workers(scene: Scene) -> Iterator[Finding]:
    """Who has written a heartbeat lately, and what about those who have not."""
    ledger = reached(scene)
    if ledger is None or ledger.workers is None:
        yield info("cannot be told: the database does not answer, or has no tables")
        return
    alive = [each for each in ledger.workers if each.is_alive]
    for each in alive:
        does = f"serves {', '.join(each.models)}" if each.models else "reads inputs and writes results"
        yield ok(f"{each.id} on {each.device} {does}")
    for each in ledger.workers:
        if not each.is_alive:
            advice = "its log has its last words; what it held goes to another one by itself"
            yield warning(f"{each.id} has not been heard of for {each.silent_seconds:.0f} s", advice)
    if not any(each.models for each in alive):
        what = "no worker that runs models" if alive else "no worker"
        stack = scene.kind is Kind.STACK
        advice = scene.start_advice("worker-1") if stack else "start one: docs/operations.md says how"
        yield problem(f"{what} is alive: jobs wait", advice)
    if alive and all(each.models for each in alive):
        yield problem("no worker reads inputs: jobs stay in validating", "start one with -Q bushel.io")
    ours = version_of("bushel")
    if ours is None:
        return
    if other := sorted({each.version for each in alive} - {ours}):
        yield warning(f"workers of version {', '.join(other)} are alive, and this is {ours}", "restart them")
