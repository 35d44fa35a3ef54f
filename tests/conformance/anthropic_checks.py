"""What the `anthropic` SDK must be able to do with a Bushel server.

Run as `anthropic_checks.py sync|async URL KEY OTHER_KEY`.
"""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import anthropic
import checks
from checks import Setting, check, do, every, fails, same_fields, until


def request(custom_id: str, content: str = "Hello there", **params: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {
        "custom_id": custom_id,
        "params": {"model": "echo-chat", "max_tokens": 100, "messages": messages, **params},
    }


async def create(s: Setting, *requests: dict[str, Any]) -> Any:
    return await do(s.client.messages.batches.create(requests=list(requests)))


async def ended(s: Setting, batch_id: str) -> Any:
    look = lambda: s.client.messages.batches.retrieve(batch_id)  # noqa: E731
    return await until(look, lambda batch: batch.processing_status == "ended")


def job(s: Setting, batch_id: str) -> dict[str, Any]:
    """The same row in Bushel's own dialect."""
    url = f"{s.url}/v1/jobs/{batch_id.replace('msgbatch_', 'job_')}"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"x-api-key": s.key})) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


async def results(s: Setting, batch_id: str) -> dict[str, Any]:
    found = await every(await do(s.client.messages.batches.results(batch_id)))
    assert len({line.custom_id for line in found}) == len(found)
    return {line.custom_id: line.result for line in found}


@check("messages.batches: create, poll, iterate results")
async def end_to_end(s: Setting) -> None:
    batch = await create(s, *(request(f"r-{number}", f"text {number}", system="Be brief.") for number in range(20)))
    assert batch.id.startswith("msgbatch_") and batch.type == "message_batch"
    batch = await ended(s, batch.id)
    assert batch.request_counts.succeeded == 20 and batch.request_counts.processing == 0 and batch.ended_at
    found = await results(s, batch.id)
    for number in range(20):
        message = found[f"r-{number}"].message
        assert found[f"r-{number}"].type == "succeeded"
        assert message.content[0].text == f"text {number}" and message.stop_reason == "end_turn"
        assert message.role == "assistant" and message.usage.output_tokens > 0


@check("messages.batches: every field of the SDK's class")
async def fields(s: Setting) -> None:
    answer = await do(s.client.messages.batches.with_raw_response.create(requests=[request("a")]))
    found = json.loads(answer.http_response.content)
    same_fields(found, anthropic.types.messages.MessageBatch)
    assert found["results_url"] is None or found["processing_status"] == "ended"
    batch = await ended(s, found["id"])
    assert batch.results_url.startswith("http") and batch.expires_at > batch.created_at


@check("messages.batches: succeeded, errored, canceled side by side")
async def outcomes(s: Setting) -> None:
    batch = await create(
        s,
        request("good"),
        request("bad", tools=[{"name": "f", "input_schema": {"type": "object"}}]),
        request("unknown", model="nobody"),
        request("late", "[[slow 30]]", model="echo-slow-chat"),
    )
    # Anthropic's own counts stay at zero until the end; ours do not.
    await until(lambda: job(s, batch.id), lambda found: found["counts"]["succeeded"] == 1)
    answer = await do(s.client.messages.batches.cancel(batch.id))
    assert answer.processing_status in ("canceling", "ended") and answer.cancel_initiated_at
    batch = await ended(s, batch.id)
    counts = batch.request_counts
    assert (counts.succeeded, counts.errored, counts.canceled, counts.expired) == (1, 2, 1, 0), counts
    found = await results(s, batch.id)
    assert {name: result.type for name, result in found.items()} == {
        "good": "succeeded",
        "bad": "errored",
        "unknown": "errored",
        "late": "canceled",
    }
    assert found["bad"].error.error.type == "invalid_request_error" and "tools" in found["bad"].error.error.message
    assert found["unknown"].error.error.type == "not_found_error"


@check("messages.batches: max_tokens and stop sequences")
async def stops(s: Setting) -> None:
    batch = await create(s, request("cut", "one two three", max_tokens=2), request("stop", "a b", stop_sequences=["b"]))
    await ended(s, batch.id)
    found = await results(s, batch.id)
    assert found["cut"].message.stop_reason == "max_tokens" and found["cut"].message.content[0].text == "one two"
    assert found["stop"].message.stop_reason in ("stop_sequence", "end_turn")


@check("messages.batches.list over pages, both ways")
async def listing(s: Setting) -> None:
    mine = [(await create(s, request("a"))).id for _ in range(7)]
    seen = [batch.id for batch in await every(s.client.messages.batches.list(limit=3))]
    assert seen[:7] == mine[::-1] and len(seen) == len(set(seen))
    page = await do(s.client.messages.batches.list(limit=2, before_id=mine[2]))
    assert [batch.id for batch in page.data] == [mine[4], mine[3]], page


@check("messages.batches.delete, results before the end")
async def deletion(s: Setting) -> None:
    batch = await create(s, request("late", "[[slow 30]]", model="echo-slow-chat"))
    await fails(anthropic.APIStatusError, lambda: s.client.messages.batches.delete(batch.id))
    await fails(anthropic.AnthropicError, lambda: s.client.messages.batches.results(batch.id))
    await do(s.client.messages.batches.cancel(batch.id))
    await ended(s, batch.id)
    answer = await do(s.client.messages.batches.delete(batch.id))
    assert (answer.id, answer.type) == (batch.id, "message_batch_deleted")
    await fails(anthropic.NotFoundError, lambda: s.client.messages.batches.retrieve(batch.id))


@check("messages.batches.create refuses what cannot be, as BadRequestError")
async def refusals(s: Setting) -> None:
    for requests in ([], [request("a"), request("a")], [request("")], [{"custom_id": "a"}]):
        error = await fails(
            anthropic.BadRequestError, lambda requests=requests: s.client.messages.batches.create(requests=requests)
        )
        assert error.body["type"] == "error" and error.body["error"]["type"] == "invalid_request_error", error.body
        assert error.request_id


@check("messages.create, synchronously")
async def one(s: Setting) -> None:
    given: Any = request("", "Say it again")["params"]
    message = await do(s.client.messages.create(**given))
    assert message.content[0].text == "Say it again" and message.stop_reason == "end_turn"
    await fails(anthropic.NotFoundError, lambda: s.client.messages.create(**given | {"model": "nobody"}))
    await fails(anthropic.BadRequestError, lambda: s.client.messages.create(**given, extra_body={"top_k": -1}))


@check("another tenant's ids are 404 in every verb; a wrong key is AuthenticationError")
async def tenants(s: Setting) -> None:
    batch = await create(s, request("a"))
    await ended(s, batch.id)
    other = s.stranger.messages.batches
    verbs: list[Callable[[], Any]] = [
        lambda: other.retrieve(batch.id),
        lambda: other.cancel(batch.id),
        lambda: other.results(batch.id),
        lambda: other.delete(batch.id),
    ]
    for verb in verbs:
        await fails(anthropic.NotFoundError, verb)
    assert batch.id not in {each.id for each in await every(other.list(limit=100))}
    client = type(s.client)(api_key="bsh_wrong", base_url=s.url)
    await fails(anthropic.AuthenticationError, lambda: client.messages.batches.retrieve(batch.id))


def main(kind: str, url: str, key: str, other_key: str) -> int:
    make = anthropic.AsyncAnthropic if kind == "async" else anthropic.Anthropic
    client, stranger = (make(api_key=each, base_url=url) for each in (key, other_key))
    setting = Setting(anthropic, client, stranger, url, key, kind == "async")
    return 0 if asyncio.run(checks.run(setting)) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
