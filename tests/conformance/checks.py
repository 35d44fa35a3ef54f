"""How SDK checks are written and run. Imported inside an SDK's own environment: the standard library only.

A check is a coroutine that uses the SDK as a user would; `do` and `every` make one text serve the synchronous
and the asynchronous client. Each check prints one JSON object when it has ended.
"""

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

FINAL = ("completed", "failed", "expired", "cancelled")


@dataclass
class Setting:
    """What a check works with: the SDK's module, the client under test, another tenant's, and the server's address."""

    sdk: Any
    client: Any
    stranger: Any
    url: str
    key: str
    is_async: bool


Check = Callable[[Setting], Awaitable[None]]
CHECKS: list[tuple[str, Check, tuple[str, ...]]] = []


def check(feature: str, *needs: str) -> Callable[[Check], Check]:
    """Register a check. `needs` are dotted names of the client without which this version cannot do the thing."""

    def register(function: Check) -> Check:
        CHECKS.append((feature, function, needs))
        return function

    return register


async def do(value: Any) -> Any:
    """The value, awaited if it must be."""
    return await value if inspect.isawaitable(value) else value


async def every(pages: Any) -> list[Any]:
    """All elements over all pages, the SDK turning them."""
    if hasattr(pages, "__aiter__"):
        return [element async for element in pages]
    return list(pages)


async def until(look: Callable[[], Any], is_there: Callable[[Any], bool], seconds: float = 60) -> Any:
    """What `look` gives as soon as it is as wanted; polling is what users of a batch API do."""
    deadline = time.monotonic() + seconds
    while not is_there(found := await do(look())):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {found}")
        await asyncio.sleep(0.05)
    return found


async def fails(error: type[Exception], value: Callable[[], Any]) -> Any:
    """The error of this very type that the call must raise."""
    try:
        answer = await do(value())
    except error as exc:
        return exc
    raise AssertionError(f"no {error.__name__} but {answer!r}")


def has(client: Any, dotted: str) -> bool:
    for name in dotted.split("."):
        client = getattr(client, name, None)
        if client is None:
            return False
    return True


def same_fields(raw: dict[str, Any], model: type[Any]) -> None:
    """The JSON object is what the SDK's class says, in strict mode, with every one of its fields present."""
    model.model_validate_json(json.dumps(raw), strict=True)
    names = {field.alias or name for name, field in model.model_fields.items()}
    required = {field.alias or name for name, field in model.model_fields.items() if field.is_required()}
    assert required <= raw.keys(), f"missing: {required - raw.keys()}"
    missing = names - raw.keys()
    assert not missing, f"fields of {model.__name__} that are not sent: {missing}"


async def run(setting: Setting) -> bool:
    is_well = True
    for feature, function, needs in CHECKS:
        missing = [name for name in needs if not has(setting.client, name)]
        if missing:
            report = {"feature": feature, "outcome": "absent", "detail": f"this version has no client.{missing[0]}"}
        else:
            report = {"feature": feature, **await _outcome(function, setting)}
        is_well = is_well and report["outcome"] != "failed"
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
    return is_well


async def _outcome(function: Check, setting: Setting) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        await function(setting)
    except Exception:
        return {"outcome": "failed", "detail": traceback.format_exc(limit=-4)}
    return {"outcome": "ok", "detail": "", "seconds": round(time.monotonic() - begun, 2)}
