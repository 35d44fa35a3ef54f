"""What an input will run with: its model, and the decoding parameters that hold for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from db.inputs import Input, Problem
from dialects.aliases import in_their_words
from models.params import HONOURED, PARAMETERS, ParamProblem, copies
from models.params import check as check_params
from models.registry import NoDefaultModel, Registry, UnknownModel
from models.spec import ModelSpec, Task

MODEL_NOT_FOUND = "model_not_found"
_MOST_KNOWN = 10_000
# A schema among the parameters may be long, and every line may have its own.
_MOST_KNOWN_CHARS = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Setup:
    """A model with decoding parameters (canonical JSON). Only inputs with equal ones may run together."""

    model: str
    params: str
    copies: int = field(default=1, compare=False)
    is_sampled: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why there is no Setup for an input."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _BadParams:
    """Problems that every input words in its own way, each with its code."""

    found: tuple[tuple[ParamProblem, str], ...]


class Setups:
    """The setups of one job's inputs, each checked once. `models` are those that any input named or fell back on."""

    def __init__(
        self, registry: Registry, dialect: str, task: str, model: str | None, params: Mapping[str, Any]
    ) -> None:
        self._registry, self._task, self._model, self._params = registry, Task(task), model, dict(params)
        self._is_ours = dialect == "bushel"
        self._known: dict[tuple[str | None, bytes], Setup | Unfit | _BadParams] = {}
        self._chars = 0
        self.models: set[str] = set()

    def of(self, input: Input) -> Setup | Unfit:
        """How the input will run, or why it cannot; problems name parameters as the input did."""
        said = (input.params, input.fallbacks)
        key = (input.model, msgspec.json.encode(said, order="deterministic") if any(said) else b"")
        found = self._known.get(key)
        if found is None:
            found = self._resolved(input)
            self._remember(key, found)
        if isinstance(found, _BadParams):
            return Unfit(tuple(in_their_words(each, input.aliases, code) for each, code in found.found))
        return found

    def _remember(self, key: tuple[str | None, bytes], found: Setup | Unfit | _BadParams) -> None:
        self._chars += len(key[0] or "") + 2 * len(key[1])
        if len(self._known) >= _MOST_KNOWN or self._chars > _MOST_KNOWN_CHARS:
            self._known.clear()
            self._chars = 0
        self._known[key] = found

    def _resolved(self, input: Input) -> Setup | Unfit | _BadParams:
        name = input.model or self._model
        try:
            spec = self._registry.default(self._task) if name is None else self._registry.get(name)
        except (UnknownModel, NoDefaultModel) as exc:
            hint = "add it to the registry or use another one"
            return Unfit((Problem(MODEL_NOT_FOUND, str(exc), hint, param="model"),))
        self.models.add(spec.name)
        if spec.task is not self._task:
            message = f"model {spec.name} does {spec.task}, not {self._task}"
            return Unfit((Problem("task_mismatch", message, "use another model or another endpoint", param="model"),))
        clean, found = check_params(input.wanted(self._params), spec)
        if found:
            return _BadParams(tuple((each, self._code(each.param, spec)) for each in found))
        params = msgspec.json.encode(clean, order="deterministic").decode()
        return Setup(spec.name, params, copies(clean), bool(clean.get("temperature")))

    def _code(self, param: str, spec: ModelSpec) -> str:
        if self._is_ours:
            return "invalid_params"
        is_refused = param in PARAMETERS and param not in HONOURED[spec.engine]
        return "unsupported_parameter" if is_refused else "invalid_value"
