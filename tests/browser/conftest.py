"""A real browser at a real service: Chromium, gunicorn, PostgreSQL, Valkey, workers with the echo engine.

Without a browser these tests are skipped, and say so. `apt-get install chromium` brings one.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from cli.stack.valkey import Valkey
from tests.browser.visits import Visit, chromium, signed_in
from tests.conftest import fresh_database
from tests.stack.conftest import Stack, built, valkey

__all__ = ["valkey"]

REGISTRY = """
[models.echo]
task = "translation"
source = "."
engine = "echo"
default = true
description = "Says what it reads."
license = "Apache-2.0"
options = { markers = true, seconds_per_item = 0.002 }

[models.echo-slow]
task = "translation"
source = "."
engine = "echo"
options = { markers = true, seconds_per_item = 0.05, batch_tokens = 16 }

[models.echo-chat]
task = "generation"
source = "."
engine = "echo"
default = true
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[Stack]:
    """The whole service, with its logs; the tests of a session share it."""
    if chromium() is None:
        pytest.skip("NO BROWSER: the dashboard is not tested; `apt-get install chromium` brings one")
    with (
        fresh_database(postgres) as database_url,
        built(tmp_path_factory.mktemp("site"), database_url, valkey) as stack,
    ):
        stack.registry.write_text(REGISTRY)
        stack.start_api()
        stack.start_worker()
        yield stack


@pytest.fixture(scope="session")
def browser(site: Stack) -> Iterator[Any]:
    """One browser for all tests of a session."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=["--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cookies(browser: Any, site: Stack) -> Any:
    """What a browser keeps that was signed in by the form."""
    context = browser.new_context(base_url=str(site.http.base_url))
    signed_in(context.new_page(), site.key)
    state = context.storage_state()
    context.close()
    return state


Scheme = Literal["light", "dark"]
Visiting = Callable[..., Visit]


@pytest.fixture
def visiting(browser: Any, site: Stack, cookies: Any, tmp_path: Path) -> Iterator[Visiting]:
    """Opens a browser window, signed in unless told otherwise; each must end without errors and without strangers."""
    open_ones: list[Visit] = []

    def visit(
        *,
        stack: Stack = site,
        is_signed_in: bool = True,
        scheme: Scheme = "light",
        width: int = 1280,
        **more: Any,
    ) -> Visit:
        home = str(stack.http.base_url)
        context = browser.new_context(
            base_url=home,
            storage_state=cookies if is_signed_in else None,
            color_scheme=scheme,
            viewport={"width": width, "height": 800},
            reduced_motion="reduce",
            **more,
        )
        # A slow machine is no failure.
        context.set_default_timeout(120_000)
        open_ones.append(Visit(context.new_page(), home))
        return open_ones[-1]

    yield visit
    for each in open_ones:
        each.page.context.close()
    for each in open_ones:
        each.ensure_clean()


@pytest.fixture
def visit(visiting: Visiting) -> Visit:
    """One window, wide and light."""
    return visiting()


def pytest_report_header() -> str:
    found = shutil.which("chromium") or "none: tests/browser is skipped"
    return f"browser: {found}"
