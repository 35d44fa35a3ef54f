"""A small HTTP server that speaks the API's contract over canned state, for testing the command line alone.

Every job translates by upper case; a text with `FAIL` in it fails. A job ends after `polls_until_done` looks;
one whose input has `INVALID` in it fails before it has any item.
`faults` are taken from the front, one per request that matches.
"""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COUNTED = ("total", "queued", "running", "succeeded", "failed", "cancelled", "expired")


@dataclass
class Fault:
    """What goes wrong once: answer with `status`, or cut the body after `cut` bytes, or after the work is done."""

    method: str
    path: str
    status: int = 0
    cut: int | None = None
    lost_answer: bool = False


@dataclass
class State:
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    comparison: dict[str, Any] = field(default_factory=dict)
    polls_until_done: int = 1
    api_key: str = "bsh_test"
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that break off are what many tests are about."""


class FakeBushel:
    """`with FakeBushel() as fake:` serves at `fake.url` until the block ends."""

    def __init__(self) -> None:
        self.state = State()
        state = self.state

        class Bound(_Handler):
            fake = state

        self._server = _Server(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeBushel":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_job(self, texts: list[str], **fields: Any) -> str:
        with self.state.lock:
            return str(create(self.state, {"task": "translation", "inputs": texts, **fields})["id"])


def create(state: State, body: dict[str, Any]) -> dict[str, Any]:
    job_id = f"job_{len(state.jobs):04d}"
    texts = body.get("inputs")
    if texts is None:
        texts = state.contents[body["input_file_id"]].decode().splitlines()
    given = [{"text": text} if isinstance(text, str) else text for text in texts]
    is_valid = not any("INVALID" in one["text"] for one in given)
    state.lines[job_id] = [result_line(index, one) for index, one in enumerate(given)] if is_valid else []
    job = {
        "id": job_id,
        "object": "job",
        "model": "upper",
        "status": "in_progress",
        "paused": False,
        "priority": 0,
        "metadata": {},
        "created_at": 1_700_000_000 + len(state.jobs),
        "in_progress_at": 1_700_000_000,
        "items_per_second": 12.5,
        "tokens_per_second": 340.0,
        "eta_seconds": 3.0,
        "waiting_for": {"code": "no_worker", "message": "no worker serves upper"},
        "errors": None,
        "estimate": {"items": len(given), "input_tokens": 10, "seconds": 2.0} if body.get("dry_run") else None,
        "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        **{name: value for name, value in body.items() if name != "inputs"},
    }
    if not is_valid:
        hint = "name it with format.text_column, or set on_error: skip"
        problem = {"line": 1, "code": "missing_column", "message": "model upper needs target_lang", "hint": hint}
        job |= {"status": "failed", "errors": {"total": 1, "data": [problem]}}
    state.jobs[job_id] = job
    state.looks[job_id] = 0
    settle(state, job)
    return job


def result_line(index: int, given: dict[str, Any]) -> dict[str, Any]:
    text = given["text"]
    fails = "FAIL" in text
    return {
        "index": index,
        "seq": 100 + index,
        "custom_id": given.get("custom_id", str(index)),
        "status": "failed" if fails else "succeeded",
        "output": None if fails else {"text": text.upper(), "finish_reason": "stop"},
        "error": {"code": "too_long", "message": "the text is too long"} if fails else None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def settle(state: State, job: dict[str, Any]) -> None:
    """Give the job the counts that belong to how often it has been looked at."""
    lines = finished_lines(state, job)
    done = len(lines) == len(state.lines[job["id"]]) and state.looks[job["id"]] >= state.polls_until_done
    if job["status"] == "in_progress" and done:
        job["status"], job["waiting_for"], job["completed_at"] = "completed", None, 1_700_000_004
    counts = dict.fromkeys(COUNTED, 0)
    counts["total"] = len(state.lines[job["id"]])
    for line in lines:
        counts[line["status"]] += 1
    rest = counts["total"] - len(lines)
    counts["cancelled" if job["status"] == "cancelled" else "queued"] += rest
    job["counts"] = counts
    job["progress"] = len(lines) / max(1, counts["total"])


def finished_lines(state: State, job: dict[str, Any]) -> list[dict[str, Any]]:
    lines = state.lines[job["id"]]
    if job["status"] != "in_progress":
        return lines if job["status"] != "cancelled" else lines[:1]
    return lines[: len(lines) * state.looks[job["id"]] // max(1, state.polls_until_done)]


class _Handler(BaseHTTPRequestHandler):
    fake: State
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        body = self._body()
        with self.fake.lock:
            self.fake.requests.append((self.command, split.path, query))
            fault = self._fault(split.path)
            if fault and fault.status:
                self._error(fault.status, "not now", "busy")
                return
            if self.headers.get("authorization") != f"Bearer {self.fake.api_key}" and split.path.startswith("/v1"):
                self._error(401, "no such key", "invalid_api_key")
                return
            answer = self._route(split.path, query, body)
        if fault and fault.lost_answer:
            self.close_connection = True
            return
        self._send(*answer, cut=fault.cut if fault else None)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.fake.faults:
            if fault.method == self.command and re.fullmatch(fault.path, path):
                self.fake.faults.remove(fault)
                return fault
        return None

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _route(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        state = self.fake
        if path in ("/healthz", "/readyz"):
            return _json(200, {"status": "ready"})
        if path == "/v1/files" and self.command == "POST":
            return _json(200, self._upload(body))
        if path == "/v1/files":
            return _json(200, _page(list(state.files.values()), query))
        if path == "/v1/jobs" and self.command == "POST":
            return self._create(json.loads(body))
        if path == "/v1/jobs":
            return _json(200, _page(list(reversed(state.jobs.values())), query))
        if re.fullmatch(r"/v1/jobs/[^/]+/compare/[^/]+", path):
            return _json(200, state.comparison)
        if match := re.fullmatch(r"/v1/files/([^/]+)(/content)?", path):
            return self._file(match[1], bool(match[2]))
        if match := re.fullmatch(r"/v1/jobs/([^/]+)(/[a-z]+)?", path):
            return self._job(match[1], match[2], query, body)
        return _error(404, f"there is no {path}", "not_found")

    def _upload(self, body: bytes) -> dict[str, Any]:
        header = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        parts = {part.get_param("name", header="content-disposition"): part for part in _parts(header + body)}
        file_id = f"file-{len(self.fake.files)}"
        content = parts["file"].get_payload(decode=True)
        assert isinstance(content, bytes)
        self.fake.contents[file_id] = content
        self.fake.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "filename": parts["file"].get_filename(),
            "purpose": str(parts["purpose"].get_payload()),
        }
        return self.fake.files[file_id]

    def _create(self, body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        self.fake.bodies.append(body)
        key = self.headers.get("idempotency-key") or ""
        if body.get("model") == "nonesuch":
            return _error(404, "there is no model 'nonesuch'", "model_not_found", "model")
        if body.get("model") == "lonely" and "tier" in body:
            return _error(400, "model lonely has no `tier` fast, nor any other", "tier_not_found", "tier")
        if key not in self.fake.keys:
            self.fake.keys[key] = create(self.fake, body)["id"]
        return _json(202, self.fake.jobs[self.fake.keys[key]])

    def _file(self, file_id: str, content: bool) -> tuple[int, bytes, dict[str, str]]:
        if file_id not in self.fake.files:
            return _error(404, f"there is no file {file_id}", "not_found")
        if self.command == "DELETE":
            del self.fake.files[file_id]
            return _json(200, {"id": file_id, "object": "file", "deleted": True})
        if not content:
            return _json(200, self.fake.files[file_id])
        whole = self.fake.contents[file_id]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        if wanted is None:
            return 200, whole, {}
        begin = int(wanted[1])
        if begin >= len(whole):
            return _error(416, "nothing is there", "range_not_satisfiable")
        return 206, whole[begin:], {"content-range": f"bytes {begin}-{len(whole) - 1}/{len(whole)}"}

    def _job(
        self, job_id: str, action: str | None, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        job = self.fake.jobs.get(job_id)
        if job is None:
            return _error(404, f"there is no job {job_id}", "not_found")
        if self.command == "DELETE":
            if job["status"] == "in_progress":
                return _error(409, f"job {job_id} has not ended", "job_not_final")
            del self.fake.jobs[job_id]
            return _json(200, {"id": job_id, "object": "job", "deleted": True})
        if action in ("/retry", "/clone"):
            return self._repeat(job, action, body)
        if action == "/cancel":
            job["status"] = "cancelled"
            settle(self.fake, job)
        elif action in ("/pause", "/resume"):
            job["paused"] = action == "/pause"
        elif action == "/results":
            return self._results(job, query)
        elif action == "/audit":
            return _json(200, self._audit(job_id))
        else:
            self.fake.looks[job_id] += 1
            settle(self.fake, job)
        return _json(200, job)

    def _repeat(self, parent: dict[str, Any], action: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """What failed is mended when it is retried, so that a retry ends well."""
        said = json.loads(body)
        self.fake.bodies.append(said)
        lines = [line for line in self.fake.lines[parent["id"]] if line["status"] == "failed" or action == "/clone"]
        if not lines:
            return _error(409, f"every item of job {parent['id']} succeeded", "nothing_to_retry")
        key = self.headers.get("idempotency-key") or ""
        if key not in self.fake.keys:
            inputs = [{"custom_id": line["custom_id"], "text": "again"} for line in lines]
            self.fake.keys[key] = create(self.fake, {"inputs": inputs, **said, "parent_id": parent["id"]})["id"]
        return _json(202, self.fake.jobs[self.fake.keys[key]])

    def _audit(self, job_id: str) -> dict[str, Any]:
        """A job whose text has `FAIL` in it fails its audit too."""
        found = sum(line["status"] == "succeeded" for line in self.fake.lines[job_id])
        total = len(self.fake.lines[job_id])
        check = {"name": "one_result_per_item", "ok": found == total, "expected": {"n": total}, "found": {"n": found}}
        return {"object": "audit", "job_id": job_id, "ok": check["ok"], "checks": [check]}

    def _results(self, job: dict[str, Any], query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if query.get("order") == "finished":
            # A look at the results is a look at the job: a follower sees it end without asking for the job.
            self.fake.looks[job["id"]] += 1
            settle(self.fake, job)
        key = "seq" if query.get("order") == "finished" else "index"
        after = int(query.get("after", -1))
        lines = [line for line in finished_lines(self.fake, job) if line[key] > after]
        headers = {"x-bushel-complete": str(job["status"] != "in_progress").lower()}
        if query.get("format") == "txt":
            return 200, b"".join((line["output"] or {}).get("text", "").encode() + b"\n" for line in lines), headers
        if query.get("include") == "input":
            lines = [{**line, "input": {"text": f"input {line['index']}"}} for line in lines]
        return 200, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines), headers

    def _error(self, status: int, message: str, code: str) -> None:
        self._send(*_error(status, message, code))

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "req_1")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def _parts(message: bytes) -> list[Any]:
    return list(BytesParser().parsebytes(message).get_payload())


def _json(status: int, content: object) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(content).encode(), {"content-type": "application/json"}


def _error(status: int, message: str, code: str, param: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    return _json(status, {"error": {"message": message, "type": "invalid", "param": param, "code": code}})


def _page(rows: list[dict[str, Any]], query: dict[str, str], size: int = 2) -> dict[str, Any]:
    ids = [row["id"] for row in rows]
    begin = ids.index(query["after"]) + 1 if "after" in query else 0
    data = rows[begin : begin + size]
    return {"object": "list", "data": data, "has_more": begin + size < len(rows)}
