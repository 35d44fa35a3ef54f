"""Scores of outputs against references: from the input file to the job's row and its report."""

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from db import children, jobs, reports, steps
from db.errors import LeaseLost
from db.recording import NewResult, record
from db.states import Outcome
from models.registry import Registry
from models.spec import EngineKind, ModelSpec, Task
from tests.ledger import ECHO, Ledger, json_lines
from tests.pipeline import ended, running, spec
from workers.finalize import Finalize

PAIRS = [
    ("the old cat sees a small green house", ["the old cat sees the small green house"]),
    ("a dog likes the river and the tree", ["a dog loves the river and the tree", "the dog likes rivers and trees"]),
    ("nothing of this is right at all", ["but every word of it was wrong"]),
]


def referenced(ledger: Ledger, job_id: str) -> list[tuple[str, list[str] | None]]:
    rows = ledger.rows("SELECT custom_id, reference FROM items WHERE job_id = :job ORDER BY idx", job=job_id)
    return [(row.custom_id, row.reference) for row in rows]


def pair_lines(pairs: Sequence[tuple[str, list[str]]] = PAIRS) -> bytes:
    return json_lines(*({"text": text, "reference": references} for text, references in pairs))


def echoed(ledger: Ledger, data: bytes, format: dict[str, Any] | None = None, **fields: Any) -> Any:
    """The job after the echo engine has answered every input with itself."""
    job_id = ledger.submit(data, format or {"type": "jsonl"}, **fields)
    assert ledger.ingest(job_id)
    with running(ledger, *ledger.registry.all()):
        return ended(ledger, job_id)


def report_of(ledger: Ledger, job: Any) -> tuple[reports.Header, list[reports.ReportLine]]:
    header, lines = reports.read(BytesIO(ledger.read(job.report_file_id)))
    return header, list(lines)


# In


@pytest.mark.parametrize(
    ("data", "format", "expected"),
    [
        pytest.param(
            json_lines({"text": "a", "reference": "A"}, {"text": "b", "reference": ["B", "bb"]}, "c"),
            {"type": "jsonl"},
            [["A"], ["B", "bb"], None],
            id="our own objects",
        ),
        pytest.param(
            json_lines({"t": "a", "ref": "A"}, {"t": "b", "ref": ["B", "bb"]}, {"t": "c"}, {"t": "d", "ref": None}),
            {"type": "jsonl", "text_column": "t", "reference_column": "ref"},
            [["A"], ["B", "bb"], None, None],
            id="other objects",
        ),
        pytest.param(
            json_lines({"text": "a", "ref": "A"}),
            {"type": "jsonl", "reference_column": "ref"},
            [["A"]],
            id="other objects, our text",
        ),
        pytest.param(
            b'text,ref\na,A\nb,\nc," "\nd,"D, d"\n',
            {"type": "csv", "reference_column": "ref"},
            [["A"], None, None, ["D, d"]],
            id="a column",
        ),
        pytest.param(
            b"A\ta\nB\tb\n",
            {"type": "csv", "delimiter": "\t", "has_header": False, "text_column": "2", "reference_column": "1"},
            [["A"], ["B"]],
            id="a numbered column",
        ),
    ],
)
def test_references_are_kept_with_their_items(
    ledger: Ledger, data: bytes, format: dict[str, Any], expected: list[list[str] | None]
) -> None:
    job_id = ledger.submit(data, format)

    assert ledger.ingest(job_id)

    assert ledger.job(job_id).errors is None
    assert [references for _, references in referenced(ledger, job_id)] == expected
    assert ledger.job(job_id).referenced == sum(each is not None for each in expected)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        pytest.param(5, "invalid_reference", id="a number"),
        pytest.param([], "invalid_reference", id="an empty list"),
        pytest.param(["a"] * 17, "invalid_reference", id="too many"),
        pytest.param(["a", None], "invalid_reference", id="one that is none"),
        pytest.param(" ", "empty_reference", id="empty"),
        pytest.param(["x" * 60_000] * 2, "reference_too_long", id="too long together"),
        pytest.param("a\0", "invalid_character", id="with a NUL"),
    ],
)
def test_a_bad_reference_is_a_located_problem(ledger: Ledger, reference: object, code: str) -> None:
    job_id = ledger.submit(json_lines("good", {"text": "bad", "reference": reference}), {"type": "jsonl"})

    ledger.ingest(job_id)

    job = ledger.job(job_id)
    assert job.status == "failed"
    assert [(found["line"], found["code"], found["param"]) for found in job.errors["data"]] == [(2, code, "reference")]


