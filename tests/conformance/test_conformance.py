"""Real SDKs, unmodified and each in an environment of its own, against the real server."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance import matrix
from tests.conformance.conftest import Server
from tests.conformance.environments import SDK, SDKS, Unavailable, python
from tests.conformance.matrix import KINDS, Report

pytestmark = pytest.mark.slow

found: dict[tuple[SDK, str], list[Report]] = {}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: f"{sdk.package}-{sdk.version}")
def test_an_unmodified_sdk_works(sdk: SDK, server: Server) -> None:
    """Its synchronous and its asynchronous client at once, each a tenant of its own."""
    try:
        python(sdk)
    except Unavailable as exc:
        pytest.skip(f"NOT CHECKED: {exc}")

    def run(kind: str) -> list[Report]:
        mine, others = server.key(f"{sdk.name} {kind}"), server.key("stranger")
        return matrix.run(sdk, kind, f"http://127.0.0.1:{server.stack.port}", mine, others)

    with ThreadPoolExecutor(len(KINDS)) as pool:
        found.update({(sdk, kind): reports for kind, reports in zip(KINDS, pool.map(run, KINDS), strict=True)})

    reports = [(kind, report) for kind in KINDS for report in found[sdk, kind]]
    failed = [f"{kind}: {each.feature}\n{each.detail}" for kind, each in reports if each.outcome == "failed"]
    assert not failed, "\n".join(failed)


def test_the_compatibility_document_says_what_was_found() -> None:
    if len(found) < len(SDKS) * len(KINDS):
        pytest.skip("not every SDK was run")
    tables = matrix.rendered(found)

    if os.environ.get("BUSHEL_WRITE_COMPATIBILITY"):
        matrix.write(tables)

    assert matrix.written() == tables, "write it anew with `make compatibility`"


def test_every_sdk_has_its_checks() -> None:
    for sdk in SDKS:
        assert Path(matrix.HERE / f"{sdk.package}_checks.py").exists()
