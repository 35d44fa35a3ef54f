"""Which model a name and a tier mean."""

from pathlib import Path

import pytest

from models.registry import EngineKind, ModelSpec, NoDefaultModel, NoSuchTier, Registry, Task, Tier, UnknownModel
from models.tiers import families, resolve


def model(
    name: str, family: str | None = None, tier: Tier | None = None, task: Task = Task.TRANSLATION, default: bool = False
) -> ModelSpec:
    return ModelSpec(name, task, Path("/nowhere"), EngineKind.ECHO, family=family, tier=tier, default=default)


REGISTRY = Registry(
    [
        model("tower", "en-de", Tier.BEST),
        model("flat", "en-de", Tier.BALANCED, default=True),
        model("hut", "en-de", Tier.FAST),
        model("many", "multi", Tier.BEST),
        model("many-small", "multi", Tier.FAST),
        model("loner"),
        # A family that is called like a model of another one, and one like a model of none.
        model("a", "hut", Tier.BEST),
        model("b", "loner", Tier.BEST),
        model("writer", task=Task.GENERATION, default=True),
        model("digest", "digests", Tier.BEST, Task.SUMMARIZATION),
    ]
)


@pytest.mark.parametrize(
    ("name", "tier", "expected"),
    [
        pytest.param(None, None, "flat", id="nothing said"),
        pytest.param("hut", None, "hut", id="a model"),
        pytest.param(None, Tier.BEST, "tower", id="of the default's family"),
        pytest.param(None, Tier.BALANCED, "flat", id="the default itself"),
        pytest.param("many", Tier.FAST, "many-small", id="of the model's family"),
        pytest.param("many-small", Tier.FAST, "many-small", id="the model itself"),
        pytest.param("en-de", Tier.FAST, "hut", id="of a family"),
        pytest.param("hut", Tier.BEST, "tower", id="a model goes before a family of its name"),
        pytest.param("writer", None, "writer", id="its task is the caller's business"),
    ],
)
def test_a_name_and_a_tier_mean_a_model(name: str | None, tier: Tier | None, expected: str) -> None:
    assert resolve(REGISTRY, Task.TRANSLATION, name, tier).name == expected


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        pytest.param(
            Task.TRANSLATION, "many", "the family multi has no `tier` balanced; it has best, fast", id="of a model"
        ),
        pytest.param(Task.TRANSLATION, "multi", "it has best, fast", id="of a family"),
        pytest.param(
            Task.TRANSLATION,
            "loner",
            "model loner has no `tier` balanced, nor any other; leave `tier` out or name one of these families as "
            "`model`: en-de (best, balanced, fast); hut (best); loner (best); multi (best, fast)",
            id="of no family",
        ),
        pytest.param(
            Task.GENERATION, None, "model writer has no `tier` balanced, nor any other; leave it out", id="no"
        ),
        pytest.param(Task.SUMMARIZATION, "digests", "the family digests has no `tier` balanced; it has best", id="one"),
    ],
)
def test_a_tier_that_is_not_there_lists_those_that_are(task: Task, name: str | None, said: str) -> None:
    with pytest.raises(NoSuchTier) as caught:
        resolve(REGISTRY, task, name, Tier.BALANCED)

    assert said in str(caught.value)
    assert caught.value.tier is Tier.BALANCED


def test_a_family_is_no_model_where_no_tier_is_wanted() -> None:
    with pytest.raises(UnknownModel, match="'multi'; it is a family: say which `tier` of it, best or fast"):
        resolve(REGISTRY, Task.TRANSLATION, "multi", None)


def test_an_unknown_name_is_answered_with_families_too() -> None:
    with pytest.raises(UnknownModel, match="did you mean multi"):
        resolve(REGISTRY, Task.TRANSLATION, "multy", Tier.BEST)


def test_a_tier_without_a_default_needs_a_name() -> None:
    with pytest.raises(NoDefaultModel):
        resolve(REGISTRY, Task.SUMMARIZATION, None, Tier.BEST)


def test_the_tiers_of_a_family_come_the_costliest_first() -> None:
    assert {name: [spec.name for spec in tiers.values()] for name, tiers in families(REGISTRY).items()} == {
        "en-de": ["tower", "flat", "hut"],
        "multi": ["many", "many-small"],
        "hut": ["a"],
        "loner": ["b"],
        "digests": ["digest"],
    }
