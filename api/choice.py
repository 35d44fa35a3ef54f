"""Which model a request gets."""

from api.errors import InvalidRequest
from api.services import services
from models import tiers
from models.spec import ModelSpec, Task, Tier


def model_for(task: Task, name: str | None, tier: Tier | None = None) -> ModelSpec:
    """The model by name, or the task's default, or the tier of its family; InvalidRequest if it is for another task."""
    registry = services().catalog.current()
    spec = tiers.resolve(registry, task, name, tier)
    if spec.task is not task:
        fitting = ", ".join(other.name for other in registry.all() if other.task is task) or "none"
        raise InvalidRequest(
            f"model {spec.name} does {spec.task}, not {task}; models for {task}: {fitting}",
            param="model",
            code="task_mismatch",
        )
    return spec
