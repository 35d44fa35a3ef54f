"""What the documents and examples say, compared with what the code says."""

import csv
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from db.states import NEXT_CHUNK, NEXT_JOB, ChunkState, JobStatus
from models.params import check
from models.registry import BUILTIN, load

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "docs/adr").glob("*.md"))
Arrows = set[tuple[str, str]]
Moves = Mapping[Any, frozenset[Any]]

# Pictures


def drawn() -> list[Arrows]:
    """The arrows of each state diagram, in the order of the page."""
    diagrams = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", ARCHITECTURE, re.DOTALL)
    return [set(re.findall(r"^ +(\S+) --> (\S+)$", diagram, re.MULTILINE)) for diagram in diagrams]


def explained() -> list[Arrows]:
    """The arrows that have a sentence, table by table."""
    row = re.compile(r"^\| (?:`(\w+)`)? *\| `(\w+)` \| [A-Z]", re.MULTILINE)
    tables = ARCHITECTURE.split("| from | to | when |\n|---|---|---|\n")[1:]
    return [{(start or "[*]", end) for start, end in row.findall(table)} for table in tables]


def legal(moves: Moves) -> Arrows:
    return {(now.value, wanted.value) for now, wanteds in moves.items() for wanted in wanteds}


@pytest.mark.parametrize(
    ("place", "moves", "first", "kind"),
    [(0, NEXT_JOB, "validating", JobStatus), (1, NEXT_CHUNK, "ready", ChunkState)],
    ids=["job", "chunk"],
)
def test_the_state_diagram_is_the_one_the_code_follows(
    place: int, moves: Moves, first: str, kind: type[StrEnum]
) -> None:
    final = {state.value for state in kind if not moves[state]}

    assert drawn()[place] == legal(moves) | {("[*]", first)} | {(state, "[*]") for state in final}


@pytest.mark.parametrize("place", [0, 1], ids=["job", "chunk"])
def test_every_arrow_has_a_sentence(place: int) -> None:
    assert explained()[place] == {(start, end) for start, end in drawn()[place] if end != "[*]"}


def test_the_architecture_page_points_at_files_that_exist() -> None:
    named = set(re.findall(r"`((?:api|cli|db|workers|models|docs)/[\w./]+)`", ARCHITECTURE))
    linked = set(re.findall(r"\]\((adr/[\w.-]*)\)", ARCHITECTURE))

    assert named and linked
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert [path for path in sorted(linked) if not (ROOT / "docs" / path).exists()] == []


# Decisions


@pytest.mark.parametrize("record", RECORDS, ids=[record.stem for record in RECORDS])
def test_a_decision_has_its_four_parts_on_half_a_page(record: Path) -> None:
    text = record.read_text(encoding="utf-8")

    assert text.startswith(f"# {int(record.name[:4])}. ")
    assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) == [
        "Situation",
        "Choice",
        "What we gave up",
        "When to look again",
    ]
    assert len(text.split()) < 350


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))


# Examples


def sentences() -> dict[str, list[str]]:
    with (ROOT / "examples/sentences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (ROOT / "examples/sentences.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "txt": (ROOT / "examples/sentences.txt").read_text(encoding="utf-8").splitlines(),
        "csv": [row["text"] for row in rows],
        "jsonl": [json.loads(line)["text"] for line in lines],
    }


@pytest.mark.parametrize("name", ["txt", "csv", "jsonl"])
def test_an_example_has_enough_different_sentences_of_varied_length(name: str) -> None:
    texts = sentences()[name]
    lengths = {len(text.split()) for text in texts}

    assert len(texts) == len(set(texts)) >= 240
    assert min(lengths) <= 3 and max(lengths) >= 20 and len(lengths) >= 12
    assert all(text == text.strip() and text for text in texts)


def test_each_example_has_sentences_of_its_own() -> None:
    every = sentences()

    for name, texts in every.items():
        others = {text for other, theirs in every.items() if other != name for text in theirs}
        assert len(set(texts) - others) >= 80


def test_the_csv_example_shows_what_csv_can_hold() -> None:
    with (ROOT / "examples/sentences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    assert list(rows[0]) == ["id", "topic", "text", "note"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(None not in row and None not in row.values() for row in rows)
    assert any("," in row["text"] for row in rows)
    assert any('"' in row["text"] for row in rows)
    assert any(not row["text"].isascii() for row in rows)
    assert any("\n" in row["note"] for row in rows)


def test_the_jsonl_example_has_ids_and_parameters_that_the_starter_model_honours() -> None:
    lines = [json.loads(line) for line in (ROOT / "examples/sentences.jsonl").read_text(encoding="utf-8").splitlines()]
    model = load([BUILTIN]).get("translation-balanced")
    with_params = [line for line in lines if "params" in line]

    assert len({line["custom_id"] for line in lines}) == len(lines)
    assert 3 <= len(with_params) <= 20
    assert [
        problem for line in with_params for problem in check(line["params"] | {"target_lang": "de"}, model)[1]
    ] == []
