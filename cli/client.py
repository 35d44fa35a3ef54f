"""The HTTP client of Bushel's API: bounded waits, retries where they are safe, streams where bodies are large."""

import itertools
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx

from cli import wire
from cli.errors import CLIError, Refused, ServerBusy, Unreachable

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, if known, the bytes in all."""

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_IMPATIENT_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
# The server may be long checking a large upload, or seeking the first line of a long result.
_SLOW_TIMEOUT = httpx.Timeout(300.0, connect=5.0)
_EVENTS = "text/event-stream"
# The server says something every 15 seconds, if only that there is nothing to say.
_STREAM_TIMEOUT = httpx.Timeout(40.0, connect=5.0)
_BUSY = frozenset({429, 502, 503, 504})
# A mistyped URL should be told at once; a server that answered a moment ago is probably being restarted.
_PATIENCE_AT_FIRST, _PATIENCE_LATER = 1.5, 60.0
_CHUNK = 256 * 1024
_NO_BUSHEL = "what answers there is not Bushel"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def silent(done: int, total: int | None) -> None:
    """The progress nobody watches."""


class Client:
    """One server, one key. Raises only CLIError and its kinds.

    GETs, and creating a job (which carries an Idempotency-Key), are tried again while the server is away
    or busy; anything else only if the request cannot have arrived. With `is_patient` off nothing is tried
    again: for who asks again anyway, and says meanwhile that there is no answer.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        is_patient: bool = True,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = _TIMEOUT if is_patient else _IMPATIENT_TIMEOUT
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=self._timeout,
                transport=transport,
                # A proxy meant for the world outside must not come between us and our own machine.
                trust_env=httpx.URL(self.url).host not in _LOOPBACK,
            )
        except (httpx.InvalidURL, ValueError) as exc:
            raise Refused(0, f"{url} is not a URL: {exc}") from exc
        self._patience, self._patience_later = (_PATIENCE_AT_FIRST, _PATIENCE_LATER) if is_patient else (0.0, 0.0)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Files

    def upload(
        self, file: BinaryIO, filename: str, purpose: str = "batch", progress: Progress = silent
    ) -> wire.StoredFile:
        """Send a seekable file as it is read; it is never in memory as a whole."""
        size = file.seek(0, os.SEEK_END)
        watched = _Watched(file, size, progress)

        def send() -> httpx.Response:
            watched.seek(0)
            return self._http.post(
                "/v1/files",
                data={"purpose": purpose},
                # httpx only reads, seeks and tells; it asks for a typing.IO.
                files={"file": (filename, watched)},  # type: ignore[dict-item]
                timeout=_SLOW_TIMEOUT,
            )

        return wire.stored_file(self._object(self._try(send, repeatable=False)))

    def files(self) -> Iterator[wire.StoredFile]:
        """All files, page by page, newest first."""
        return map(wire.stored_file, self._pages("/v1/files", {}))

    def file(self, file_id: str) -> wire.StoredFile:
        return wire.stored_file(self._get(f"/v1/files/{file_id}"))

    def delete_file(self, file_id: str) -> None:
        self._try(lambda: self._http.delete(f"/v1/files/{file_id}"), repeatable=False)

    def download(self, file_id: str, target: Path, progress: Progress = silent) -> None:
        """Write the file's content to `target`, continuing what an interrupted download of the same file left.

        The content appears under its name only when it is whole.
        """
        part = target.with_name(f".{target.name}.{file_id}.part")
        patience = _Patience(self._patience)
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                self._download_rest(file_id, part, progress)
                break
            except _CutOff as exc:
                if part.exists() and part.stat().st_size > before:
                    patience = _Patience(self._patience)
                patience.wait_or_raise(Unreachable(self.url, str(exc)))
        part.replace(target)

    def copy_file(self, file_id: str, out: BinaryIO) -> None:
        """Write the content to a stream that cannot be continued, such as standard output."""
        try:
            with self._stream("/v1/files/" + file_id + "/content", {}) as response:
                for chunk in response.iter_bytes(_CHUNK):
                    out.write(chunk)
        except _CutOff as exc:
            raise Unreachable(self.url, f"cut off in the middle: {exc}") from exc

    def first_lines(self, file_id: str, count: int) -> list[str]:
        """The first lines of a text file; the rest of it is not transferred."""
        try:
            with self._stream(f"/v1/files/{file_id}/content", {}) as response:
                return list(itertools.islice(_text_lines(response), count))
        except _CutOff as exc:
            raise Unreachable(self.url, f"cut off in the middle: {exc}") from exc

    def _download_rest(self, file_id: str, part: Path, progress: Progress) -> None:
        offset = part.stat().st_size if part.exists() else 0
        headers = {"range": f"bytes={offset}-"} if offset else {}
        try:
            with self._stream(f"/v1/files/{file_id}/content", {}, headers) as response:
                continues = response.status_code == 206 and response.headers.get("content-range", "").startswith(
                    f"bytes {offset}-"
                )
                offset = offset if continues else 0
                length = response.headers.get("content-length", "")
                total = offset + int(length) if length.isdigit() else None
                with part.open("ab" if continues else "wb") as out:
                    for chunk in response.iter_bytes(_CHUNK):
                        out.write(chunk)
                        progress(out.tell(), total)
        except Refused as exc:
            # 416: we have it all already, or the file is not the one we began with.
            if exc.status != 416:
                raise
            if self.file(file_id).bytes != offset:
                part.unlink()
                self._download_rest(file_id, part, progress)

    # Jobs

    def create_job(self, body: wire.JSON, idempotency_key: str | None = None) -> wire.Job:
        """Create it exactly once, however often the answer gets lost on the way."""
        return self._create("/v1/jobs", body, idempotency_key)

    def retry(self, job_id: str, body: wire.JSON) -> wire.Job:
        """A new job of what did not succeed; `body` says what is otherwise."""
        return self._create(f"/v1/jobs/{job_id}/retry", body)

    def clone(self, job_id: str, body: wire.JSON) -> wire.Job:
        """A new job of the whole input; `body` says what is otherwise."""
        return self._create(f"/v1/jobs/{job_id}/clone", body)

    def _create(self, path: str, body: wire.JSON, idempotency_key: str | None = None) -> wire.Job:
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        response = self._try(
            lambda: self._http.post(path, json=body, headers=headers, timeout=_SLOW_TIMEOUT), repeatable=True
        )
        return wire.job(self._object(response))

    def job(self, job_id: str) -> wire.Job:
        return wire.job(self._get(f"/v1/jobs/{job_id}"))

    def jobs(self, status: str | None = None, task: str | None = None) -> Iterator[wire.Job]:
        """All jobs, page by page, newest first."""
        wanted = {"status": status, "task": task}
        return map(wire.job, self._pages("/v1/jobs", {name: value for name, value in wanted.items() if value}))

    def newest_jobs(self, limit: int, status: str | None = None) -> tuple[list[wire.Job], bool]:
        """At most a hundred, newest first, and whether there are more."""
        page = self._get("/v1/jobs", {"limit": str(limit), **({"status": status} if status else {})})
        return [wire.job(row) for row in wire.objects(page.get("data"))], bool(page.get("has_more"))

    def states(self, job_id: str) -> Iterator[wire.Job]:
        """The job as it changes, told by the server, until it has ended or the stream breaks off.

        Nothing at all where the server has no streams, or none left to give: whoever wants to know asks then.
        """
        request = self._http.build_request(
            "GET", f"/v1/jobs/{job_id}/events", headers={"accept": _EVENTS}, timeout=_STREAM_TIMEOUT
        )
        try:
            response = self._http.send(request, stream=True)
        except httpx.TransportError:
            return
        try:
            if response.status_code == 200 and response.headers.get("content-type", "").startswith(_EVENTS):
                yield from _states(response)
        except (httpx.TransportError, _CutOff, ValueError):
            # Broken off, or nothing that a Bushel says.
            return
        finally:
            response.close()

    def compare(self, a: str, b: str, lines: int) -> wire.Comparison:
        """Two jobs whose outputs were scored."""
        return wire.comparison(self._get(f"/v1/jobs/{a}/compare/{b}", {"lines": str(lines)}, _SLOW_TIMEOUT))

    def cancel(self, job_id: str) -> wire.Job:
        return self._change(job_id, "cancel")

    def pause(self, job_id: str) -> wire.Job:
        return self._change(job_id, "pause")

    def resume(self, job_id: str) -> wire.Job:
        return self._change(job_id, "resume")

    def _change(self, job_id: str, verb: str) -> wire.Job:
        return wire.job(self._object(self._try(lambda: self._http.post(f"/v1/jobs/{job_id}/{verb}"), repeatable=False)))

    def delete_job(self, job_id: str) -> None:
        self._try(lambda: self._http.delete(f"/v1/jobs/{job_id}"), repeatable=False)

    def audit(self, job_id: str) -> wire.JSON:
        return self._get(f"/v1/jobs/{job_id}/audit")

    def result_lines(
        self, job_id: str, after: int | None = None, order: str = "input", include_input: bool = False
    ) -> "ResultLines":
        """Iterate over the JSONL lines there are now, after line `after` of that order."""
        return ResultLines(self, job_id, after, order, include_input)

    def write_results(self, job_id: str, out: BinaryIO, form: str, include_input: bool = False) -> bool:
        """Write the results there are now, in input order, as csv or txt; True if the job will have no more."""
        params = {"format": form, "order": "input"} | ({"include": "input"} if include_input else {})
        try:
            with self._stream(f"/v1/jobs/{job_id}/results", params) as response:
                for chunk in response.iter_bytes(_CHUNK):
                    out.write(chunk)
                return is_complete(response)
        except _CutOff as exc:
            raise Unreachable(self.url, f"cut off in the middle: {exc}") from exc

    # Webhooks

    def webhooks(self) -> Iterator[wire.JSON]:
        """All webhooks, page by page, newest first."""
        return self._pages("/v1/webhooks", {})

    def create_webhook(self, body: wire.JSON) -> wire.JSON:
        """The webhook with its secret, which is in no other answer."""
        return self._post("/v1/webhooks", body)

    def change_webhook(self, webhook_id: str, body: wire.JSON) -> wire.JSON:
        # Saying the same thing twice changes nothing more.
        return self._object(
            self._try(lambda: self._http.patch(f"/v1/webhooks/{webhook_id}", json=body), repeatable=True)
        )

    def delete_webhook(self, webhook_id: str) -> None:
        self._try(lambda: self._http.delete(f"/v1/webhooks/{webhook_id}"), repeatable=False)

    def rotate_webhook(self, webhook_id: str) -> wire.JSON:
        return self._post(f"/v1/webhooks/{webhook_id}/rotate")

    def test_webhook(self, webhook_id: str) -> wire.JSON:
        return self._post(f"/v1/webhooks/{webhook_id}/test")

    def deliveries(self, webhook_id: str, state: str | None = None) -> Iterator[wire.JSON]:
        """All deliveries of a webhook, page by page, newest first."""
        return self._pages(f"/v1/webhooks/{webhook_id}/deliveries", {"state": state} if state else {})

    def redeliver(self, webhook_id: str, delivery_id: str) -> wire.JSON:
        return self._post(f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")

    # Usage and estimates

    def cache(self) -> wire.JSON:
        return self._get("/v1/cache")

    def clear_cache(self) -> int:
        """How many entries there were."""
        cleared = self._try(lambda: self._http.delete("/v1/cache"), repeatable=True).json()["cleared"]
        return int(cleared)

    def usage(self, params: Mapping[str, str]) -> wire.JSON:
        return self._get("/v1/usage", params)

    def track_record(self) -> wire.JSON | None:
        """How good estimates were; None from a server that does not keep them yet."""
        try:
            return self._get("/v1/estimates")
        except Refused as exc:
            if exc.status != 404:
                raise
            return None

    # Models, workers and health

    def models(self) -> list[wire.JSON]:
        return list(self._pages("/v1/models", {}))

    def workers(self) -> list[wire.Worker]:
        return [wire.worker(row) for row in self._pages("/v1/workers", {})]

    def queues(self) -> list[wire.Queue]:
        return [wire.queue(row) for row in self._pages("/v1/queues", {})]

    def version(self) -> str | None:
        """The API's, out of the document that describes it; None from a server that has none."""
        try:
            return wire.version(self._get("/openapi.json"))
        except Refused:
            return None

    def readiness(self) -> wire.Readiness:
        """What the server says of itself, also where it says that it is not ready."""
        try:
            response = self._http.get("/readyz", timeout=self._timeout)
        except httpx.TransportError as exc:
            raise Unreachable(self.url, _reason(exc)) from exc
        content = _json(response)
        if not isinstance(content, dict) or "checks" not in content:
            raise _failure(response) or Unreachable(self.url, _NO_BUSHEL)
        return wire.readiness(content)

    def is_ready(self) -> bool:
        """Whether the server says it can take and run jobs; False also when nothing answers."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    # How requests are made

    def _get(
        self, path: str, params: Mapping[str, str] | None = None, timeout: httpx.Timeout | None = None
    ) -> wire.JSON:
        send = partial(self._http.get, path, params=dict(params or {}), timeout=timeout or self._timeout)
        return self._object(self._try(send, repeatable=True))

    def _post(self, path: str, body: wire.JSON | None = None) -> wire.JSON:
        return self._object(self._try(lambda: self._http.post(path, json=body), repeatable=False))

    def _pages(self, path: str, params: Mapping[str, str]) -> Iterator[wire.JSON]:
        after: str | None = None
        while True:
            page = self._get(path, {**params, **({"after": after} if after else {})})
            data = page.get("data")
            rows = [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []
            yield from rows
            if not page.get("has_more") or not rows:
                return
            after = str(rows[-1]["id"])

    def _try(self, send: Callable[[], httpx.Response], repeatable: bool) -> httpx.Response:
        patience = _Patience(self._patience)
        while True:
            try:
                response = send()
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                patience.wait_or_raise(Unreachable(self.url, _reason(exc)))
            except httpx.TransportError as exc:
                failure = Unreachable(self.url, _reason(exc))
                if not repeatable:
                    raise failure from exc
                patience.wait_or_raise(failure)
            except httpx.InvalidURL as exc:
                raise Refused(0, f"{self.url} is not a URL: {exc}") from exc
            else:
                self._patience = self._patience_later
                failure_said = _failure(response)
                if failure_said is None:
                    return response
                if not (repeatable and _may_pass(failure_said)):
                    raise failure_said
                patience.wait_or_raise(failure_said, _retry_after(response))

    @contextmanager
    def _stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """A response whose body is still to be read. _CutOff when it breaks off while the caller reads."""
        request = self._http.build_request(
            "GET", path, params=dict(params), headers=dict(headers or {}), timeout=_SLOW_TIMEOUT
        )

        def send() -> httpx.Response:
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
            return response

        response = self._try(send, repeatable=True)
        try:
            yield response
        except httpx.TransportError as exc:
            raise _CutOff(_reason(exc)) from exc
        finally:
            response.close()

    def _object(self, response: httpx.Response) -> wire.JSON:
        content = _json(response)
        if not isinstance(content, dict):
            raise Unreachable(self.url, _NO_BUSHEL)
        return content


class ResultLines:
    """Result lines as the server wrote them, with their newline; a broken connection is continued where it broke.

    `cursor` is what to pass as `after` next time; `is_complete` says, once the iteration has ended, whether
    the job will have no more.
    """

    def __init__(self, client: Client, job_id: str, after: int | None, order: str, include_input: bool) -> None:
        self._client, self._job_id, self._order = client, job_id, order
        self._include_input = include_input
        self.cursor = after
        self.is_complete = False

    def __iter__(self) -> Iterator[tuple[wire.Result, str]]:
        patience = _Patience(_PATIENCE_LATER)
        while True:
            try:
                for pair in self._lines():
                    yield pair
                    patience = _Patience(_PATIENCE_LATER)
                return
            except _CutOff as exc:
                patience.wait_or_raise(Unreachable(self._client.url, str(exc)))

    def _lines(self) -> Iterator[tuple[wire.Result, str]]:
        params = {"format": "jsonl", "order": self._order}
        if self.cursor is not None:
            params["after"] = str(self.cursor)
        if self._include_input:
            params["include"] = "input"
        with self._client._stream(f"/v1/jobs/{self._job_id}/results", params) as response:
            for line in _text_lines(response):
                content = json.loads(line)
                if not isinstance(content, dict) or "index" not in content:
                    raise CLIError(f"the server broke off the results of {self._job_id}: {line.strip()[:200]}")
                result = wire.result(content)
                self.cursor = result.seq if self._order == "finished" else result.index
                yield result, line
            self.is_complete = is_complete(response)


class _CutOff(Exception):
    """The body of a response ended before its end."""


class _Patience:
    """Waits, longer each time, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause = 0.2

    def wait_or_raise(self, failure: CLIError, at_least: float = 0.0) -> None:
        # The random part keeps many waiting clients from coming back in the same moment.
        pause = max(at_least, self._pause * random.uniform(0.7, 1.3))
        if time.monotonic() + pause > self._until:
            raise failure
        time.sleep(pause)
        self._pause = min(5.0, self._pause * 2)


class _Watched:
    """A file that tells how far it has been read."""

    def __init__(self, file: BinaryIO, size: int, progress: Progress) -> None:
        self._file, self._size, self._progress = file, size, progress

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._progress(self._file.tell(), self._size)
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def is_complete(response: httpx.Response) -> bool:
    return str(response.headers.get("x-bushel-complete", "")).lower() == "true"


def _text_lines(response: httpx.Response) -> Iterator[str]:
    """Lines by newline alone: httpx's own iterator also splits at U+2028, which JSON leaves inside strings.

    A last line without its newline was cut off, and is not given out.
    """
    rest = b""
    for chunk in response.iter_bytes():
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8") + "\n" for line in whole if line)
    if rest:
        raise _CutOff("the last line is not whole")


def _states(response: httpx.Response) -> Iterator[wire.Job]:
    """The events named `job` of a stream; each is one line of JSON."""
    event = ""
    for line in _text_lines(response):
        name, _, value = line.rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "job":
            content = json.loads(value)
            if not isinstance(content, dict):
                raise _CutOff("what came is no job")
            yield wire.job(content)


def _failure(response: httpx.Response) -> ServerBusy | Refused | None:
    if not response.is_error:
        return None
    content = _json(response)
    error = content.get("error") if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or response.reason_phrase or "no reason given")
    request_id = response.headers.get("x-request-id")
    if response.status_code >= 500 or response.status_code == 429:
        return ServerBusy(response.status_code, message, request_id)
    if response.status_code == 401:
        message += "; set BUSHEL_API_KEY, or name the folder of the `bushel up` here by --data, "
        message += "or make a key: bushel keys create --save"
    code, param = error.get("code"), error.get("param")
    return Refused(
        response.status_code, message, str(code) if code else None, str(param) if param else None, request_id
    )


def _may_pass(failure: ServerBusy | Refused) -> bool:
    if isinstance(failure, ServerBusy):
        return failure.status in _BUSY
    # The first of our own attempts is still being worked on.
    return failure.status == 409 and "idempotency" in (failure.code or "")


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def _json(response: httpx.Response) -> object:
    try:
        content: object = response.json()
    except ValueError:
        return None
    return content


def _reason(exc: Exception) -> str:
    return str(exc).strip().lower() or type(exc).__name__
