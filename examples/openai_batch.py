"""Translate sentences with OpenAI's own SDK: `pip install openai`, start `bushel up`, run this.

Nothing here knows of Bushel but the address, the key and the endpoint.
"""

import json
import os
import sys
import time
from pathlib import Path

from openai import OpenAI

HERE = Path(__file__).parent
CLIENT_FILE = Path(".bushel/client.json")


def address() -> tuple[str, str]:
    """From the environment, or as `bushel up` left it for the command line."""
    if "BUSHEL_API_KEY" in os.environ:
        return os.environ.get("BUSHEL_URL", "http://127.0.0.1:8765"), os.environ["BUSHEL_API_KEY"]
    if not CLIENT_FILE.exists():
        sys.exit("set BUSHEL_URL and BUSHEL_API_KEY, or run this where `bushel up` runs")
    said = json.loads(CLIENT_FILE.read_text())
    return said["url"], said["api_key"]


def lines(sentences: list[str]) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"sentence-{number}",
                "method": "POST",
                "url": "/v1/translations",
                "body": {"input": sentence, "target_lang": "de"},
            }
        ).encode()
        + b"\n"
        for number, sentence in enumerate(sentences, start=1)
    )


def main() -> None:
    url, key = address()
    client = OpenAI(base_url=f"{url}/v1", api_key=key)
    sentences = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()[:20]
    file = client.files.create(file=("sentences.jsonl", lines(sentences)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/translations", completion_window="24h")  # type: ignore[arg-type]
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    if batch.errors and batch.errors.data:
        sys.exit("\n".join(f"line {error.line}: {error.message}" for error in batch.errors.data))
    print(f"{batch.id} is {batch.status}: {batch.request_counts}")
    for line in client.files.content(batch.output_file_id or "").text.splitlines():
        answer = json.loads(line)
        print(f"{answer['custom_id']}: {answer['response']['body']['data'][0]['text']}")


if __name__ == "__main__":
    main()
