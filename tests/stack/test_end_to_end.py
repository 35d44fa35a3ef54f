"""Files and requests through HTTP, PostgreSQL, Valkey, Celery and real small models, to the result."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.stack.valkey import Valkey
from tests.conftest import fresh_database
from tests.models import make_bart, make_causal, make_marian, make_t5
from tests.stack.conftest import Stack, built

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "models"
ROADS = (
    "We present an algorithm that finds shortest paths in large road networks. It preprocesses the graph once and "
    "answers queries in microseconds. Experiments on the road network of Europe show a speedup of four orders of "
    "magnitude."
)


def entry(name: str, task: str, source: Path, engine: str, more: str = "") -> str:
    return f'[models.{name}]\ntask = "{task}"\nsource = "{source}"\nengine = "{engine}"\n{more}\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: str, valkey: Valkey) -> Iterator[Stack]:
    """One API and one worker with a model of each kind: the starter model, and tiny ones with random weights."""
    made = tmp_path_factory.mktemp("models")
    many = 'source_languages = ["en"]\ntarget_languages = ["deu", "fra"]\nprefix = ">>{target_lang}<< "'
    short = "defaults = { max_new_tokens = 12 }"
    german = 'quantization = "int8"\nprefix = ">>de<< "\ndefault = true'
    registry = [
        entry("starter", "translation", MODELS / "translation-best", "ctranslate2", german),
        entry("summarizer", "summarization", MODELS / "summarization-best", "ctranslate2", 'quantization = "int8"'),
        entry("marian-ct2", "translation", make_marian(made / "marian"), "ctranslate2", f"{many}\n{short}"),
        entry("marian-torch", "translation", made / "marian", "transformers", f"{many}\n{short}"),
        entry("bart-ct2", "summarization", make_bart(made / "bart"), "ctranslate2", f"{short}\ndefault = true"),
        entry("t5-torch", "summarization", make_t5(made / "t5"), "transformers", short),
        entry("chat-ct2", "generation", make_causal(made / "chat"), "ctranslate2", f"{short}\ndefault = true"),
        entry("chat-torch", "generation", made / "chat", "transformers", short),
    ]
    with (
        fresh_database(postgres) as database_url,
        built(tmp_path_factory.mktemp("service"), database_url, valkey) as stack,
    ):
        stack.registry.write_text("\n".join(registry))
        stack.start_api()
        stack.start_worker(BUSHEL_MAX_LOADED_MODELS="8")
        yield stack


def texts(stack: Stack, job_id: str) -> list[str]:
    return [found["output"]["text"] for found in stack.results(job_id)]


def test_the_starter_model_translates(service: Stack) -> None:
    job_id = service.submit(inputs=["Good morning!", "I am hungry.", "Where is the station?"])

    assert service.finished(job_id, 120)["counts"]["succeeded"] == 3
    found = texts(service, job_id)
    assert found[0].startswith("Guten Morgen")
    assert "Hunger" in found[1] or "hungrig" in found[1]
    assert "Bahnhof" in found[2] or "Station" in found[2]


@pytest.mark.parametrize("model", ["marian-ct2", "marian-torch"])
def test_translation_into_a_chosen_language(service: Stack, model: str) -> None:
    body = {"task": "translation", "model": model, "inputs": [f"the cat is number {n}" for n in range(20)]}
    unnamed = service.http.post("/v1/jobs", json=body)
    unknown = service.http.post("/v1/jobs", json=body | {"params": {"target_lang": "xx"}})
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "params.target_lang")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "params.target_lang")

    job_id = service.submit(model=model, inputs=body["inputs"], params={"target_lang": "fra"})

    assert service.finished(job_id, 120)["counts"]["succeeded"] == 20


def test_the_starter_summarizer_makes_a_line_of_an_abstract(service: Stack) -> None:
    job_id = service.submit(task="summarization", model="summarizer", inputs=[ROADS])

    assert service.finished(job_id, 120)["counts"]["succeeded"] == 1
    [line] = texts(service, job_id)
    assert "Shortest Path" in line and len(line) < 100


@pytest.mark.parametrize("model", ["bart-ct2", "t5-torch"])
def test_summarization(service: Stack, model: str) -> None:
    documents = [" ".join(f"sentence {n} of the document." for n in range(count)) for count in (1, 4, 8)]
    job_id = service.submit(task="summarization", model=model, inputs=documents, long_input="truncate")

    job = service.finished(job_id, 120)

    assert job["counts"]["succeeded"] == 3
    assert job["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("model", ["chat-ct2", "chat-torch"])
def test_generation_from_prompts_and_chats(service: Stack, model: str) -> None:
    chat = {"messages": [{"role": "user", "content": "the cat"}], "custom_id": "chat"}
    job_id = service.submit(
        task="generation", model=model, inputs=["the cat", chat, {"text": "a dog", "params": {"max_new_tokens": 3}}]
    )

    assert service.finished(job_id, 120)["counts"]["succeeded"] == 3
    found = service.results(job_id)
    assert [one["custom_id"] for one in found] == ["input-1", "chat", "input-3"]
    assert found[2]["usage"]["output_tokens"] <= 3
    # The template makes the chat a longer prompt than its bare text.
    assert found[1]["usage"]["input_tokens"] > found[0]["usage"]["input_tokens"]


def test_both_engines_agree_on_greedy_output(service: Stack) -> None:
    inputs = [f"the cat is number {n}" for n in range(10)]
    jobs = [
        service.submit(model=model, inputs=inputs, params={"target_lang": "deu", "num_beams": 1})
        for model in ("marian-ct2", "marian-torch")
    ]

    for job_id in jobs:
        service.finished(job_id, 120)
    first, second = (texts(service, job_id) for job_id in jobs)
    assert sum(one == other for one, other in zip(first, second, strict=True)) >= 9


SENTENCES = ["Good morning!", "I am hungry.", "It is late.", "Thank you very much."]


@pytest.fixture(scope="module")
def answers(service: Stack) -> list[str]:
    """The same sentences inline, to compare every file format with."""
    job_id = service.submit(inputs=SENTENCES)
    service.finished(job_id, 120)
    return texts(service, job_id)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_file_of_each_format_comes_back_in_its_format(
    service: Stack, answers: list[str], kind: str, packed: bool
) -> None:
    data = _file(kind)
    file_id = service.upload(f"in.{kind}{'.gz' if packed else ''}", gzip.compress(data) if packed else data)
    job_id = service.submit(input_file_id=file_id)

    job = service.finished(job_id)

    body = service.http.get(f"/v1/files/{job['output_file_id']}/content").content
    assert _texts(kind, body) == answers
    assert job["error_file_id"] is None
    assert _texts(kind, service.http.get(f"/v1/jobs/{job_id}/results", params={"format": kind}).content) == answers


def _file(kind: str) -> bytes:
    if kind == "txt":
        return "".join(f"{text}\r\n" for text in SENTENCES).encode()
    if kind == "jsonl":
        return "".join(
            json.dumps({"custom_id": f"c{n}", "text": text}) + "\n" for n, text in enumerate(SENTENCES)
        ).encode()
    return ("topic,text\n" + "".join(f'"a, b","{text}"\n' for text in SENTENCES)).encode()


def _texts(kind: str, body: bytes) -> list[str]:
    if kind == "txt":
        return body.decode().splitlines()
    if kind == "jsonl":
        return [json.loads(line)["output"]["text"] for line in body.splitlines()]
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert {row["topic"] for row in rows} == {"a, b"}
    return [row["output"] for row in rows]


def test_results_are_readable_while_the_job_runs_and_never_missed(service: Stack) -> None:
    job_id = service.submit(inputs=[f"This is sentence number {n}." for n in range(400)])
    seen: list[dict[str, Any]] = []
    complete = False
    while not complete:
        after = seen[-1]["seq"] if seen else 0
        answer = service.http.get(
            f"/v1/jobs/{job_id}/results", params={"order": "finished", "after": after, "limit": 50}
        )
        page = [json.loads(line) for line in answer.content.splitlines()]
        seen += page
        complete = answer.headers["x-bushel-complete"] == "true" and not page

    assert [one["seq"] for one in seen] == list(range(1, 401))
    assert sorted(one["index"] for one in seen) == list(range(400))


def test_a_file_with_bad_lines_reports_every_one(service: Stack) -> None:
    file_id = service.upload("bad.jsonl", b'{"text": "Good morning!"}\n{"text": \n{"text": 7}\n')

    strict = service.finished(service.submit(input_file_id=file_id))
    lenient_id = service.submit(input_file_id=file_id, on_error="skip")
    lenient = service.finished(lenient_id)

    assert strict["status"] == "failed"
    assert [problem["line"] for problem in strict["errors"]["data"]] == [2, 3]
    assert lenient["status"] == "completed"
    assert [found["status"] for found in service.results(lenient_id)] == ["succeeded", "failed", "failed"]


def test_a_dry_run_estimates_and_leaves_nothing(service: Stack) -> None:
    job = service.finished(service.submit(inputs=SENTENCES, dry_run=True))

    assert job["status"] == "completed" and job["counts"]["total"] == 0
    assert job["estimate"]["items"] == 4 and job["estimate"]["input_tokens"] > 4


def test_long_input_is_an_error_unless_truncation_is_asked_for(service: Stack) -> None:
    long = "This is a sentence. " * 200
    strict_id = service.submit(inputs=[long, "Good morning!"])
    lenient_id = service.submit(inputs=[long], long_input="truncate")

    assert service.finished(strict_id)["counts"] | {"total": 2} == service.job(strict_id)["counts"]
    first, second = service.results(strict_id)
    assert first["error"]["code"] == "input_too_long" and second["status"] == "succeeded"
    service.finished(lenient_id)
    [cut] = service.results(lenient_id)
    assert cut["status"] == "succeeded" and cut["output"]["truncated_tokens"] > 0
