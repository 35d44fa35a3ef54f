"""Which model a request gets by a name and a tier. Pure: the registry and the request's words in, a model out."""

from collections.abc import Mapping

from models.errors import NoSuchTier, UnknownModel
from models.registry import Registry
from models.spec import ModelSpec, Task, Tier


def resolve(registry: Registry, task: Task, name: str | None, tier: Tier | None) -> ModelSpec:
    """The model named, or else the task's default; with `tier`, the model that is this tier of its family.

    Only with a tier, `name` may be a family's; a model of that name goes first. UnknownModel, NoDefaultModel or
    NoSuchTier if there is none. Whether a named model does the task is left to the caller.
    """
    known = families(registry)
    if tier is None:
        if name in known and name not in registry:
            raise UnknownModel(name, (), tuple(known[name]))
        return registry.default(task) if name is None else registry.get(name)
    family = name if name in known and name not in registry else _model(registry, task, name, known).family
    if family is not None and tier in known[family]:
        return known[family][tier]
    fitting = {each: list(tiers) for each, tiers in known.items() if each == family or _task(tiers) is task}
    raise NoSuchTier(tier, name or registry.default(task).name, family, fitting)


def families(registry: Registry) -> dict[str, dict[Tier, ModelSpec]]:
    """The models of each family by their tier, the costliest first."""
    found: dict[str, dict[Tier, ModelSpec]] = {}
    for tier in Tier:
        for spec in registry.all():
            if spec.family is not None and spec.tier is tier:
                found.setdefault(spec.family, {})[tier] = spec
    return found


def _model(registry: Registry, task: Task, name: str | None, known: Mapping[str, object]) -> ModelSpec:
    if name is None:
        return registry.default(task)
    if name not in registry:
        raise UnknownModel(name, [*(spec.name for spec in registry.all()), *known])
    return registry.get(name)


def _task(tiers: Mapping[Tier, ModelSpec]) -> Task:
    return next(iter(tiers.values())).task
