"""What the `openai` SDK must be able to do with a Bushel server.

Run as `openai_checks.py sync|async URL KEY OTHER_KEY`.
"""

import asyncio
import hashlib
import http.server
import io
import json
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checks
import openai
from checks import FINAL, Setting, check, do, every, fails, same_fields, until

CHAT = "/v1/chat/completions"
BATCH_KEYS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status", "output_file_id"),
    *("error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at"),
    *("expired_at", "cancelling_at", "cancelled_at", "request_counts", "usage", "metadata"),
}


def chat_line(custom_id: str, content: str = "Hello there", **body: Any) -> bytes:
    body = {"model": "echo-chat", "messages": [{"role": "user", "content": content}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


def chat_lines(count: int, **body: Any) -> bytes:
    return b"".join(chat_line(f"r-{number}", f"text {number}", **body) for number in range(count))


async def uploaded(s: Setting, data: bytes, name: str = "in.jsonl") -> str:
    return str((await do(s.client.files.create(file=(name, data), purpose="batch"))).id)


async def submitted(s: Setting, data: bytes, endpoint: Any = CHAT, window: Any = "24h", **more: Any) -> Any:
    file_id = await uploaded(s, data)
    return await do(s.client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window=window, **more))


async def ended(s: Setting, batch_id: str, seconds: float = 60) -> Any:
    return await until(lambda: s.client.batches.retrieve(batch_id), lambda batch: batch.status in FINAL, seconds)


async def ran(s: Setting, data: bytes, **more: Any) -> Any:
    return await ended(s, (await submitted(s, data, **more)).id)


async def lines(s: Setting, file_id: str) -> list[dict[str, Any]]:
    content = await do(s.client.files.content(file_id))
    return [json.loads(line) for line in content.text.splitlines()]


async def raw(value: Any) -> dict[str, Any]:
    answer = await do(value)
    found: dict[str, Any] = json.loads(answer.http_response.content)
    return found


# --- files


@check("files.create from bytes, a path, a tuple and a stream")
async def upload_kinds(s: Setting) -> None:
    data = chat_lines(3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "by path.jsonl"
        path.write_bytes(data)
        kinds: list[tuple[Any, str]] = [
            (data, "upload"),
            (path, "by path.jsonl"),
            (("named.jsonl", data, "application/jsonl"), "named.jsonl"),
            (io.BytesIO(data), "upload"),
        ]
        for kind, name in kinds:
            file = await do(s.client.files.create(file=kind, purpose="batch"))
            assert (file.bytes, file.filename, file.purpose, file.object) == (len(data), name, "batch", "file"), file
            assert (await do(s.client.files.content(file.id))).read() == data


@check("files.create with expires_after")
async def expiring(s: Setting) -> None:
    # As extra body in versions that do not have the argument: it goes over the wire in the same way.
    extra = {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    file = await do(s.client.files.create(file=b"x\n", purpose="batch", extra_body=extra))
    assert file.expires_at - file.created_at == 3600


@check("files.retrieve, every field of the SDK's class")
async def file_fields(s: Setting) -> None:
    file_id = await uploaded(s, b"x\n")
    same_fields(await raw(s.client.files.with_raw_response.retrieve(file_id)), openai.types.FileObject)


@check("files.list over pages, by purpose and in both orders")
async def file_list(s: Setting) -> None:
    mine = [await uploaded(s, b"x\n", f"list-{number}.jsonl") for number in range(7)]
    newest = [file.id for file in await every(s.client.files.list(purpose="batch", limit=3))]
    assert newest[:7] == mine[::-1]
    oldest = [file.id for file in await every(s.client.files.list(order="asc", limit=100))]
    assert [id for id in oldest if id in mine] == mine


@check("files.content as text, stream and lines, with Range")
async def downloads(s: Setting) -> None:
    data = chat_lines(2_000)
    file_id = await uploaded(s, data)
    got = hashlib.sha256()
    streaming = s.client.files.with_streaming_response.content(file_id)
    if s.is_async:
        async with streaming as answer:
            async for part in answer.iter_bytes():
                got.update(part)
    else:
        with streaming as answer:
            for part in answer.iter_bytes():
                got.update(part)
    assert got.digest() == hashlib.sha256(data).digest()
    part = await do(s.client.files.content(file_id, extra_headers={"Range": "bytes=10-19"}))
    assert part.content == data[10:20]


@check("files.wait_for_processing")
async def processed(s: Setting) -> None:
    file_id = await uploaded(s, b"x\n")
    assert (await do(s.client.files.wait_for_processing(file_id, max_wait_seconds=5))).status == "processed"


@check("files.delete")
async def deletion(s: Setting) -> None:
    file_id = await uploaded(s, b"x\n")
    answer = await do(s.client.files.delete(file_id))
    assert (answer.id, answer.deleted, answer.object) == (file_id, True, "file")
    await fails(openai.NotFoundError, lambda: s.client.files.retrieve(file_id))
    await fails(openai.NotFoundError, lambda: s.client.files.content(file_id))
    await fails(openai.NotFoundError, lambda: s.client.files.delete(file_id))


@check("files.create of 200 MB, and its download")
async def large(s: Setting) -> None:
    line = chat_line("large", "0123456789" * 100)
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        digest, block = hashlib.sha256(), line * 1_000
        while file.tell() < 200 * 2**20:
            file.write(block)
            digest.update(block)
        file.flush()
        created = await do(s.client.files.create(file=Path(file.name), purpose="batch"))
        assert created.bytes == file.tell()
    got = hashlib.sha256((await do(s.client.files.content(created.id))).read())
    assert got.digest() == digest.digest()
    await do(s.client.files.delete(created.id))


# --- uploads


@check("uploads.upload_file_chunked, from a path and from bytes", "uploads.upload_file_chunked")
async def chunked(s: Setting) -> None:
    data = chat_lines(5_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parts.jsonl"
        path.write_bytes(data)
        upload = await do(
            s.client.uploads.upload_file_chunked(
                file=path, mime_type="application/jsonl", purpose="batch", part_size=100_000
            )
        )
    assert (upload.status, upload.file.bytes, upload.file.filename) == ("completed", len(data), "parts.jsonl")
    assert (await do(s.client.files.content(upload.file.id))).read() == data
    digest = hashlib.md5(data).hexdigest()
    upload = await do(
        s.client.uploads.upload_file_chunked(
            file=data,
            filename="bytes.jsonl",
            bytes=len(data),
            mime_type="application/jsonl",
            purpose="batch",
            md5=digest,
        )
    )
    assert upload.file.filename == "bytes.jsonl"


@check("uploads part by part, in another order; cancel", "uploads.parts")
async def parts(s: Setting) -> None:
    upload = await do(s.client.uploads.create(bytes=6, filename="p.txt", mime_type="text/plain", purpose="batch"))
    same_fields(
        await raw(
            s.client.uploads.with_raw_response.create(
                bytes=6, filename="q.txt", mime_type="text/plain", purpose="batch"
            )
        ),
        openai.types.Upload,
    )
    second = await do(s.client.uploads.parts.create(upload.id, data=b"def"))
    first = await do(s.client.uploads.parts.create(upload.id, data=b"abc"))
    done = await do(s.client.uploads.complete(upload.id, part_ids=[first.id, second.id]))
    assert (await do(s.client.files.content(done.file.id))).read() == b"abcdef"
    other = await do(s.client.uploads.create(bytes=6, filename="p.txt", mime_type="text/plain", purpose="batch"))
    await do(s.client.uploads.parts.create(other.id, data=b"abc"))
    await fails(openai.BadRequestError, lambda: s.client.uploads.complete(other.id, part_ids=[]))
    assert (await do(s.client.uploads.cancel(other.id))).status == "cancelled"


# --- batches


@check("batches.create, retrieve: all 22 keys, null where there is nothing")
async def batch_fields(s: Setting) -> None:
    file_id = await uploaded(s, chat_lines(2))
    found = await raw(
        s.client.batches.with_raw_response.create(
            input_file_id=file_id, endpoint=CHAT, completion_window="24h", metadata={"who": "me"}
        )
    )
    assert found.keys() >= BATCH_KEYS, BATCH_KEYS - found.keys()
    assert found["status"] in ("validating", "in_progress", "finalizing", "completed")
    assert (found["metadata"], found["endpoint"], found["completion_window"]) == ({"who": "me"}, CHAT, "24h")
    assert found["expires_at"] - found["created_at"] == 24 * 3600
    same_fields(found, openai.types.Batch)
    batch = await ended(s, found["id"])
    found = await raw(s.client.batches.with_raw_response.retrieve(batch.id))
    same_fields(found, openai.types.Batch)
    assert found["model"] == "echo-chat" and found["usage"]["total_tokens"] > 0


@check("a batch end to end: no line fails, input order, no error file")
async def none_fail(s: Setting) -> None:
    batch = await ran(s, chat_lines(50))
    assert batch.status == "completed" and batch.error_file_id is None and batch.errors is None, batch
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (50, 50, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    found = await lines(s, batch.output_file_id)
    assert [line["custom_id"] for line in found] == [f"r-{number}" for number in range(50)]
    for number, line in enumerate(found):
        assert line.keys() == {"id", "custom_id", "response", "error"} and line["error"] is None
        assert line["response"]["status_code"] == 200 and line["response"]["request_id"]
        body = openai.types.chat.ChatCompletion.model_validate_json(json.dumps(line["response"]["body"]), strict=True)
        assert body.choices[0].message.content == f"text {number}"
        assert body.choices[0].finish_reason == "stop"
        assert body.usage is not None and body.usage.total_tokens > 0


@check("a batch end to end: all lines fail, no output file")
async def all_fail(s: Setting) -> None:
    batch = await ran(s, chat_lines(4, tools=[{"type": "function", "function": {"name": "f"}}]))
    assert batch.status == "completed" and batch.output_file_id is None, batch
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (4, 0, 4)
    for line in await lines(s, batch.error_file_id):
        assert line["error"] is None and line["response"]["status_code"] == 400
        assert line["response"]["body"]["error"]["param"] == "tools"


@check("a batch end to end: some fail, each custom_id once over both files")
async def some_fail(s: Setting) -> None:
    batch = await ran(s, chat_lines(3) + chat_line("bad", stream=True) + chat_line("crash", "[[fail]]"))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 2)
    good, bad = await lines(s, batch.output_file_id), await lines(s, batch.error_file_id)
    assert sorted(line["custom_id"] for line in good + bad) == ["bad", "crash", "r-0", "r-1", "r-2"]
    status = {line["custom_id"]: line["response"]["status_code"] for line in bad}
    assert status == {"bad": 400, "crash": 500}, status


@check("several models and endpoints: completions, embeddings, translations, summaries")
async def endpoints(s: Setting) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"model": "echo-chat", "prompt": ["one", "two"], "max_tokens": 5},
        "/v1/embeddings": {"model": "echo-vectors", "input": "a text"},
        "/v1/translations": {"model": "echo", "input": "a text"},
        "/v1/summaries": {"model": "echo-summary", "input": "a long text"},
    }
    for endpoint, body in bodies.items():
        line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        batch = await ran(s, json.dumps(line).encode(), endpoint=endpoint)
        assert batch.request_counts.completed == 1, (endpoint, batch)
        [answer] = await lines(s, batch.output_file_id)
        assert answer["response"]["body"]["model"] == body["model"]
    data = chat_line("a") + chat_line("b", model="echo-chat-2")
    batch = await ran(s, data)
    assert [line["response"]["body"]["model"] for line in await lines(s, batch.output_file_id)] == [
        "echo-chat",
        "echo-chat-2",
    ]
    assert getattr(batch, "model", None) is None


@check("validation: every bad line is told in errors.data")
async def refused(s: Setting) -> None:
    data = (
        chat_line("a")
        + b"{not json\n"
        + chat_line("a")
        + chat_line("c", model="nobody")
        + chat_line("d").replace(b"/chat", b"")
    )
    batch = await ran(s, data)
    assert batch.status == "failed" and batch.failed_at and batch.output_file_id is None, batch
    found = {(error.line, error.code) for error in batch.errors.data}
    expected = {(2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "model_not_found"), (5, "url_mismatch")}
    assert found == expected, found
    assert all(error.message for error in batch.errors.data)


@check("validation: an empty file")
async def nothing(s: Setting) -> None:
    batch = await ran(s, b"\n\n")
    assert batch.status == "failed" and batch.errors.data[0].code == "empty_file", batch


@check("batches.create refuses what cannot be")
async def refusals(s: Setting) -> None:
    file_id = await uploaded(s, chat_lines(1))
    other = (await do(s.client.files.create(file=b"x\n", purpose="user_data"))).id

    def create(**more: Any) -> Callable[[], Any]:
        given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **more}
        return lambda: s.client.batches.create(**given)

    for more, param in (
        ({"input_file_id": "file-nowhere"}, "input_file_id"),
        ({"input_file_id": other}, "input_file_id"),
        ({"endpoint": "/v1/nowhere"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ):
        error = await fails(openai.APIStatusError, create(**more))
        assert error.status_code in (400, 404) and error.param == param, (more, error)
        assert error.request_id


@check("batches.list: 250 at limit 100, while others come and go")
async def listing(s: Setting) -> None:
    file_id = await uploaded(s, chat_lines(1))

    async def create() -> str:
        batch = await do(s.client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h"))
        return str(batch.id)

    mine = [await create() for _ in range(250)]
    page = await do(s.client.batches.list(limit=100))
    seen = [batch.id for batch in page.data]
    while page.has_next_page():
        # What comes in front of the reader must neither be seen nor shift what follows.
        await create()
        gone = mine[-min(len(seen), len(mine)) // 2]
        await ended(s, gone)
        sent("DELETE", f"{s.url}/v1/jobs/{gone.replace('batch_', 'job_')}", s.key)
        page = await do(page.get_next_page())
        seen += [batch.id for batch in page.data]
    assert len(seen) == len(set(seen))
    assert [id for id in seen if id in mine] == mine[::-1], "an element was missed or came twice"


@check("batches.cancel: partial results, twice, and after the end")
async def cancelling(s: Setting) -> None:
    data = chat_line("fast") + b"".join(chat_line(f"slow-{n}", f"[[slow 30]] {n}") for n in range(3))
    batch = await submitted(s, data)
    answer = await do(s.client.batches.cancel(batch.id))
    assert answer.status in ("cancelling", "cancelled") and answer.cancelling_at
    assert (await do(s.client.batches.cancel(batch.id))).status in ("cancelling", "cancelled")
    batch = await ended(s, batch.id)
    assert batch.status == "cancelled" and batch.cancelled_at, batch
    if batch.error_file_id:
        for line in await lines(s, batch.error_file_id):
            assert line["response"] is None and line["error"]["code"] == "batch_cancelled"
    assert (await do(s.client.batches.cancel(batch.id))).status == "cancelled"
    finished = await ran(s, chat_lines(1))
    error = await fails(openai.APIStatusError, lambda: s.client.batches.cancel(finished.id))
    # Else the SDK would try again what cannot succeed.
    assert error.status_code == 409 and error.response.headers["x-should-retry"] == "false"


@check("batches.cancel racing completion ends in one of the two, never in both")
async def racing(s: Setting) -> None:
    for _ in range(10):
        batch = await submitted(s, chat_lines(1))
        try:
            await do(s.client.batches.cancel(batch.id))
        except openai.APIStatusError as error:
            assert error.status_code in (400, 409)
        batch = await ended(s, batch.id)
        assert batch.status in ("completed", "cancelled")
        assert (batch.completed_at is None) != (batch.cancelled_at is None), batch


@check("expiry keeps the finished lines")
async def expiry(s: Setting) -> None:
    data = chat_lines(2) + b"".join(chat_line(f"late-{n}", "[[slow 30]]", model="echo-slow-chat") for n in range(2))
    batch = await ran(s, data, window="4s")
    assert batch.status == "expired" and batch.expired_at and batch.completion_window == "4s", batch
    assert [line["custom_id"] for line in await lines(s, batch.output_file_id)] == ["r-0", "r-1"]
    for line in await lines(s, batch.error_file_id):
        assert line["response"] is None and line["error"]["code"] == "batch_expired"


@check("output_expires_after")
async def output_expiry(s: Setting) -> None:
    extra = {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}
    batch = await ran(s, chat_lines(1), extra_body=extra)
    file = await do(s.client.files.retrieve(batch.output_file_id))
    assert file.expires_at - file.created_at == 3600 and file.purpose == "batch_output"


@check("a create whose response is lost three times makes one batch")
async def lost(s: Setting) -> None:
    file_id = await uploaded(s, chat_lines(1))
    proxy = LosingProxy(s.url, lose=3)
    client = type(s.client)(api_key=s.key, base_url=f"{proxy.url}/v1", max_retries=3)
    batch = await do(
        client.batches.create(
            input_file_id=file_id, endpoint=CHAT, completion_window="24h", metadata={"run": proxy.url}
        )
    )
    proxy.close()
    assert proxy.posts == 4, proxy.posts
    found = [each for each in await every(s.client.batches.list(limit=100)) if each.metadata == {"run": proxy.url}]
    assert [each.id for each in found] == [batch.id]


@check("the extension object: six counts, ETA, why it waits")
async def extension(s: Setting) -> None:
    batch = await ran(s, chat_lines(3))
    more = batch.model_extra["bushel"] if batch.model_extra else None
    assert more is not None and more["counts"]["succeeded"] == 3 and more["counts"]["total"] == 3, more
    assert {"eta_seconds", "waiting_for", "progress", "job_id"} <= more.keys()


# --- one request at a time


@check("chat.completions.create, synchronously")
async def one_chat(s: Setting) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it again"}]
    answer = await do(s.client.chat.completions.create(model="echo-chat", messages=messages))
    assert answer.choices[0].message.content == "Say it again" and answer.model == "echo-chat"
    found = await raw(s.client.chat.completions.with_raw_response.create(model="echo-chat", messages=messages))
    openai.types.chat.ChatCompletion.model_validate_json(json.dumps(found), strict=True)
    error = await fails(
        openai.BadRequestError,
        lambda: s.client.chat.completions.create(model="echo-chat", messages=messages, stream=True),
    )
    assert error.param == "stream"
    await fails(openai.NotFoundError, lambda: s.client.chat.completions.create(model="nobody", messages=messages))


@check("completions.create and embeddings.create, synchronously")
async def one_of_each(s: Setting) -> None:
    answer = await do(s.client.completions.create(model="echo-chat", prompt="one two three", max_tokens=2))
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two", "length"), answer
    vectors = await do(s.client.embeddings.create(model="echo-vectors", input=["a", "b"]))
    assert len(vectors.data) == 2 and len(vectors.data[0].embedding) == 8
    floats = await do(s.client.embeddings.create(model="echo-vectors", input="a", encoding_format="float"))
    pairs = zip(floats.data[0].embedding, vectors.data[0].embedding, strict=True)
    assert all(abs(one - other) < 1e-6 for one, other in pairs)


# --- the rest


@check("models.list")
async def models(s: Setting) -> None:
    names = {model.id for model in await every(s.client.models.list())}
    assert {"echo", "echo-chat"} <= names
    assert (await do(s.client.models.retrieve("echo-chat"))).id == "echo-chat"
    await fails(openai.NotFoundError, lambda: s.client.models.retrieve("nobody"))


@check("another tenant's ids are 404 in every verb")
async def tenants(s: Setting) -> None:
    file_id = await uploaded(s, chat_lines(1))
    batch = await do(s.client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h"))
    other = s.stranger
    verbs: list[Callable[[], Any]] = [
        lambda: other.files.retrieve(file_id),
        lambda: other.files.content(file_id),
        lambda: other.files.delete(file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
    ]
    for verb in verbs:
        await fails(openai.NotFoundError, verb)
    error = await fails(
        openai.APIStatusError,
        lambda: other.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h"),
    )
    assert error.param == "input_file_id"
    assert batch.id not in {each.id for each in await every(other.batches.list(limit=100))}
    assert file_id not in {each.id for each in await every(other.files.list())}


@check("a wrong key is AuthenticationError")
async def keys(s: Setting) -> None:
    client = type(s.client)(api_key="bsh_wrong", base_url=f"{s.url}/v1")
    error = await fails(openai.AuthenticationError, lambda: client.models.list())
    assert error.message and error.code


@check("webhooks.unwrap of a batch's event", "webhooks.unwrap")
async def webhooks(s: Setting) -> None:
    receiver = Receiver()
    made = json.loads(sent("POST", f"{s.url}/v1/webhooks", s.key, {"url": receiver.url}))
    batch = await ran(s, chat_lines(1))
    found = await until(lambda: [r for r in receiver.received if batch.id.encode() in r[1]], bool)
    sent("DELETE", f"{s.url}/v1/webhooks/{made['id']}", s.key)
    receiver.close()
    headers, body = found[0]
    event = await do(s.client.webhooks.unwrap(body, headers, secret=made["secret"]))
    assert (event.type, event.data.id, event.object) == ("batch.completed", batch.id, "event"), event
    await fails(
        openai.InvalidWebhookSignatureError, lambda: s.client.webhooks.unwrap(body, headers, secret="whsec_AAAA")
    )


def sent(method: str, url: str, key: str, body: Any = None) -> bytes:
    """What the SDK has no verb for."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request) as answer:
        content: bytes = answer.read()
    return content


class LosingProxy:
    """Passes requests on, and hangs up instead of passing on the first answers to a POST."""

    def __init__(self, upstream: str, lose: int) -> None:
        proxy = self
        self.posts = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                request = urllib.request.Request(upstream + self.path, body, headers)
                with urllib.request.urlopen(request) as answer:
                    content = answer.read()
                proxy.posts += 1
                if proxy.posts <= lose:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


class Receiver:
    """Keeps what is POSTed to it."""

    def __init__(self) -> None:
        received: list[tuple[dict[str, str], bytes]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((dict(self.headers.items()), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.received = received
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


def main(kind: str, url: str, key: str, other_key: str) -> int:
    make = openai.AsyncOpenAI if kind == "async" else openai.OpenAI
    client, stranger = (make(api_key=each, base_url=f"{url}/v1") for each in (key, other_key))
    setting = Setting(openai, client, stranger, url, key, kind == "async")
    return 0 if asyncio.run(checks.run(setting)) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
