"""`bushel models`, run as a user would."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.models import models
from models.registry import BUILTIN, load


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(models, arguments)


def test_the_list_is_data_on_stdout() -> None:
    listed = json.loads(run("list", "--json").stdout)

    assert [(each["name"], each["available"], each["default"]) for each in listed] == [
        ("generation-balanced", True, True),
        ("generation-best", True, False),
        ("summarization-balanced", True, True),
        ("summarization-best", True, False),
        ("translation-balanced", True, True),
        ("translation-best", True, False),
    ]
    assert "translation-balanced *" in run("list").stdout


def test_a_model_is_added_checked_and_removed(data: Path) -> None:
    added = run("add", "mine", "--task", "generation", "--engine", "echo", "--option", "transform=upper", "--default")
    assert (added.exit_code, added.stdout) == (0, "")

    checked = run("check", "mine", "--json")
    (report,) = json.loads(checked.stdout)
    assert (checked.exit_code, report["ok"], report["output"]) == (0, True, "ONCE UPON A TIME")
    assert report["limits"]["max_input"] == 1024 and report["recipe"]["engine"] == "echo"
    assert "ONCE UPON A TIME" in run("check", "mine").stdout

    assert run("remove", "mine").exit_code == 0
    assert "mine" not in run("list").stdout


def test_a_model_is_added_as_a_tier_and_listed_as_one() -> None:
    echo = ("--task", "generation", "--engine", "echo", "--family", "chats")

    assert run("add", "tall", *echo, "--tier", "best").exit_code == 0
    assert run("add", "short", *echo, "--tier", "fast").exit_code == 0
    again, alone = run("add", "other", *echo, "--tier", "fast"), run("add", "other", *echo)

    listed = {each["name"]: (each["family"], each["tier"]) for each in json.loads(run("list", "--json").stdout)}
    assert {name: listed[name] for name in ("tall", "short")} == {"tall": ("chats", "best"), "short": ("chats", "fast")}
    assert listed["translation-best"] == ("translation", "best")
    assert ["short", "generation", "fast"] in [line.split()[:3] for line in run("list").stdout.splitlines()]
    assert (again.exit_code, alone.exit_code) == (1, 1)
    assert "chats already has short as its fast" in again.stderr
    assert "tier: is missing" in alone.stderr


def test_values_keep_their_types_and_folders_their_place(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()

    run("add", "m", "--task", "summarization", "--source", "weights", "--param", "num_beams=4", "--param", "stop=END")

    (spec,) = [each for each in json.loads(run("list", "--json").stdout) if each["name"] == "m"]
    assert spec["source"] == str(tmp_path / "weights")
    assert spec["defaults"] == {"num_beams": 4, "stop": "END"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["check", "translation-balance"], "did you mean translation-balanced", id="unknown"),
        pytest.param(["pull", "nope"], "there is no model 'nope'", id="pull unknown"),
        pytest.param(["remove", "nope"], "has no model 'nope'", id="remove unknown"),
        pytest.param(["remove", "translation-balanced"], "comes with Bushel", id="remove builtin"),
        pytest.param(["add", "m", "--task", "translation", "--source", "o/n"], "revision: is missing", id="add"),
        pytest.param(
            ["add", "m", "--task", "generation", "--engine", "echo", "--param", "num_beam=4"], "num_beams", id="param"
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments: list[str], said: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_checking_a_model_that_cannot_be_loaded_fails_and_a_moving_revision_is_warned_of() -> None:
    run("add", "hub", "--task", "translation", "--source", "org/name", "--revision", "main")

    result = run("check", "hub")

    assert result.exit_code == 1
    assert "Warning: hub follows revision main" in result.stderr
    assert "bushel models pull hub" in result.stderr


def test_without_a_name_only_models_that_are_here_are_checked() -> None:
    run("add", "hub", "--task", "translation", "--source", "org/name", "--revision", "v1")
    here = {spec.name: spec.task for spec in load([BUILTIN]).all()}
    for name, task in here.items():
        run("add", name, "--task", task, "--engine", "echo")

    reports = json.loads(run("check", "--json").stdout)

    assert [report["model"] for report in reports] == list(here)


def test_an_embedding_model_is_checked_by_a_vector() -> None:
    assert run("add", "vectors", "--task", "embedding", "--engine", "echo").exit_code == 0

    (report,) = json.loads(run("check", "vectors", "--json").stdout)

    assert (report["ok"], report["output"]) == (True, "a vector of 8 numbers")
    assert report["tokens_per_second"] > 0


def test_a_schema_as_default_stays_the_text_that_it_is(data: Path) -> None:
    (data.parent / "m").mkdir()
    schema = '{"enum":[null,1]}'
    arguments = ["--task", "generation", "--engine", "transformers", "--source", "./m", "--param"]

    added = run("add", "held", *arguments, f"json_schema={schema}")

    assert added.exit_code == 0
    assert load([data / "models.toml"]).get("held").defaults == {"json_schema": schema}


def test_what_quantize_writes_is_refused_with_advice(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    folder.mkdir()
    for name in ("config.json", "model.bin"):
        (folder / name).write_text("{}")

    result = run("add", "small", "--task", "translation", "--source", str(folder))

    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "model.bin" in result.stderr and "--quantization int8" in result.stderr
    assert not (data / "models.toml").exists()
