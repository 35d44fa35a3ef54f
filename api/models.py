"""Models: what the registry offers, and whether a worker serves it right now."""

from dataclasses import asdict
from typing import Literal

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from api.errors import documented
from api.services import services
from api.strict import Strict
from api.wire import answer, listed
from db.outlook import ModelState, surroundings
from models import measured
from models.spec import ModelSpec

tag = Tag(name="models", description="What your work can run on.")
bp = APIBlueprint("models", __name__, url_prefix="/v1/models", abp_tags=[tag])


class ModelLimits(BaseModel):
    """In tokens; null: what the model itself allows."""

    max_input_tokens: int | None
    max_output_tokens: int | None


class Quality(BaseModel):
    """How good the model is on texts that it was not trained on, with the 95 % interval, and how fast it was then."""

    metric: str = Field(description="BLEU, chrF or ROUGE, from 0 to 100.")
    score: float
    low: float
    high: float
    items: int
    items_per_second: float = Field(description="On the machine where all were measured: to compare models by.")
    data: str = Field(description="Figures of other data cannot be compared with it.")


class ModelObject(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the registry was last changed, in Unix seconds.")
    owned_by: Literal["bushel"] = "bushel"
    task: str
    engine: str
    quantization: str
    source_languages: list[str]
    target_languages: list[str]
    language_pairs: list[tuple[str, str]]
    family: str | None = Field(description="The models that do the same at other cost have this name too.")
    tier: str | None = Field(description="Which of its family it is: best, balanced or fast.")
    default: bool = Field(description="Whether a job of the task that names no model gets this one.")
    limits: ModelLimits
    description: str
    license: str
    available: bool = Field(description="A live worker can run it now.")
    unavailable_reason: str | None
    workers: int = Field(description="How many live workers serve it.")
    loaded: bool = Field(description="At least one of them has it in memory.")
    tokens_per_second: float | None = Field(description="Measured on one worker; null: never measured.")
    quality: Quality | None = Field(description="Of models that come with Bushel, once measured; see docs/models.md.")

    @classmethod
    def of(cls, spec: ModelSpec, state: ModelState, created: int) -> "ModelObject":
        reason = None if state.workers else state.why_unavailable or "no running worker serves it"
        return cls(
            id=spec.name,
            created=created,
            task=spec.task.value,
            engine=spec.engine.value,
            quantization=spec.quantization,
            source_languages=list(spec.source_languages),
            target_languages=list(spec.target_languages),
            language_pairs=list(spec.language_pairs),
            family=spec.family,
            tier=spec.tier,
            default=spec.default,
            limits=ModelLimits(max_input_tokens=spec.max_input_tokens, max_output_tokens=spec.max_output_tokens),
            description=spec.description,
            license=spec.license,
            available=state.workers > 0,
            unavailable_reason=reason,
            workers=state.workers,
            loaded=state.loaded > 0,
            tokens_per_second=state.tokens_per_second,
            quality=_quality(spec),
        )


def _quality(spec: ModelSpec) -> Quality | None:
    found = measured.quality(spec)
    return None if found is None else Quality(**asdict(found))


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelPath(Strict):
    model: str = Field(description="The model's name.", json_schema_extra={"example": "translation-balanced"})


class ModelsQuery(Strict):
    """Nothing can be asked for yet."""


@bp.get("", operation_id="list_models", responses={200: ModelList, **documented(400, 401, 503)})
def index(query: ModelsQuery) -> Response:
    """List models"""
    catalog = services().catalog
    specs, created = catalog.current().all(), catalog.changed_at
    with services().sessions() as session:
        around = surroundings(session, [], [spec.name for spec in specs])
    return listed(specs, False, lambda spec: ModelObject.of(spec, around.model(spec.name), created))


@bp.get("/<model>", operation_id="get_model", responses={200: ModelObject, **documented(401, 404, 503)})
def show(path: ModelPath) -> Response:
    """Look at a model"""
    catalog = services().catalog
    spec, created = catalog.current().get(path.model), catalog.changed_at
    with services().sessions() as session:
        around = surroundings(session, [], [spec.name])
    return answer(ModelObject.of(spec, around.model(spec.name), created))
