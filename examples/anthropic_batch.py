"""Send prompts with Anthropic's own SDK: `pip install anthropic`, start `bushel up`, run this with a model's name.

It needs a model for generation; `bushel models list` says whether there is one, models/registry.toml has entries.
"""

import sys
import time

from anthropic import Anthropic
from openai_batch import address

PROMPTS = ["Name three colours.", "What is a batch?", "Say hello in French."]


def main(model: str) -> None:
    url, key = address()
    client = Anthropic(base_url=url, api_key=key)
    batch = client.messages.batches.create(
        requests=[
            {
                "custom_id": f"prompt-{number}",
                "params": {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": prompt}]},
            }
            for number, prompt in enumerate(PROMPTS, start=1)
        ]
    )
    while batch.processing_status != "ended":
        time.sleep(0.5)
        batch = client.messages.batches.retrieve(batch.id)
    print(f"{batch.id} has ended: {batch.request_counts}")
    for line in client.messages.batches.results(batch.id):
        match line.result.type:
            case "succeeded":
                print(f"{line.custom_id}: {line.result.message.content[0].text}")
            case "errored":
                print(f"{line.custom_id}: {line.result.error.error.message}")
            case other:
                print(f"{line.custom_id}: {other}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/anthropic_batch.py MODEL")
    main(sys.argv[1])