def test_a_bad_reference_in_a_cell_says_which_cell(ledger: Ledger) -> None:
    job_id = ledger.submit(b"text,ref\na," + b"x" * 100_001 + b"\n", {"type": "csv", "reference_column": "ref"})

    ledger.ingest(job_id)

    [found] = ledger.job(job_id).errors["data"]
    assert (found["line"], found["code"]) == (2, "reference_too_long") and "(cell 2)" in found["message"]


def test_a_reference_column_that_is_not_there_fails_the_job(ledger: Ledger) -> None:
    table = ledger.submit(b"text,reference\na,A\n", {"type": "csv", "reference_column": "ref"})
    objects = ledger.submit(json_lines({"text": "a", "reference": "A"}), {"type": "jsonl", "reference_column": "ref"})

    for job_id, code in ((table, "missing_column"), (objects, "missing_reference")):
        ledger.ingest(job_id)

        job = ledger.job(job_id)
        [found] = job.errors["data"]
        assert (job.status, found["code"], found["param"]) == ("failed", code, "ref")


@pytest.mark.parametrize("column", ["text_column", "id_column", "reference_column"])
def test_a_number_beyond_the_last_column_fails_the_job(ledger: Ledger, column: str) -> None:
    job_id = ledger.submit(b"a,b\nc,d\n", {"type": "csv", "has_header": False, "text_column": "1", column: "3"})

    ledger.ingest(job_id)

    job = ledger.job(job_id)
    [found] = job.errors["data"]
    assert (job.status, found["code"], found["line"]) == ("failed", "missing_column", 1)
    assert "3" in found["message"] and "2" in found["message"]


def test_equal_inputs_keep_references_of_their_own(ledger: Ledger) -> None:
    data = json_lines(*({"text": "same", "reference": reference} for reference in ("same", "other", "same")))

    job = echoed(ledger, data)

    assert ledger.rows("SELECT same_as FROM items ORDER BY idx")[1].same_as == 0
    assert [references for _, references in referenced(ledger, job.id)] == [["same"], ["other"], ["same"]]
    scores = [line.scores["chrf"] for line in report_of(ledger, job)[1]]
    assert scores[0] == scores[2] == 100 and scores[1] < 50


def test_an_ingest_that_starts_over_counts_references_once(ledger: Ledger) -> None:
    job_id = ledger.submit(pair_lines(), {"type": "jsonl"}, dry_run=True)

    assert ledger.ingest(job_id)

    assert ledger.job(job_id).referenced == 0
    ledger.finalize(job_id)
    job = ledger.job(job_id)
    assert (job.status, job.scores, job.report_file_id) == ("completed", None, None)


# Out


def test_the_scores_are_sacrebleus_own(ledger: Ledger) -> None:
    job = echoed(ledger, pair_lines())

    outputs = [text for text, _ in PAIRS]
    streams = [[references[0] for _, references in PAIRS], [None, PAIRS[1][1][1], None]]
    bleu, chrf = BLEU(), CHRF()
    found = job.scores["metrics"]
    assert found["bleu"]["score"] == pytest.approx(bleu.corpus_score(outputs, streams).score, abs=1e-4)
    assert found["chrf"]["score"] == pytest.approx(chrf.corpus_score(outputs, streams).score, abs=1e-4)
    assert found["bleu"]["signature"] == f"bleu|{bleu.get_signature()}"
    assert all(each["low"] <= each["score"] <= each["high"] for each in found.values())
    assert (job.scores["scored"], job.scores["unscored"]) == (3, 0)
    assert job.scores["copied_whole"] == 1.0 and job.scores["copied_words"] is None
    assert 0.9 < job.scores["length_ratio"] < 1.1


def test_the_report_has_the_scores_and_a_line_for_every_scored_item(ledger: Ledger) -> None:
    data = json_lines(
        {"custom_id": "x", "text": "a b c", "reference": "a b c"}, "no reference", {"text": "d", "reference": "e"}
    )

    job = echoed(ledger, data)

    header, lines = report_of(ledger, job)
    assert (header.job_id, header.task, header.model, header.scores) == (job.id, "translation", "echo", job.scores)
    assert [(line.custom_id, line.index, line.line) for line in lines] == [("x", 0, 1), ("line-3", 2, 3)]
    assert lines[0].scores == {"bleu": 100, "chrf": 100}
    assert lines[0].references == reports.digest(["a b c"])
    assert {name: len(stats) for name, stats in lines[0].numbers.items()} == {"bleu": 10, "chrf": 18}
    [file] = ledger.rows("SELECT * FROM files WHERE id = :id", id=job.report_file_id)
    assert (file.filename, file.purpose) == (f"{job.id}_report.jsonl", "batch_output")


