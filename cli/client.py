"""Bushel's API as a Python object: a method for each thing that can be asked of a server."""

import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx

from cli import wire
from cli.connection import SLOW, Connection, CutOff, Patience, content, text_lines
from cli.errors import CLIError, Refused, Unreachable

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, if known, the bytes in all."""

_READY_TIMEOUT = httpx.Timeout(5.0)
_EVENTS = "text/event-stream"
# The server says something every 15 seconds, if only that there is nothing to say.
_STREAM_TIMEOUT = httpx.Timeout(40.0, connect=5.0)
_CHUNK = 256 * 1024
# Of a list, as many as a server gives at once.
_PAGE = 100


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
        self._server = Connection(url, api_key, transport, is_patient)

    @property
    def url(self) -> str:
        return self._server.url

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.close()

    # Files

    def upload(
        self, file: BinaryIO, filename: str, purpose: str = "batch", progress: Progress = silent
    ) -> wire.StoredFile:
        """Send a seekable file as it is read; it is never in memory as a whole."""
        size = file.seek(0, os.SEEK_END)
        watched = _Watched(file, size, progress)
        # httpx begins with the file's first byte in every try.
        sent = self._server.object(
            "POST",
            "/v1/files",
            repeatable=False,
            data={"purpose": purpose},
            files={"file": (filename, watched)},
            timeout=SLOW,
        )
        return wire.stored_file(sent)

    def files(self) -> Iterator[wire.StoredFile]:
        """All files, page by page, newest first."""
        return map(wire.stored_file, self._server.pages("/v1/files", {}))

    def file(self, file_id: str) -> wire.StoredFile:
        return wire.stored_file(self._server.get(f"/v1/files/{file_id}"))

    def delete_file(self, file_id: str) -> None:
        self._server.request("DELETE", f"/v1/files/{file_id}", repeatable=False)

    def download(self, file_id: str, target: Path, progress: Progress = silent) -> None:
        """Write the file's content to `target`, continuing what an interrupted download of the same file left.

        The content appears under its name only when it is whole.
        """
        part = target.with_name(f".{target.name}.{file_id}.part")
        patience: Patience | None = None
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                self._download_rest(file_id, part, progress)
                break
            except CutOff as exc:
                if patience is None or (part.exists() and part.stat().st_size > before):
                    patience = self._server.patience()
                patience.wait_or_raise(Unreachable(self.url, str(exc)))
        part.replace(target)

    def copy_file(self, file_id: str, out: BinaryIO) -> None:
        """Write the content to a stream that cannot be continued, such as standard output."""
        try:
            with self._server.stream(f"/v1/files/{file_id}/content") as response:
                for chunk in response.iter_bytes(_CHUNK):
                    out.write(chunk)
        except CutOff as exc:
            raise Unreachable(self.url, f"cut off in the middle: {exc}") from exc

    def first_lines(self, file_id: str, count: int) -> list[str]:
        """The first lines of a text file; the rest of it is not transferred."""
        try:
            with self._server.stream(f"/v1/files/{file_id}/content") as response:
                return list(itertools.islice(text_lines(response), count))
        except CutOff as exc:
            raise Unreachable(self.url, f"cut off in the middle: {exc}") from exc

    def _download_rest(self, file_id: str, part: Path, progress: Progress) -> None:
        offset = part.stat().st_size if part.exists() else 0
        headers = {"range": f"bytes={offset}-"} if offset else {}
        try:
            with self._server.stream(f"/v1/files/{file_id}/content", headers=headers) as response:
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
        return wire.job(self._server.object("POST", path, repeatable=True, json=body, headers=headers, timeout=SLOW))

    def job(self, job_id: str) -> wire.Job:
        return wire.job(self._server.get(f"/v1/jobs/{job_id}"))

    def jobs(self, status: str | None = None, task: str | None = None) -> Iterator[wire.Job]:
        """All jobs, page by page, newest first."""
        wanted = {"status": status, "task": task}
        return map(wire.job, self._server.pages("/v1/jobs", {name: value for name, value in wanted.items() if value}))

    def newest_jobs(self, most: int, status: str | None = None) -> tuple[list[wire.Job], bool]:
        """As many, newest first, and whether there are more."""
        params = {"limit": str(min(most + 1, _PAGE)), **({"status": status} if status else {})}
        found = list(itertools.islice(self._server.pages("/v1/jobs", params), most + 1))
        return [wire.job(row) for row in found[:most]], len(found) > most

    def states(self, job_id: str) -> Iterator[wire.Job]:
        """The job as it changes, told by the server, until it has ended or the stream breaks off.

        Nothing at all where the server has no streams, or none left to give: whoever wants to know asks then.
        """
        try:
            with self._server.once(f"/v1/jobs/{job_id}/events", {"accept": _EVENTS}, _STREAM_TIMEOUT) as response:
                if response.status_code == 200 and response.headers.get("content-type", "").startswith(_EVENTS):
                    yield from _states(response)
        except (Unreachable, CutOff, ValueError):
            # Broken off, or nothing that a Bushel says.
            return

    def compare(self, a: str, b: str, lines: int) -> wire.Comparison:
        """Two jobs whose outputs were scored."""
        return wire.comparison(self._server.get(f"/v1/jobs/{a}/compare/{b}", {"lines": str(lines)}, timeout=SLOW))

    def cancel(self, job_id: str) -> wire.Job:
        return self._change(job_id, "cancel")

    def pause(self, job_id: str) -> wire.Job:
        return self._change(job_id, "pause")

    def resume(self, job_id: str) -> wire.Job:
        return self._change(job_id, "resume")

    def _change(self, job_id: str, verb: str) -> wire.Job:
        return wire.job(self._server.post(f"/v1/jobs/{job_id}/{verb}"))

    def delete_job(self, job_id: str) -> None:
        self._server.request("DELETE", f"/v1/jobs/{job_id}", repeatable=False)

    def audit(self, job_id: str) -> wire.JSON:
        return self._server.get(f"/v1/jobs/{job_id}/audit")

    def result_lines(
        self, job_id: str, after: int | None = None, order: str = "input", include_input: bool = False
    ) -> "ResultLines":
        """Iterate over the JSONL lines there are now, after line `after` of that order."""
        return ResultLines(self._server, job_id, after, order, include_input)

    def write_results(self, job_id: str, out: BinaryIO, form: str, include_input: bool = False) -> bool:
        """Write the results there are now, in input order, as csv or txt; True if the job will have no more."""
        params = {"format": form, "order": "input"} | ({"include": "input"} if include_input else {})
        try:
            with self._server.stream(f"/v1/jobs/{job_id}/results", params) as response:
                for chunk in response.iter_bytes(_CHUNK):
                    out.write(chunk)
                return _is_complete(response)
        except CutOff as exc:
            raise Unreachable(self.url, f"cut off in the middle: {exc}") from exc

    # Webhooks

    def webhooks(self) -> Iterator[wire.JSON]:
        """All webhooks, page by page, newest first."""
        return self._server.pages("/v1/webhooks", {})

    def create_webhook(self, body: wire.JSON) -> wire.JSON:
        """The webhook with its secret, which is in no other answer."""
        return self._server.post("/v1/webhooks", body)

    def change_webhook(self, webhook_id: str, body: wire.JSON) -> wire.JSON:
        # Saying the same thing twice changes nothing more.
        return self._server.object("PATCH", f"/v1/webhooks/{webhook_id}", repeatable=True, json=body)

    def delete_webhook(self, webhook_id: str) -> None:
        self._server.request("DELETE", f"/v1/webhooks/{webhook_id}", repeatable=False)

    def rotate_webhook(self, webhook_id: str) -> wire.JSON:
        return self._server.post(f"/v1/webhooks/{webhook_id}/rotate")

    def test_webhook(self, webhook_id: str) -> wire.JSON:
        return self._server.post(f"/v1/webhooks/{webhook_id}/test")

    def deliveries(self, webhook_id: str, state: str | None = None) -> Iterator[wire.JSON]:
        """All deliveries of a webhook, page by page, newest first."""
        return self._server.pages(f"/v1/webhooks/{webhook_id}/deliveries", {"state": state} if state else {})

    def redeliver(self, webhook_id: str, delivery_id: str) -> wire.JSON:
        return self._server.post(f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")

    # Usage and estimates

    def cache(self) -> wire.JSON:
        return self._server.get("/v1/cache")

    def clear_cache(self) -> int:
        """How many entries there were."""
        return int(str(self._server.object("DELETE", "/v1/cache", repeatable=True)["cleared"]))

    def usage(self, params: Mapping[str, str]) -> wire.JSON:
        return self._server.get("/v1/usage", params)

    def track_record(self) -> wire.JSON | None:
        """How good estimates were; None from a server that does not keep them yet."""
        try:
            return self._server.get("/v1/estimates")
        except Refused as exc:
            if exc.status != 404:
                raise
            return None

    # Models, workers and health

    def models(self) -> list[wire.JSON]:
        return list(self._server.pages("/v1/models", {}))

    def workers(self) -> list[wire.Worker]:
        return [wire.worker(row) for row in self._server.pages("/v1/workers", {})]

    def queues(self) -> list[wire.Queue]:
        return [wire.queue(row) for row in self._server.pages("/v1/queues", {})]

    def version(self) -> str | None:
        """The API's, out of the document that describes it; None from a server that has none."""
        try:
            return wire.version(self._server.get("/openapi.json"))
        except Refused:
            return None

    def readiness(self) -> wire.Readiness:
        """What the server says of itself, also where it says that it is not ready."""
        with self._server.once("/readyz") as response:
            response.read()
        found = content(response)
        if "checks" not in found:
            raise self._server.stranger(response)
        return wire.readiness(found)

    def is_ready(self) -> bool:
        """Whether the server says it can take and run jobs; False also when nothing answers."""
        try:
            with self._server.once("/readyz", timeout=_READY_TIMEOUT) as response:
                return response.status_code == 200
        except Unreachable:
            return False


