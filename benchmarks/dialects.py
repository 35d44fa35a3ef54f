"""What a line costs in another dialect: checking a request line, and writing an answer line.

Method. The same 20,000 short chat requests as lines of bytes, decoded and checked by each reader, and as many results
written by each writer, one thread, nothing stored. The peer is what servers do that are built on pydantic: the
request's body validated, and the answer built and dumped, through the `openai` package's own types (of a request it
leaves `messages` unread: they are an Iterable, which pydantic checks only when somebody draws from it). Ways alternate,
five rounds; medians, and ratios to the peer. Every answer of ours must be read back by the SDK's strict type first.

    python -m benchmarks.dialects [--lines 20000] [--rounds 5]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import msgspec
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from benchmarks import machine
from benchmarks.tables import markdown
from db.inputs import Refused
from db.lines import ResultRow
from dialects.reading import reader
from dialects.writing import writers

CHAT = "/v1/chat/completions"
JOB = "job_0mgcxk2l9h4t8v2c6y0q1w5r3a"
Way = Callable[[], object]


def bodies(count: int) -> list[dict[str, object]]:
    system = {"role": "system", "content": "Be brief."}
    return [
        {
            "model": "m",
            "messages": [system, {"role": "user", "content": f"Say in one sentence what the number {n} means to you."}],
            "max_tokens": 64,
            "temperature": 0,
        }
        for n in range(count)
    ]


def readers(count: int) -> dict[str, Way]:
    made = bodies(count)
    chat = [{"custom_id": f"r-{n}", "method": "POST", "url": CHAT, "body": body} for n, body in enumerate(made)]
    ours = [{"custom_id": f"r-{n}", "messages": body["messages"]} for n, body in enumerate(made)]
    theirs = [
        {"custom_id": f"r-{n}", "params": body | {"messages": body["messages"][1:]}} for n, body in enumerate(made)
    ]  # type: ignore[index]
    adapter: TypeAdapter[CompletionCreateParamsNonStreaming] = TypeAdapter(CompletionCreateParamsNonStreaming)
    return {
        "pydantic, the SDK's request type (peer)": lambda: [adapter.validate_json(raw) for raw in _raw(made)],
        "OpenAI chat line": _reading("openai", CHAT, _raw(chat)),
        "Anthropic request": _reading("anthropic", "/v1/messages", _raw(theirs)),
        "Bushel's own line": _reading("bushel", None, _raw(ours)),
    }


def _raw(values: list[dict[str, object]]) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def _reading(dialect: str, endpoint: str | None, lines: list[bytes]) -> Way:
    read, decode = reader(dialect, endpoint, "generation"), msgspec.json.Decoder().decode

    def run() -> None:
        for line in lines:
            try:
                found = read(decode(line))
            except Refused as exc:
                raise SystemExit(f"a good line was refused: {exc}") from exc
            if found.refusal:
                raise SystemExit(f"a good request was refused: {found.refusal}")

    return run


def rows(count: int) -> list[ResultRow]:
    said = {"messages": [], "request": {"model": "m"}}
    output = {"text": "It is a number, no more.", "finish_reason": "stop"}
    return [
        ResultRow(
            n, n + 1, f"r-{n}", n + 1, "succeeded", said, None, output,
            input_tokens=20, output_tokens=7, finished_at=1_790_000_000.0,
        )
        for n in range(count)
    ]  # fmt: skip


def writing(count: int) -> dict[str, Way]:
    made = rows(count)
    ours, own = writers("openai", CHAT, JOB), writers("openai", CHAT, JOB)
    assert ours is not None and own is not None
    answers = [json.loads(own[0].line(row))["response"]["body"] for row in made]
    for answer in answers:
        ChatCompletion.model_validate_json(json.dumps(answer), strict=True)

    def peer() -> None:
        for row, answer in zip(made, answers, strict=True):
            body = ChatCompletion(**answer).model_dump_json()
            json.dumps({"id": str(row.index), "custom_id": row.custom_id, "response": {"body": body}, "error": None})

    return {
        "pydantic, the SDK's answer type (peer)": peer,
        "OpenAI answer line": lambda: [ours[0].line(row) for row in made],
    }


def measure(ways: dict[str, Way], count: int, rounds: int) -> dict[str, float]:
    """Lines a second of each way, the median of rounds in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    return {name: count / statistics.median(all_of) for name, all_of in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(machine.describe(), file=sys.stderr)
    for title, ways in (("reading", readers(asked.lines)), ("writing", writing(asked.lines))):
        found = measure(ways, asked.lines, asked.rounds)
        peer = next(iter(found.values()))
        table = [[name, f"{speed:,.0f}", f"{speed / peer:.1f}"] for name, speed in found.items()]
        print(markdown([title, "lines/s", "x peer"], table) + "\n")


if __name__ == "__main__":
    main()
