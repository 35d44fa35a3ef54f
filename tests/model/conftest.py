"""A world of the model in a database of the tests' server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import fresh_database
from tests.model.world import World


@pytest.fixture
def world(postgres: str, tmp_path: Path) -> Iterator[World]:
    with fresh_database(postgres) as url:
        world = World(url, tmp_path / "files")
        yield world
        world.close()
