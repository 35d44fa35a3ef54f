"""What of a chunk is there already: results of earlier equal items of its job, and those in its tenant's cache."""

import hashlib
from dataclasses import asdict
from functools import cache
from importlib.metadata import version

import msgspec
from sqlalchemy.orm import Session

from db import cache as results_cache
from db import twins
from db.recording import NewResult
from db.states import Outcome, Reuse
from workers.contents import content
from workers.work import Work, as_twin, twins_of

# What an equal item would fail with again, or what costs too much to be tried again. Other failures are the moment's,
# or may be: the item is computed.
LASTING = frozenset(
    {"invalid_input", "invalid_value", "input_too_long", "too_many_logprobs", "item_too_large", "worker_crashed"}
)


def look_up(session: Session, work: Work) -> None:
    """Fill in the results that are known, and the keys under which the others may be remembered.

    An item whose first has no result yet - it was handed back, or its job is ending - is computed like any other.
    """
    _copy_firsts(session, work)
    if work.claim.cache and not work.claim.params.get("temperature"):
        _ask_cache(session, work)


def _copy_firsts(session: Session, work: Work) -> None:
    wanted = {item.same_as for item in work.items if item.same_as is not None}
    if wanted:
        wanted -= {item.idx for item in work.items}
    if not wanted:
        return
    found = twins.firsts(session, work.claim.job_id, wanted)
    for place, item in enumerate(work.items):
        first = found.get(item.same_as) if item.same_as is not None else None
        if first is not None and (first.outcome is Outcome.SUCCEEDED or first.error_code in LASTING):
            work.known[place] = as_twin(first, item.idx)


def _ask_cache(session: Session, work: Work) -> None:
    twin_of, made_of = twins_of(work.items), _made_of(work)
    keys = {
        place: _key(made_of, content(item.input))
        for place, item in enumerate(work.items)
        if place not in twin_of and place not in work.known
    }
    if not keys:
        return
    found = results_cache.find(session, work.claim.tenant_id, set(keys.values()))
    for place, key in keys.items():
        if (hit := found.get(key)) is None:
            work.keys[place] = key
        else:
            made = NewResult(0, Outcome.SUCCEEDED, hit.output, None, None, hit.input_tokens, hit.output_tokens)
            work.known[place] = msgspec.structs.replace(as_twin(made, work.items[place].idx), reuse=Reuse.CACHED)


def _made_of(work: Work) -> "hashlib.blake2b":
    """The digest of everything but the input that an output depends on.

    With our own version: what we do around the engine, such as cutting at stop strings, may be done otherwise by the
    next one.
    """
    recipe = work.engine.recipe
    made = {
        "bushel": _version(),
        # One GPU is as good as the other beside it.
        "recipe": asdict(recipe) | {"device": recipe.device.partition(":")[0]},
        "limits": asdict(work.engine.limits),
        "params": work.claim.params,
        "long_input": work.claim.long_input,
    }
    return hashlib.blake2b(msgspec.json.encode(made, order="deterministic"), digest_size=32)


def _key(made_of: "hashlib.blake2b", said: str | bytes) -> bytes:
    """No text is a list, whatever stands in it. A list begins otherwise."""
    digest = made_of.copy()
    digest.update(b"\0text\0" + said.encode() if isinstance(said, str) else b"\0json\0" + said)
    return digest.digest()


@cache
def _version() -> str:
    return version("bushel")
