"""The models Bushel knows, by name, as told by TOML files."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from models.documents import entries_of, one_default_each, one_model_each_tier, text_of
from models.entry import read_entry
from models.errors import BadEntry, NoDefaultModel, NoSuchTier, RegistryError, UnknownModel
from models.spec import EngineKind, ModelSpec, Task, Tier

__all__ = [
    "BUILTIN",
    "BadEntry",
    "EngineKind",
    "ModelSpec",
    "NoDefaultModel",
    "NoSuchTier",
    "Registry",
    "RegistryError",
    "Task",
    "Tier",
    "UnknownModel",
    "load",
]

BUILTIN = Path(__file__).parent / "registry.toml"


class Registry:
    """Model specs by name, and the default of each task. Immutable; load a new one to see changed files."""

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self._specs = {spec.name: spec for spec in specs}

    def get(self, name: str) -> ModelSpec:
        """The spec of this name, or UnknownModel."""
        if name not in self._specs:
            raise UnknownModel(name, self._specs)
        return self._specs[name]

    def default(self, task: Task) -> ModelSpec:
        """The model that does `task` when none is named, or NoDefaultModel. The last file that has one wins."""
        for spec in reversed(self._specs.values()):
            if spec.task is task and spec.default:
                return spec
        raise NoDefaultModel(task, [spec.name for spec in self._specs.values() if spec.task is task])

    def all(self) -> tuple[ModelSpec, ...]:
        """Every spec, by name."""
        return tuple(self._specs[name] for name in sorted(self._specs))

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __len__(self) -> int:
        return len(self._specs)


def load(paths: Iterable[Path]) -> Registry:
    """Read the files in order; an entry replaces an earlier one of its name. A file that is not there is empty."""
    specs: dict[str, ModelSpec] = {}
    files: dict[str, Path] = {}
    for path in map(Path, paths):
        for spec in _read(path):
            # Taken out first, so that the replacement counts as the later one in `default`.
            specs.pop(spec.name, None)
            if spec.default:
                specs = {
                    name: replace(old, default=False) if old.task is spec.task else old for name, old in specs.items()
                }
            specs[spec.name] = spec
            files[spec.name] = path
    one_model_each_tier((files[name], spec) for name, spec in specs.items())
    return Registry(specs.values())


def _read(path: Path) -> list[ModelSpec]:
    if not path.exists():
        return []
    specs = [read_entry(path, name, entry) for name, entry in entries_of(path, text_of(path)).items()]
    one_default_each(path, specs)
    return specs
