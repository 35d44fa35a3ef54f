"""What people do first, and get wrong first: each must end in a plain sentence, and never cost them a file."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import main
from cli.main import run
from tests.cli.fake_bushel import FakeBushel, Fault
from tests.waiting import eventually

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeBushel]:
    with FakeBushel() as server:
        monkeypatch.setenv("BUSHEL_URL", server.url)
        monkeypatch.setenv("BUSHEL_API_KEY", "bsh_test")
        monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))
        monkeypatch.chdir(tmp_path)
        yield server


def write(name: str, text: str) -> Path:
    Path(name).write_text(text, "utf-8")
    return Path(name)


# Output files


@pytest.mark.parametrize("command", ["submit", "results", "follow"])
def test_a_job_that_failed_before_it_had_items_touches_no_output(
    fake: FakeBushel, command: str, capfd: Captured
) -> None:
    out = write("out.jsonl", "precious\n")
    write("a.txt", "INVALID\n")
    arguments = {
        "submit": ["submit", "a.txt", "-o", str(out)],
        "results": ["results", "job_0000", "-o", str(out)],
        "follow": ["results", "job_0000", "--follow", "-o", str(out)],
    }[command]
    if command != "submit":
        fake.add_job(["INVALID"])

    assert run(arguments) == 1

    err = capfd.readouterr().err
    assert out.read_text() == "precious\n"
    assert "nothing is written to out.jsonl" in err
    assert err.count("needs --to") == 1


def test_an_output_stays_until_the_new_one_is_whole(fake: FakeBushel) -> None:
    job_id = fake.add_job([f"text {number}" for number in range(50)])
    run(["status", job_id])
    out = write("out.jsonl", "precious\n")
    path = f"/v1/jobs/{job_id}/results"
    fake.state.faults += [Fault("GET", path, cut=1000), Fault("GET", path, status=500)]

    assert run(["results", job_id, "-o", str(out)]) == 3

    assert out.read_text() == "precious\n"
    assert [path.name for path in Path().iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("content", ["precious", "precious\n", '{"index": 0, "seq": 100, "status": "succeeded"}\n'])
def test_follow_never_goes_on_in_a_file_of_something_else(fake: FakeBushel, content: str, capfd: Captured) -> None:
    job_id = fake.add_job(["a", "b"])
    out = write("out.jsonl", content)

    assert run(["results", job_id, "--follow", "-o", str(out)]) == 2

    assert out.read_text() == content
    assert "holds something else than the results of job_0000" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("output", "said"),
    [
        pytest.param("nowhere/out.txt", "there is no folder nowhere", id="no folder"),
        pytest.param("folder", "folder is a folder", id="folder"),
        pytest.param("out.tsv", "comma-separated; name it .csv", id="tsv"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_sent(
    fake: FakeBushel, output: str, said: str, capfd: Captured
) -> None:
    Path("folder").mkdir()
    write("a.csv", "text\nhi\n")

    assert run(["submit", "a.csv", "-o", output]) == 2

    assert said in capfd.readouterr().err
    assert not fake.state.files and not fake.state.jobs


def test_results_that_could_not_be_written_can_be_got_again(fake: FakeBushel, capfd: Captured) -> None:
    write("a.txt", "one\n")
    fake.state.faults.append(Fault("GET", r"/v1/jobs/.*/results", status=400))

    assert run(["submit", "a.txt", "-o", "out.txt"]) == 2

    assert "`bushel results job_0000 -o out.txt` gets them" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "expected"), [("out.txt.gz", b"ONE\n"), ("out.gz", b"ONE\n")])
def test_an_output_named_gz_is_packed(name: str, expected: bytes) -> None:
    write("a.txt", "one\n")

    assert run(["submit", "a.txt", "-o", name]) == 0

    assert gzip.decompress(Path(name).read_bytes()) == expected


def test_following_into_gz_is_refused(fake: FakeBushel, capfd: Captured) -> None:
    assert run(["results", fake.add_job(["a"]), "--follow", "-o", "out.jsonl.gz"]) == 2
    assert "--follow cannot continue a .gz file" in capfd.readouterr().err


def test_a_download_replaces_a_file_only_by_force(fake: FakeBushel, capfd: Captured) -> None:
    write("a.txt", "theirs\n")
    run(["files", "upload", "a.txt"])
    write("a.txt", "mine\n")

    assert run(["files", "download", "file-0"]) == 2
    assert "a.txt exists; use -o FILE or --force" in capfd.readouterr().err
    assert Path("a.txt").read_text() == "mine\n"
    assert run(["files", "download", "file-0", "--force"]) == 0
    assert Path("a.txt").read_text() == "theirs\n"


# --data and --url


@pytest.mark.parametrize("place", ["before", "after"])
def test_models_honours_data_of_the_command_line(tmp_path: Path, place: str) -> None:
    data = ["--data", str(tmp_path / "mine")]
    command = ["models", "add", "m", "--task", "generation", "--engine", "echo"]

    assert run([*data, *command] if place == "before" else [*command, *data]) == 0

    assert (tmp_path / "mine" / "models.toml").exists()
    assert not (tmp_path / "none").exists()


def test_data_after_the_command_finds_the_server(
    fake: FakeBushel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BUSHEL_URL")
    monkeypatch.delenv("BUSHEL_API_KEY")
    write("client.json", json.dumps({"url": fake.url, "api_key": "bsh_test"}))

    assert run(["status", "--data", str(tmp_path)]) == 0
    assert run(["files", "list", "--data", str(tmp_path)]) == 0


def test_a_data_folder_without_a_server_is_said(monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.delenv("BUSHEL_URL")

    assert run(["--data", "empty", "status"]) == 2
    assert "empty has no client.json" in capfd.readouterr().err


def test_a_url_needs_no_scheme(fake: FakeBushel) -> None:
    assert run(["--url", fake.url.removeprefix("http://"), "status"]) == 0


def test_uploading_a_file_that_is_not_there_is_one_line(capfd: Captured) -> None:
    assert run(["files", "upload", "missing"]) == 2
    assert capfd.readouterr().err == "Error: there is no file missing\n"


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing"])
def test_a_model_s_folder_must_exist(source: str, tmp_path: Path, capfd: Captured) -> None:
    assert run(["models", "add", "m", "--task", "translation", "--source", source]) == 1
    assert f"there is no {source}" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_adding_a_model_says_that_up_must_be_restarted(capfd: Captured) -> None:
    run(["models", "add", "m", "--task", "generation", "--engine", "echo"])

    assert "must be restarted to serve it" in capfd.readouterr().err


# Tables


@pytest.mark.parametrize(
    ("header", "options", "delimiter"),
    [
        pytest.param("id,text", "", None, id="comma"),
        pytest.param("id;text", "", ";", id="semicolon"),
        pytest.param("id\ttext", "", "\t", id="tab"),
        pytest.param('"a,b";body', "--text-column body", ";", id="a comma inside"),
        pytest.param("id;text", "--delimiter |", "|", id="said"),
        pytest.param("id;text", "--delimiter tab", "\t", id="tab said"),
        pytest.param("1;hello", "--no-header", None, id="no header"),
    ],
)
def test_the_delimiter_is_the_one_said_or_the_header_s(
    fake: FakeBushel, header: str, options: str, delimiter: str | None, capfd: Captured
) -> None:
    write("a.csv", f"{header}\n1;2\n")

    run(["submit", "a.csv", *options.split()])

    form = fake.state.bodies[0]["format"]
    assert form.get("delimiter") == delimiter
    assert form.get("has_header") == (False if "--no-header" in options else None)
    assert ("is taken to be" in capfd.readouterr().err) == (delimiter is not None and "--delimiter" not in options)


@pytest.mark.parametrize("options", [["--delimiter", ";"], ["--no-header"]], ids=" ".join)
def test_lines_of_text_have_no_delimiter_or_header(options: list[str], capfd: Captured) -> None:
    write("a.txt", "x\n")

    assert run(["submit", "a.txt", *options]) == 2
    assert f"{options[0]} is for csv and tsv, not for txt" in capfd.readouterr().err


def test_what_the_server_advises_is_told_in_our_options(fake: FakeBushel, capfd: Captured) -> None:
    write("a.txt", "INVALID\n")

    run(["submit", "a.txt", "--wait"])

    assert "model upper needs --to (missing_column) - name it with --text-column, or set --on-error skip" in (
        capfd.readouterr().err
    )


# Failures


@pytest.mark.parametrize("has_file", [True, False], ids=["error file", "results"])
@pytest.mark.parametrize("command", [["status"], ["watch"]], ids=" ".join)
def test_the_first_failures_are_shown(fake: FakeBushel, command: list[str], has_file: bool, capfd: Captured) -> None:
    job_id = fake.add_job(["fine", *(["FAIL"] * 5)])
    if has_file:
        failed = [line for line in fake.state.lines[job_id] if line["status"] == "failed"]
        content = b"".join(json.dumps(line).encode() + b"\n" for line in failed)
        fake.state.files["file-e"] = {"id": "file-e", "filename": "e", "bytes": len(content)}
        fake.state.contents["file-e"] = content
        fake.state.jobs[job_id]["error_file_id"] = "file-e"

    assert run([*command, job_id]) == 1

    said = "".join(capfd.readouterr())
    assert [f"{number}: too_long: the text is too long" in said for number in range(1, 6)] == [True] * 3 + [False] * 2
    assert f"2 more failed; see all: bushel results {job_id}" in said
    asked = {path for _, path, _ in fake.state.requests}
    assert (f"/v1/jobs/{job_id}/results" in asked) == (not has_file)


@pytest.mark.parametrize("prefix", ["batch_", "msgbatch_"])
def test_a_batch_is_a_job(fake: FakeBushel, prefix: str, capfd: Captured) -> None:
    # Its error file is in the words of its API, which say nothing to us.
    job_id = fake.add_job(["FAIL"], error_file_id="file-e", dialect="openai")
    line = b'{"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 400}, "error": null}\n'
    fake.state.files["file-e"] = {"id": "file-e", "filename": "e", "bytes": len(line)}
    fake.state.contents["file-e"] = line

    assert run(["status", job_id.replace("job_", prefix)]) == 1
    assert "0: too_long: the text is too long" in capfd.readouterr().out
    assert run(["delete", job_id.replace("job_", prefix)]) == 0
    assert capfd.readouterr().err == f"{job_id} deleted\n"


def test_an_error_file_deleted_meanwhile_is_no_obstacle(fake: FakeBushel, capfd: Captured) -> None:
    job_id = fake.add_job(["FAIL"], error_file_id="file-gone")

    assert run(["status", job_id]) == 1
    assert "0: too_long: the text is too long" in capfd.readouterr().out


# Filters


def test_a_filter_that_waits_says_once_for_what(
    fake: FakeBushel, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n")))
    # Four seconds: it is silent for the first three.
    fake.state.polls_until_done = 20

    assert run(["translate", "--long-input", "truncate"]) == 0

    assert capfd.readouterr().err == "waiting: no worker serves upper (job_0000)\n"
    assert fake.state.bodies[0]["long_input"] == "truncate"


# Ctrl-C


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("results job_0000 --follow -o out", "the same command continues out", id="follow"),
        pytest.param("submit a.txt --watch -o out", "bushel results job_0001 -o out", id="submit"),
    ],
)
def test_ctrl_c_says_how_to_go_on(fake: FakeBushel, command: str, said: str) -> None:
    fake.state.polls_until_done = 1_000_000
    fake.add_job(["a"])
    write("a.txt", "x\n")
    job_id = "job_0000" if "follow" in command else "job_0001"
    arguments = [sys.executable, "-m", "cli.main", *command.split()]
    environment = os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=environment, text=True) as running:
        eventually(lambda: fake.state.looks.get(job_id, 0) >= 3)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)

    assert running.returncode == 130
    assert said in err


# delete, audit, help


def test_a_job_that_has_ended_can_be_deleted(fake: FakeBushel, capfd: Captured) -> None:
    fake.state.polls_until_done = 1
    job_id = fake.add_job(["a"])

    assert run(["delete", job_id]) == 2
    assert "has not ended" in capfd.readouterr().err
    run(["status", job_id])
    assert run(["delete", job_id]) == 0
    assert fake.state.jobs == {}


@pytest.mark.parametrize(("text", "code", "said"), [("fine", 0, "ok"), ("FAIL", 1, "FAILED    n 1       n 0")])
def test_an_audit_ends_with_what_it_found(fake: FakeBushel, text: str, code: int, said: str, capfd: Captured) -> None:
    assert run(["audit", fake.add_job([text])]) == code
    out = capfd.readouterr().out
    assert "one_result_per_item" in out and " ".join(said.split()) in " ".join(out.split())


def _options(command: click.Command, path: str) -> Iterator[tuple[str, click.Option]]:
    yield from ((path, option) for option in command.params if isinstance(option, click.Option))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _options(inner, f"{path} {name}")


def test_every_option_has_its_help() -> None:
    assert [(path, option.opts) for path, option in _options(main.bushel, "bushel") if not option.help] == []