@pytest.mark.parametrize("task", ["summarization", "generation"])
def test_other_tasks_are_scored_by_rouge_and_chrf(ledger: Ledger, task: str) -> None:
    ledger.registry = Registry([spec_of(Task(task))])

    job = echoed(ledger, pair_lines(), task=task, model="echo-other")

    assert sorted(job.scores["metrics"]) == ["chrf", "rouge1", "rouge2", "rougeL"]
    assert job.scores["copied_words"] == 1.0 and job.scores["copied_whole"] is None


def spec_of(task: Task) -> ModelSpec:
    return ModelSpec("echo-other", task, ECHO.source, EngineKind.ECHO, default=True)


@pytest.mark.parametrize(
    ("languages", "tokenizer"),
    [(["zh"], "zh"), (["de", "zh"], "13a"), (["th"], "char"), (["de"], "13a")],
    ids=lambda value: "+".join(value) if isinstance(value, list) else value,
)
def test_words_are_cut_as_the_target_language_wants(ledger: Ledger, languages: list[str], tokenizer: str) -> None:
    codes = ("de", "zh", "th")
    ledger.registry = Registry(
        [ModelSpec("echo-many", Task.TRANSLATION, ECHO.source, EngineKind.ECHO, target_languages=codes)]
    )
    data = json_lines(
        *({"text": "a b", "reference": "a b", "params": {"target_lang": language}} for language in languages)
    )

    job = echoed(ledger, data, model="echo-many")

    assert f"|tok:{tokenizer}" in job.scores["metrics"]["bleu"]["signature"]


def test_items_that_failed_are_told_apart_and_the_rest_is_scored(ledger: Ledger) -> None:
    data = pair_lines([*PAIRS, ("[[fail]] this one", ["this one"])]) + json_lines({"text": "", "reference": "x"})
    ledger.registry = Registry([spec()])

    job = echoed(ledger, data, on_error="skip")

    assert ledger.counts(job.id) == {"succeeded": 3, "failed": 2}
    # A refused line is no item with references: nothing of it was accepted.
    assert (job.referenced, job.scores["scored"], job.scores["unscored"]) == (4, 3, 1)
    assert len(report_of(ledger, job)[1]) == 3


def test_without_an_output_to_score_there_are_no_scores(ledger: Ledger) -> None:
    ledger.registry = Registry([spec()])

    job = echoed(ledger, json_lines({"text": "[[fail]]", "reference": "x"}, "fine"))

    assert (job.status, job.scores, job.report_file_id) == ("completed", None, None)
    assert job.output_file_id is not None and job.error_file_id is not None


def test_a_job_without_references_has_neither_scores_nor_report(ledger: Ledger) -> None:
    job = echoed(ledger, json_lines("a", "b"))

    assert (job.referenced, job.scores, job.report_file_id) == (0, None, None)


def test_of_several_outputs_the_first_is_scored(ledger: Ledger) -> None:
    ledger.registry = Registry([spec_of(Task.GENERATION)])
    data = json_lines({"text": "a b c", "reference": "a b c"})
    job_id = ledger.submit(data, {"type": "jsonl"}, task="generation", model="echo-other")
    ledger.ingest(job_id)
    claim = ledger.claim(job_id, model="echo-other")
    assert claim
    output = {"text": "a b c", "finish_reason": "stop", "choices": [{"text": "a b c"}, {"text": "x"}]}
    with ledger.sessions.begin() as session:
        record(session, claim.chunk_id, claim.attempt, [NewResult(0, Outcome.SUCCEEDED, output)])

    assert ledger.finalize(job_id)

    assert ledger.job(job_id).scores["metrics"]["rouge1"]["score"] == 100


def test_of_an_endless_output_the_beginning_is_scored(ledger: Ledger) -> None:
    data = json_lines({"text": "a", "reference": "a b c d " * 12_500}, {"text": "b", "reference": "b"})
    job_id = ledger.submit(data, {"type": "jsonl"})
    ledger.ingest(job_id)
    claim = ledger.claim(job_id)
    assert claim
    endless = {"text": "a b c d " * 25_000, "finish_reason": "stop"}
    ledger.record(claim, output=endless)

    assert ledger.finalize(job_id)

    scores = ledger.job(job_id).scores
    assert (scores["scored"], scores["scored_in_part"]) == (2, 2)
    first, _ = report_of(ledger, ledger.job(job_id))[1]
    assert first.scores["chrf"] == 100
    assert scores["length_ratio"] > 1.9


