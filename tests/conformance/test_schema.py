"""Whatever a client sends, the answer is one that the OpenAPI document foretells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import Server
from tests.stack.conftest import Stack

pytestmark = pytest.mark.slow

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 25


def existing(stack: Stack) -> dict[str, str]:
    """Things that are there, so that not every made-up request ends at a 404."""
    file_id = stack.upload("in.jsonl", b'{"custom_id": "a", "method": "POST", "url": "/v1/translations", "body": {}}\n')
    batch = {"input_file_id": file_id, "endpoint": "/v1/translations", "completion_window": "24h"}
    upload = {"bytes": 3, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
    message = {"model": "echo", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}

    def made(path: str, body: object) -> str:
        answer = stack.http.post(path, json=body)
        assert answer.status_code in (200, 201, 202), answer.text
        return str(answer.json()["id"])

    return {
        "file_id": file_id,
        "job_id": stack.submit(inputs=["one", "two"]),
        "batch_id": made("/v1/batches", batch),
        "message_batch_id": made("/v1/messages/batches", {"requests": [{"custom_id": "a", "params": message}]}),
        "upload_id": made("/v1/uploads", upload),
        "webhook_id": made("/v1/webhooks", {"url": "https://example.com/hook"}),
        "model": "echo",
    }


@pytest.mark.timeout(500)
def test_no_made_up_request_gets_an_undocumented_answer(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invalid requests as well as valid ones, for every operation; a fixed seed, so that a failure can be repeated."""
    stack = server.stack
    parameters = "".join(f'"path.{name}" = "{value}"\n' for name, value in existing(stack).items())
    (tmp_path / "schemathesis.toml").write_text(f"[parameters]\n{parameters}")
    report = tmp_path / "report.json"
    command = [Path(sys.executable).parent / "schemathesis", "run", f"http://127.0.0.1:{stack.port}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {stack.key}", "--checks", CHECKS, "--mode", "all"]
    command += ["--max-examples", EXAMPLES, "--seed", 20261123, "--continue-on-failure", "--no-color"]
    command += ["--report-json-path", report]

    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, check=False)

    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(report.read_text())
    cases, operations = found["test_cases"], found["operations"]
    said = f"{operations['tested']} of {operations['total']} operations, {cases['generated']} requests"
    with capsys.disabled():
        sys.stdout.write(f"\nschemathesis: {said}, {cases['with_failures']} with failures\n")
    assert done.returncode == 0, done.stdout[-12_000:]
    assert operations["tested"] == operations["total"] and cases["generated"] > 50 * operations["total"]
