"""The commands, run against a server that speaks the contract over canned state."""

import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import run
from tests.cli.fake_bushel import FakeBushel, Fault
from tests.waiting import eventually


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeBushel]:
    with FakeBushel() as server:
        monkeypatch.setenv("BUSHEL_URL", server.url)
        monkeypatch.setenv("BUSHEL_API_KEY", "bsh_test")
        monkeypatch.setenv("BUSHEL_DATA", str(tmp_path / "none"))
        yield server


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return give


Captured = pytest.CaptureFixture[str]


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


# submit


def test_submit_prints_the_job_id_alone_on_stdout(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")

    code = run(["submit", str(file)])

    assert code == 0
    assert capfd.readouterr().out == "job_0000\n"
    assert fake.state.contents["file-0"] == b"one\ntwo\n"


def test_submit_sends_what_the_options_say(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    file = write(tmp_path / "a.tsv", "id\tbody\n1\thi\n")

    options = "--model m --tier fast --from en --to de --text-column body --id-column id --params num_beams=4"
    more = "--params seed=7 --priority 5 --window 3h --on-error skip --long-input truncate --metadata who=me"
    run(["submit", str(file), *options.split(), *more.split()])

    body = fake.state.bodies[0]
    assert body["format"] == {"type": "csv", "delimiter": "\t", "text_column": "body", "id_column": "id"}
    assert body["params"] == {"num_beams": 4, "seed": 7, "source_lang": "en", "target_lang": "de"}
    assert (body["model"], body["tier"], body["priority"], body["completion_window"]) == ("m", "fast", 5, "3h")
    assert (body["on_error"], body["long_input"], body["metadata"]) == ("skip", "truncate", {"who": "me"})


def test_options_not_given_are_left_to_the_server(fake: FakeBushel, tmp_path: Path) -> None:
    run(["submit", str(write(tmp_path / "a.jsonl", '{"text": "x"}\n'))])

    assert {"tier", "priority", "on_error", "long_input", "completion_window"}.isdisjoint(fake.state.bodies[0])


def test_a_window_of_never_is_null(fake: FakeBushel, tmp_path: Path) -> None:
    run(["submit", str(write(tmp_path / "a.txt", "x\n")), "--window", "never"])

    assert fake.state.bodies[0]["completion_window"] is None


def test_a_compressed_file_is_unpacked_on_the_way(fake: FakeBushel, tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b"text\nhi\n"))

    assert run(["submit", str(file)]) == 0

    assert fake.state.contents["file-0"] == b"text\nhi\n"
    assert fake.state.files["file-0"]["filename"] == "a.csv"
    assert fake.state.bodies[0]["format"] == {"type": "csv"}


def test_standard_input_needs_a_format(fake: FakeBushel, stdin: Callable[[bytes], None], capfd: Captured) -> None:
    stdin(b"hello\n")

    assert run(["submit", "-"]) == 2
    assert "--format" in capfd.readouterr().err
    assert run(["submit", "-", "--format", "txt"]) == 0
    assert fake.state.contents["file-0"] == b"hello\n"


def test_output_waits_and_writes_the_results_in_the_input_s_format(
    fake: FakeBushel, tmp_path: Path, capfd: Captured
) -> None:
    file, out = write(tmp_path / "a.txt", "one\ntwo\n"), tmp_path / "out"

    code = run(["submit", str(file), "-o", str(out)])

    assert code == 0
    assert out.read_text() == "ONE\nTWO\n"


def test_failed_items_make_the_exit_code_1(fake: FakeBushel, tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\nFAIL\n")

    assert run(["submit", str(file), "--wait"]) == 1


def test_watch_without_a_terminal_writes_plain_lines_to_stderr(
    fake: FakeBushel, tmp_path: Path, capfd: Captured
) -> None:
    fake.state.polls_until_done = 2

    code = run(["submit", str(write(tmp_path / "a.txt", "one\ntwo\n")), "--watch"])

    out, err = capfd.readouterr()
    assert code == 0
    assert out == "job_0000\n"
    first = err.splitlines()[0]
    assert "job_0000 in_progress 0/2" in first
    assert "queued 2  running 0  succeeded 0  failed 0  cancelled 0  expired 0" in first
    assert "340 tokens/s" in first and "waiting: no worker serves upper" in first
    assert "\x1b" not in err


def test_a_dry_run_shows_the_estimate_and_every_problem(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    problem = {"line": 3, "column": 7, "code": "not_utf8", "message": "not UTF-8", "hint": "save it as UTF-8"}
    job_id = fake.add_job(["x"], dry_run=True, errors={"total": 2, "data": [problem]}, status="failed")

    code = run(["watch", job_id])

    err = capfd.readouterr().err
    assert code == 1
    assert "line 3, column 7: not UTF-8 (not_utf8) - save it as UTF-8" in err
    assert "and 1 more" in err
    assert "1 item " in err and "about 10 input tokens" in err


def test_a_good_dry_run_ends_with_0_though_nothing_ran(fake: FakeBushel) -> None:
    job_id = fake.add_job(["FAIL"], dry_run=True)

    assert run(["watch", job_id]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["submit", "nothing.txt"], "there is no file nothing.txt", id="no such file"),
        pytest.param(["submit", "x.pdf"], "cannot tell the format of x.pdf", id="unknown ending"),
        pytest.param(["submit", "x.txt", "--params", "beams"], "'beams' is not of the form name=value", id="params"),
        pytest.param(["submit", "x.txt", "--priority", "101"], "-100<=x<=100", id="priority"),
        pytest.param(["submit", "x.txt", "--tier", "good"], "not one of 'best', 'balanced', 'fast'", id="tier"),
        pytest.param(["results", "job_0000", "--follow", "--format", "txt"], "--follow writes jsonl", id="follow"),
        pytest.param(["nonesuch"], "No such command", id="no such command"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    fake: FakeBushel, capfd: Captured, arguments: list[str], said: str
) -> None:
    assert run(arguments) == 2
    assert said in capfd.readouterr().err


# jobs made from jobs, and pauses


def test_retry_makes_a_job_of_what_failed_and_prints_its_id(fake: FakeBushel, capfd: Captured) -> None:
    parent = fake.add_job(["one", "FAIL", "two"])
    run(["watch", parent])
    capfd.readouterr()

    code = run(["retry", parent, "--watch", "--priority", "9", "--window", "never", "--metadata", "why=again"])

    out, err = capfd.readouterr()
    assert (code, out) == (0, "job_0001\n")
    assert "1/1" in err
    assert fake.state.bodies[0] == {"priority": 9, "completion_window": None, "metadata": {"why": "again"}}
    assert [line["custom_id"] for line in fake.state.lines["job_0001"]] == ["1"]


def test_a_retry_whose_answer_is_lost_makes_one_job(fake: FakeBushel) -> None:
    parent = fake.add_job(["FAIL"])
    fake.state.faults.append(Fault("POST", "/v1/jobs/job_0000/retry", lost_answer=True))

    assert run(["retry", parent]) == 0
    assert len(fake.state.jobs) == 2


def test_a_retry_of_nothing_is_refused_in_the_server_s_words(fake: FakeBushel, capfd: Captured) -> None:
    parent = fake.add_job(["fine"])

    assert run(["retry", parent]) == 2
    assert "every item of job job_0000 succeeded (nothing_to_retry)" in capfd.readouterr().err


def test_clone_sends_only_what_is_otherwise(fake: FakeBushel, capfd: Captured) -> None:
    parent = fake.add_job(["one", "two"])

    options = "--model m --tier best --to fr --params num_beams=4 --on-error skip --long-input truncate --run"
    assert run(["clone", parent, *options.split(), "--json"]) == 0
    assert run(["clone", parent]) == 0

    assert fake.state.bodies[0] == {
        "model": "m",
        "tier": "best",
        "params": {"num_beams": 4, "target_lang": "fr"},
        "on_error": "skip",
        "long_input": "truncate",
        "dry_run": False,
    }
    assert fake.state.bodies[1] == {}
    assert json.loads(capfd.readouterr().out.rsplit("job_0002", 1)[0])["parent_id"] == parent


def test_pause_and_resume_say_how_the_job_is_now(fake: FakeBushel, capfd: Captured) -> None:
    job_id = fake.add_job(["one"])

    assert run(["pause", job_id]) == 0
    assert "job_0000 in_progress (paused) 0/1" in capfd.readouterr().out
    assert run(["resume", job_id, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["paused"] is False


# when the server is away, busy, or says no


def test_no_server_is_one_line_and_exit_code_3(monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    code = run(["--url", url, "status"])

    err = capfd.readouterr().err
    assert code == 3
    assert err.startswith(f"Error: no Bushel at {url}: is `bushel up` running?")
    assert len(err.splitlines()) == 1


def test_a_refusal_names_code_param_and_request(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    code = run(["submit", str(write(tmp_path / "a.txt", "x\n")), "--model", "nonesuch"])

    assert code == 2
    assert capfd.readouterr().err == (
        "Error: there is no model 'nonesuch' (model_not_found, at model) [request req_1]\n"
    )


def test_a_missing_key_is_explained(fake: FakeBushel, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.delenv("BUSHEL_API_KEY")

    assert run(["status"]) == 2
    assert "set BUSHEL_API_KEY" in capfd.readouterr().err


def test_a_busy_server_is_asked_again(fake: FakeBushel, capfd: Captured) -> None:
    fake.add_job(["x"])
    fake.state.faults += [Fault("GET", "/v1/jobs", status=503), Fault("GET", "/v1/jobs", status=429)]

    assert run(["status", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)) == 1


def test_a_lost_answer_to_a_submission_makes_no_second_job(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    fake.state.faults.append(Fault("POST", "/v1/jobs", lost_answer=True))

    code = run(["submit", str(write(tmp_path / "a.txt", "x\n"))])

    assert code == 0
    assert capfd.readouterr().out == "job_0000\n"
    assert len(fake.state.bodies) == 2
    assert len(fake.state.jobs) == 1


def test_the_key_of_the_data_folder_goes_to_its_own_server_only(
    fake: FakeBushel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Captured
) -> None:
    monkeypatch.delenv("BUSHEL_API_KEY")
    monkeypatch.delenv("BUSHEL_URL")
    (tmp_path / "client.json").write_text(json.dumps({"url": fake.url, "api_key": "bsh_test"}))

    assert run(["--data", str(tmp_path), "status"]) == 0
    (tmp_path / "client.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "api_key": "bsh_test"}))
    assert run(["--data", str(tmp_path), "--url", fake.url, "status"]) == 2


# status, watch, cancel


def test_status_lists_jobs_over_all_pages(fake: FakeBushel, capfd: Captured) -> None:
    for number in range(5):
        fake.add_job([f"text {number}"])

    assert run(["status"]) == 0

    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:]] == [f"job_000{number}" for number in (4, 3, 2, 1, 0)]


def test_ids_are_whole_where_no_window_sets_a_width(fake: FakeBushel, capfd: Captured) -> None:
    model = "a-model-with-a-very-long-name-" * 5
    fake.add_job(["text"], model=model)

    run(["status"])

    assert capfd.readouterr().out.splitlines()[1].split()[:3] == ["job_0000", "translation", model]


def test_the_list_tells_what_waits_and_why_nobody_will_take_it(fake: FakeBushel, capfd: Captured) -> None:
    fake.state.polls_until_done = 100
    fake.add_job(["one"])
    fake.add_job(["two"])
    fake.add_job(["three"], waiting_for={"code": "its_turn", "message": "the next free worker takes it"})
    fake.add_job(["four"], waiting_for=None)

    assert run(["status"]) == 0

    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert ["in_progress (waiting)" in line for line in lines[1:]] == [False, True, True, True]
    assert not [line for line in lines if line != line.rstrip()]
    assert shown.err == "waiting: no worker serves upper\n"


def test_status_of_a_failed_job_ends_with_1(fake: FakeBushel, capfd: Captured) -> None:
    job_id = fake.add_job(["FAIL"])

    assert run(["status", job_id]) == 1
    assert "failed 1" in capfd.readouterr().out


def test_cancel_says_what_is_left(fake: FakeBushel, capfd: Captured) -> None:
    fake.state.polls_until_done = 100
    job_id = fake.add_job(["a", "b", "c"])

    assert run(["cancel", job_id]) == 0
    assert "cancelled 2" in capfd.readouterr().out


def test_ctrl_c_leaves_the_job_running_and_says_so(fake: FakeBushel, tmp_path: Path) -> None:
    fake.state.polls_until_done = 1_000_000
    job_id = fake.add_job(["a"])
    command = [sys.executable, "-m", "cli.main", "watch", job_id]
    watching = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ, text=True)
    eventually(lambda: fake.state.looks[job_id] >= 2)

    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=10)

    assert watching.returncode == 130
    assert f"{job_id} goes on" in err and f"bushel cancel {job_id}" in err
    assert fake.state.jobs[job_id]["status"] == "in_progress"
    assert "Traceback" not in err


# results


def test_results_go_to_stdout_as_the_server_wrote_them(fake: FakeBushel, capfd: Captured) -> None:
    job_id = fake.add_job(["grüße\u2028zwei"])
    run(["status", job_id])
    capfd.readouterr()

    assert run(["results", job_id]) == 0

    assert json.loads(capfd.readouterr().out)["output"]["text"] == "GRÜSSE\u2028ZWEI"


def test_a_broken_connection_is_continued_after_the_last_whole_line(
    fake: FakeBushel, tmp_path: Path, capfd: Captured
) -> None:
    job_id = fake.add_job([f"text {number}" for number in range(50)])
    run(["status", job_id])
    fake.state.faults += [Fault("GET", f"/v1/jobs/{job_id}/results", cut=1000) for _ in range(2)]
    out = tmp_path / "out.jsonl"

    assert run(["results", job_id, "-o", str(out)]) == 0

    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == list(range(50))


def test_results_of_a_running_job_are_partial_and_stderr_says_so(fake: FakeBushel, capfd: Captured) -> None:
    fake.state.polls_until_done = 10
    job_id = fake.add_job([f"text {number}" for number in range(10)])
    # Asking for the results looks at the job once more.
    for _ in range(2):
        run(["status", job_id])
    capfd.readouterr()

    assert run(["results", job_id]) == 0

    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 3
    assert f"{job_id} still runs" in err


def test_follow_writes_every_result_once_until_the_end(fake: FakeBushel, tmp_path: Path) -> None:
    fake.state.polls_until_done = 7
    job_id = fake.add_job([f"text {number}" for number in range(20)])
    out = tmp_path / "out.jsonl"

    assert run(["results", job_id, "--follow", "-o", str(out)]) == 0

    assert sorted(json.loads(line)["index"] for line in out.read_text().splitlines()) == list(range(20))


def test_follow_continues_a_file_that_was_cut_in_the_middle_of_a_line(fake: FakeBushel, tmp_path: Path) -> None:
    job_id = fake.add_job([f"text {number}" for number in range(20)])
    out = tmp_path / "out.jsonl"
    run(["results", job_id, "--follow", "-o", str(out)])
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    fake.state.requests.clear()

    assert run(["results", job_id, "--follow", "-o", str(out)]) == 0

    assert out.read_bytes() == whole
    afters = [int(query["after"]) for _, _, query in fake.state.requests if "after" in query]
    assert min(afters) > 105


def test_a_text_says_that_it_has_the_first_of_several_outputs(
    fake: FakeBushel, tmp_path: Path, capfd: Captured
) -> None:
    fake.state.polls_until_done = 0
    job_id = fake.add_job(["one"], params={"n": 3})

    assert run(["results", job_id, "-o", str(tmp_path / "r.txt")]) == 0
    assert run(["results", job_id]) == 0

    [said] = capfd.readouterr().err.splitlines()
    assert said == f"txt has the first output of each input; `bushel results {job_id} --format jsonl` has all 3"


def test_include_input_is_asked_of_the_server(fake: FakeBushel, capfd: Captured) -> None:
    job_id = fake.add_job(["a"])
    run(["status", job_id])
    capfd.readouterr()

    run(["results", job_id, "--include-input"])

    assert json.loads(capfd.readouterr().out)["input"] == {"text": "input 0"}


# files


def test_files_can_be_uploaded_listed_downloaded_and_deleted(
    fake: FakeBushel, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "in.txt", "hello\n")

    assert run(["files", "upload", str(source)]) == 0
    file_id = capfd.readouterr().out.strip()
    assert run(["files", "list"]) == 0
    assert f"{file_id}  in.txt  6 B" in capfd.readouterr().out
    assert run(["files", "download", file_id, "-o", "copy.txt"]) == 0
    assert (tmp_path / "copy.txt").read_text() == "hello\n"
    assert run(["files", "delete", file_id]) == 0
    assert run(["files", "download", file_id]) == 2


def test_a_download_is_continued_by_range_after_a_break(
    fake: FakeBushel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = os.urandom(1_000_000)
    (tmp_path / "in.bin").write_bytes(content)
    run(["files", "upload", "in.bin"])
    fake.state.faults += [Fault("GET", "/v1/files/file-0/content", cut=400_000) for _ in range(2)]

    assert run(["files", "download", "file-0", "-o", "out.bin"]) == 0

    assert (tmp_path / "out.bin").read_bytes() == content
    asked = [query for method, path, query in fake.state.requests if path.endswith("/content")]
    assert len(asked) == 3
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_downloaded_name_cannot_leave_the_folder(
    fake: FakeBushel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    fake.state.files["file-9"] = {"id": "file-9", "filename": "..\\../evil.txt", "bytes": 2}
    fake.state.contents["file-9"] = b"x\n"

    assert run(["files", "download", "file-9"]) == 0

    assert (inside / "evil.txt").exists() and not (tmp_path / "evil.txt").exists()


# translate


def test_translate_gives_a_line_for_every_line_in_order(
    fake: FakeBushel, stdin: Callable[[bytes], None], capfd: Captured
) -> None:
    lines = [f"line {number}" if number % 7 else "" for number in range(1000)]
    stdin("\n".join(lines).encode())

    code = run(["translate", "--from", "en", "--to", "de"])

    assert code == 0
    assert capfd.readouterr().out.split("\n") == [line.upper() for line in lines] + [""]
    assert len(fake.state.bodies) == 4
    # The list of jobs is for the user's own: a filter removes those of its jobs that went well.
    assert fake.state.jobs == {}
    assert fake.state.bodies[0]["params"] == {"source_lang": "en", "target_lang": "de"}


@pytest.mark.parametrize("command", ["translate", "summarize", "generate"])
def test_a_filter_asks_for_its_tier(
    command: str, fake: FakeBushel, stdin: Callable[[bytes], None], capfd: Captured
) -> None:
    stdin(b"one\n")

    assert run([command, "--tier", "fast", "--model", "family"]) == 0
    assert (fake.state.bodies[0]["tier"], fake.state.bodies[0]["model"]) == ("fast", "family")


def test_a_tier_that_is_not_there_is_told_in_options(fake: FakeBushel, tmp_path: Path, capfd: Captured) -> None:
    assert run(["submit", str(write(tmp_path / "a.txt", "x\n")), "--model", "lonely", "--tier", "fast"]) == 2
    assert "model lonely has no --tier fast, nor any other (tier_not_found, at --tier)" in capfd.readouterr().err


def test_a_line_that_fails_is_empty_and_told_with_its_number(
    fake: FakeBushel, stdin: Callable[[bytes], None], capfd: Captured
) -> None:
    stdin(b"one\n\nFAIL here\r\nfour\n")

    code = run(["translate"])

    out, err = capfd.readouterr()
    assert code == 1
    assert out == "ONE\n\n\nFOUR\n"
    assert err == "line 3: too_long: the text is too long\n"


def test_a_line_that_is_not_utf8_is_named_after_the_lines_before_it(
    fake: FakeBushel, stdin: Callable[[bytes], None], capfd: Captured
) -> None:
    stdin(b"one\ntwo\nbad \xff here\nfour\n")

    code = run(["translate"])

    out, err = capfd.readouterr()
    assert code == 2
    assert out == "ONE\nTWO\n"
    assert err == "Error: line 3 of standard input is not UTF-8: byte 0xff at position 5\n"


def test_translate_answers_a_slow_writer_before_the_input_ends(fake: FakeBushel) -> None:
    command = [sys.executable, "-m", "cli.main", "translate"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ) as filtering:
        assert filtering.stdin and filtering.stdout
        filtering.stdin.write(b"first\n")
        filtering.stdin.flush()

        assert filtering.stdout.readline() == b"FIRST\n"
        filtering.stdin.write(b"second\n")
        filtering.stdin.close()
        assert filtering.stdout.readline() == b"SECOND\n"
        assert filtering.wait(10) == 0


def test_ctrl_c_in_translate_cancels_what_nobody_will_read(fake: FakeBushel) -> None:
    fake.state.polls_until_done = 1_000_000
    command = [sys.executable, "-m", "cli.main", "translate"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ) as filtering:
        assert filtering.stdin
        filtering.stdin.write(b"first\n")
        filtering.stdin.flush()
        eventually(lambda: fake.state.jobs)

        filtering.send_signal(signal.SIGINT)

        assert filtering.wait(10) == 130
    assert fake.state.jobs["job_0000"]["status"] == "cancelled"


def test_a_reader_that_leaves_early_ends_us_quietly(fake: FakeBushel) -> None:
    job_id = fake.add_job([f"text {number} " * 20 for number in range(2000)])
    run(["status", job_id])
    command = [sys.executable, "-m", "cli.main", "results", job_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as reading:
        assert reading.stdout and reading.stderr
        reading.stdout.readline()
        reading.stdout.close()

        assert reading.wait(10) == 128 + signal.SIGPIPE
        assert reading.stderr.read() == b""


# the command as a whole


def test_help_names_every_command_and_exit_code(capfd: Captured) -> None:
    assert run(["--help"]) == 0

    out = capfd.readouterr().out
    for word in ("up", "submit", "status", "watch", "results", "cancel", "files", "models", "keys", "translate"):
        assert f"  {word} " in out
    for code in ("0 ", "1 ", "2 ", "3 ", "130"):
        assert f"  {code}" in out


def test_client_commands_need_none_of_the_server_side_libraries() -> None:
    heavy = "sqlalchemy psycopg celery redis flask pydantic torch psutil msgspec"
    program = (
        "import sys, cli.main, cli.submit, cli.status, cli.watch, cli.results, cli.cancel, cli.files, cli.filters\n"
        "import cli.up, cli.demo\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
