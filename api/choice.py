"""Which model a request gets."""

from api.errors import InvalidRequest
from api.services import services
from models.spec import ModelSpec, Task


def model_for(task: Task, name: str | None) -> ModelSpec:
    """The model by name, or the task's default; InvalidRequest if it is for another task."""
    registry = services().catalog.current()
    if name is None:
        return registry.default(task)
    spec = registry.get(name)
    if spec.task is not task:
        fitting = ", ".join(other.name for other in registry.all() if other.task is task) or "none"
        raise InvalidRequest(
            f"model {spec.name} does {spec.task}, not {task}; models for {task}: {fitting}",
            param="model",
            code="task_mismatch",
        )
    return spec