class ResultLines:
    """Result lines as the server wrote them, with their newline; a broken connection is continued where it broke.

    `cursor` is what to pass as `after` next time; `is_complete` says, once the iteration has ended, whether
    the job will have no more.
    """

    def __init__(self, server: Connection, job_id: str, after: int | None, order: str, include_input: bool) -> None:
        self._server, self._job_id, self._order = server, job_id, order
        self._include_input = include_input
        self.cursor = after
        self.is_complete = False

    def __iter__(self) -> Iterator[tuple[wire.Result, str]]:
        patience: Patience | None = None
        while True:
            try:
                for pair in self._lines():
                    yield pair
                    patience = None
                return
            except CutOff as exc:
                patience = patience or self._server.patience()
                patience.wait_or_raise(Unreachable(self._server.url, str(exc)))

    def _lines(self) -> Iterator[tuple[wire.Result, str]]:
        params = {"format": "jsonl", "order": self._order}
        if self.cursor is not None:
            params["after"] = str(self.cursor)
        if self._include_input:
            params["include"] = "input"
        with self._server.stream(f"/v1/jobs/{self._job_id}/results", params) as response:
            for line in text_lines(response):
                found = json.loads(line)
                if not isinstance(found, dict) or "index" not in found:
                    raise CLIError(f"the server broke off the results of {self._job_id}: {line.strip()[:200]}")
                result = wire.result(found)
                self.cursor = result.seq if self._order == "finished" else result.index
                yield result, line
            self.is_complete = _is_complete(response)


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


def _is_complete(response: httpx.Response) -> bool:
    return str(response.headers.get("x-bushel-complete", "")).lower() == "true"


def _states(response: httpx.Response) -> Iterator[wire.Job]:
    """The events named `job` of a stream; each is one line of JSON."""
    event = ""
    for line in text_lines(response):
        name, _, value = line.rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "job":
            found = json.loads(value)
            if not isinstance(found, dict):
                raise CutOff("what came is no job")
            yield wire.job(found)
