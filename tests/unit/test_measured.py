"""Which figures are shown of which model."""

from pathlib import Path

import models
from models.measured import quality
from models.registry import BUILTIN, load
from models.spec import ModelSpec, Task

OURS = Path(models.__file__).parent


def test_every_figure_there_is_belongs_to_a_model_that_comes_with_bushel() -> None:
    for spec in load([BUILTIN]).all():
        found = quality(spec)
        assert found is None or found.low <= found.score <= found.high


def test_a_model_that_took_the_place_of_one_of_ours_has_none_of_its_figures() -> None:
    for spec in load([BUILTIN]).all():
        assert quality(ModelSpec(spec.name, Task.TRANSLATION, Path("/elsewhere"))) is None
        assert quality(ModelSpec(spec.name, Task.TRANSLATION, "somebody/else", revision="main")) is None


def test_what_was_never_measured_has_none() -> None:
    assert quality(ModelSpec("nobody-knows-it", Task.TRANSLATION, OURS / "nobody-knows-it")) is None