@pytest.mark.parametrize("refused", [0, 1], ids=["alone", "beside refused lines"])
def test_outputs_that_cannot_be_scored_end_the_job_without_scores(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, refused: int
) -> None:
    job_id = ledger.submit(pair_lines() + b"[]\n" * refused, {"type": "jsonl"}, on_error="skip")
    ledger.ingest(job_id)
    while claim := ledger.claim(job_id):
        ledger.record(claim)
    # No input brings this in; it stands for whatever a library may stumble over.
    ledger.run("UPDATE items SET reference = '[5]' WHERE idx = 1")

    assert ledger.finalize(job_id)

    job = ledger.job(job_id)
    assert (job.status, job.scores, job.report_file_id) == ("completed", None, None)
    assert job.output_file_id is not None
    assert (job.errors["total"], len(job.errors["data"])) == (refused + 1,) * 2
    found = job.errors["data"][-1]
    assert (found["code"], found["line"], found["param"]) == ("scoring_failed", 2, None)
    [logged] = [record for record in caplog.records if getattr(record, "action", None) == "scoring_failed"]
    assert logged.exc_info is not None and logged.levelname == "ERROR"
    # The input, the output, and of the refused line the error file: no half of a report.
    assert sum(1 for path in ledger.folder.rglob("file-*")) == 2 + refused


# Again


def test_a_finalize_that_loses_its_lease_leaves_nothing_and_the_next_one_scores(ledger: Ledger) -> None:
    job_id = ledger.submit(pair_lines(), {"type": "jsonl"})
    ledger.ingest(job_id)
    while claim := ledger.claim(job_id):
        ledger.record(claim)

    class Usurped(Finalize):
        """Another process takes the step over while the report is written."""

        def _score(self, lease: steps.StepLease, ending: Any, written: Any) -> None:
            super()._score(lease, ending, written)
            ledger.run("UPDATE jobs SET step_attempt = step_attempt + 1, step_owner = 'other'")

    assert not Usurped(ledger.sessions, ledger.store, ledger.bell, "first").run(job_id)
    assert ledger.job(job_id).scores is None
    assert sum(1 for path in ledger.folder.rglob("file-*")) == 1

    ledger.run("UPDATE jobs SET step_owner = NULL, step_expires_at = NULL")
    assert ledger.finalize(job_id)

    assert ledger.job(job_id).scores["scored"] == 3
    assert len(ledger.rows("SELECT id FROM files WHERE purpose = 'batch_output'")) == 2


def test_a_stopping_process_gives_the_report_up(ledger: Ledger) -> None:
    from db.results import referenced as rows
    from workers.report import Subject, write_report

    job_id = ledger.submit(pair_lines(), {"type": "jsonl"})
    ledger.ingest(job_id)
    seen: list[int] = []

    def each() -> None:
        seen.append(1)
        raise LeaseLost("the process stops", 1)

    with pytest.raises(LeaseLost):
        write_report(
            rows(ledger.sessions, job_id), BytesIO(), Subject(job_id, "translation", "echo", frozenset()), each
        )
    assert seen == [1]


def test_children_carry_the_references_of_what_they_run(ledger: Ledger) -> None:
    ledger.registry = Registry([spec()])
    bad = json_lines({"custom_id": "bad", "text": "[[fail]] x", "reference": "x"})
    parent = echoed(ledger, pair_lines() + bad)

    with ledger.sessions.begin() as session:
        retry = children.retry(session, ledger.tenant, parent.id)
        clone = children.clone(session, ledger.tenant, parent.id)
        for new in (retry, clone):
            jobs.submit(session, ledger.tenant, new)
    for new in (retry, clone):
        assert ledger.ingest(new.id)

    assert referenced(ledger, retry.id) == [("bad", ["x"])]
    assert referenced(ledger, clone.id) == referenced(ledger, parent.id)


def test_deleting_a_job_buries_its_report(ledger: Ledger) -> None:
    job = echoed(ledger, pair_lines())

    with ledger.sessions.begin() as session:
        jobs.delete(session, ledger.tenant, job.id)

    [file] = ledger.rows("SELECT deleted_at FROM files WHERE id = :id", id=job.report_file_id)
    assert file.deleted_at is not None


def test_no_model_sees_a_reference(ledger: Ledger) -> None:
    job = echoed(ledger, json_lines({"text": "a b", "reference": "secret"}))

    output = ledger.read(job.output_file_id).decode()
    assert json.loads(output)["output"]["text"] == "a b" and "secret" not in output
