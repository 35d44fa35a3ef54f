"""What was measured of the models that come with Bushel: how good and how fast, on which texts.

`make models-report` writes measured.json beside this file; docs/models.md tells how the figures are to be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from models.spec import ModelSpec

_FOLDER = Path(__file__).parent
_FILE = _FOLDER / "measured.json"


@dataclass(frozen=True, slots=True)
class Quality:
    """A score with its 95 % interval, of so many items of `data`, and the speed that was measured along with it."""

    metric: str
    score: float
    low: float
    high: float
    items: int
    items_per_second: float
    data: str


def quality(spec: ModelSpec) -> Quality | None:
    """Of a model that comes with Bushel; None for others, also for one of the same name that was put in its place."""
    is_ours = isinstance(spec.source, Path) and spec.source.is_relative_to(_FOLDER)
    return _measured().get(spec.name) if is_ours else None


@cache
def _measured() -> Mapping[str, Quality]:
    return msgspec.json.decode(_FILE.read_bytes(), type=dict[str, Quality]) if _FILE.is_file() else {}
