"""What benchmarks say of what they measured: turns, agreement, comparison, tables, the page and the pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engine, ledger, page, peers, quick, results, scheduler, stages
from benchmarks.agreement import agreement
from benchmarks.comparison import Judged, NothingToCompare, compare, table
from benchmarks.decoding import Decoding
from benchmarks.heldout import mixed_lines, read_lines, read_sources
from benchmarks.plot import Bar, draw
from benchmarks.results import Result
from benchmarks.service import BenchmarkFailed, Poll, Watched
from benchmarks.ways import Timed, Way, rotated, spread, take_turns

BENCHMARKS = ("engine", "ledger", "scheduler", "stages", "peers")


def silent(_: str) -> None:
    """Nobody waits for a test."""


def upper(lines: list[str]) -> list[str]:
    return [line.upper() for line in lines]


def result(figures: dict[str, float], processor: str = "a") -> Result:
    machine: dict[str, Any] = {"processor": processor, "cpus": 2, "load_before": 0.1}
    return Result("quick", "2026-01-01", "how", machine, {}, {}, figures)


def test_every_way_has_its_turn_and_begins_one_round() -> None:
    called: list[str] = []

    def way(name: str) -> Way:
        return Way(name, range(2), lambda lines: called.append(name) or upper(lines))  # type: ignore[func-returns-value]

    take_turns([way("a"), way("b")], ["x", "y"], 2, silent)

    warm_up, rounds = called[:2], called[2:]
    assert warm_up == ["a", "b"]
    assert rounds == ["a", "b", "b", "a"]


def test_a_way_is_given_its_own_lines_and_its_outputs_keep_their_places() -> None:
    found = take_turns([Way("some", [0, 2], upper)], ["a", "b", "c"], 3, silent)["some"]

    assert found.outputs == {0: "A", 2: "C"}
    assert len(found.seconds) == len(found.rates) == 3


def test_a_way_that_leaves_a_line_out_is_not_timed() -> None:
    with pytest.raises(BenchmarkFailed, match="short: 1 outputs for 2 lines"):
        take_turns([Way("short", range(2), lambda lines: lines[1:])], ["a", "b"], 1, silent)


def test_what_a_way_checks_fails_the_benchmark() -> None:
    def wrong() -> None:
        raise BenchmarkFailed("the audit found something")

    with pytest.raises(BenchmarkFailed, match="audit"):
        take_turns([Way("a", range(1), upper, check=wrong)], ["a"], 1, silent)


def test_no_ways_rotate_to_none() -> None:
    assert rotated([], 3) == []


@pytest.mark.parametrize("count", [1, 7, 50])
def test_a_sample_is_about_as_long_as_the_whole(count: int) -> None:
    lengths = [(7 * number) % 100 for number in range(1_000)]

    places = spread(lengths, count)

    assert places == sorted(set(places)) and len(places) == count
    assert sum(lengths[place] for place in places) / count == pytest.approx(49.5, abs=1)


def test_agreement_counts_only_lines_that_both_did() -> None:
    found = agreement({0: "one", 1: "two", 9: "nine"}, {0: "one", 1: "too", 2: "x"})

    assert (found.lines, found.same) == (2, 0.5)
    assert 0 < found.chrf < 100


def test_without_a_common_line_nothing_is_said_of_agreement() -> None:
    with pytest.raises(BenchmarkFailed, match="no line that both"):
        agreement({0: "one"}, {1: "one"})


def test_mixed_lines_are_all_different_and_the_same_every_time() -> None:
    lines = mixed_lines(read_sources(), 500)

    assert len(set(lines)) == 500
    assert lines == mixed_lines(read_sources(), 500)
    assert len({line.count(".") for line in lines}) > 2


def test_sentences_that_make_too_few_lines_are_refused() -> None:
    with pytest.raises(BenchmarkFailed, match="1 sentences do not make 10 different lines"):
        mixed_lines(["a"], 10)


def test_a_file_of_texts_is_read_without_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a\n\nb\na\nc\n")

    assert read_lines(path, 2) == ["a", "b"]
    with pytest.raises(BenchmarkFailed, match="only 3 different lines"):
        read_lines(path, 4)


def test_a_figure_is_worse_only_beyond_its_band() -> None:
    rules = {"rate": Judged(0.1), "seconds": Judged(0.1, is_lower_better=True)}

    within = compare({"rate": 91, "seconds": 1.09}, {"rate": 100, "seconds": 1}, rules, is_same_machine=True)
    beyond = compare({"rate": 89, "seconds": 1.2}, {"rate": 100, "seconds": 1}, rules, is_same_machine=True)

    assert [one.is_worse for one in within] == [False, False]
    assert [one.is_worse for one in beyond] == [True, True]
    assert table(beyond).count("WORSE") == 2


def test_what_got_better_is_never_worse() -> None:
    [one] = compare({"rate": 300}, {"rate": 100}, {"rate": Judged(0.1)}, is_same_machine=True)

    assert one.ratio == 3 and not one.is_worse


def test_rows_a_second_of_another_machine_are_shown_and_not_judged() -> None:
    [one] = compare({"rate": 1}, {"rate": 100}, {"rate": Judged(0.1, is_own=True)}, is_same_machine=False)

    assert not one.is_worse
    assert "not judged" in table([one])


def test_nothing_in_common_is_no_success() -> None:
    with pytest.raises(NothingToCompare):
        compare({"a": 1}, {"b": 1}, {"a": Judged(0.1), "b": Judged(0.1)}, is_same_machine=True)


NAME = next(iter(quick.RULES))


@pytest.mark.parametrize(
    ("now", "status"),
    [pytest.param(1.0, 0, id="as it was"), pytest.param(0.5, 1, id="worse"), pytest.param(2.0, 0, id="better")],
)
def test_the_quick_benchmark_ends_with_one_when_a_figure_is_worse(tmp_path: Path, now: float, status: int) -> None:
    results.write(result({NAME: 1.0}), tmp_path)

    assert quick.judge(result({NAME: now}), tmp_path) == status


def test_the_quick_benchmark_ends_with_two_when_nothing_was_kept(tmp_path: Path) -> None:
    assert quick.judge(result({NAME: 1.0}), tmp_path) == 2

    results.write(result({"another": 1.0}), tmp_path)
    assert quick.judge(result({NAME: 1.0}), tmp_path) == 2


def test_machines_differ_by_processor_and_number() -> None:
    assert quick.is_same_machine(result({}), result({}))
    assert not quick.is_same_machine(result({}), result({}, processor="b"))


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = {"processor": "a", "cpus": 2, "load_before": 0.0}
    made = results.found("some", "how\n", before, {"lines": 3}, {"rate": 123.4567891}, [{"seconds": [1.5]}])

    results.write(made, tmp_path)

    assert results.read("some", tmp_path) == made
    assert made.figures == {"rate": 123.457}
    assert results.read("none", tmp_path) is None


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_has_a_place_for_every_benchmark(name: str) -> None:
    before = page.PAGE.read_text(encoding="utf-8")

    after = page.filled(before, name, "the new table")

    assert "the new table" in after
    assert page.filled(after, name, "another") == page.filled(before, name, "another")
    assert all(f"<!-- bench: {each} -->" in after and f"<!-- end of {each} -->" in after for each in BENCHMARKS)


def test_a_page_without_a_place_is_said_so() -> None:
    with pytest.raises(page.NoPlace, match="bench: engine"):
        page.filled("# Performance\n", "engine", "x")


def test_equal_figures_make_equal_pictures(tmp_path: Path) -> None:
    panels = {"greedy": [Bar("others", 10, 8, 12), Bar("ours", 30, 29, 31, is_ours=True)]}
    paths = [tmp_path / name for name in ("one.svg", "two.svg")]

    for path in paths:
        draw(panels, "lines a second", path)

    one, two = (path.read_text() for path in paths)
    assert one == two
    assert all(text in one for text in ("greedy", "others", "ours", "lines a second"))


def measured(**timed: list[float]) -> engine.Measured:
    places = range(10)
    names = {"n1": engine.N1, "r": engine.R, "service": engine.SERVICE}
    found = {names[name]: Timed(places, seconds, dict.fromkeys(places, "a")) for name, seconds in timed.items()}
    return engine.Measured(
        model="m",
        decoding=Decoding(1, 32, 32),
        threads=2,
        setting="two threads",
        tried={},
        timed=found,
        tokens=dict.fromkeys(found, 320),
        agreements={name: agreement({0: "a"}, {0: "a"}) for name in found if name != engine.N1},
    )


def test_the_engines_table_compares_medians(tmp_path: Path) -> None:
    one = measured(n1=[10, 10, 10], r=[1, 2, 90], service=[2, 2, 2])

    rows = engine.table([one]).splitlines()

    [service] = [row for row in rows if row.startswith(f"| {engine.SERVICE}")]
    assert [cell.strip() for cell in service.split("|")[2:-1]] == [
        "10",
        "5",
        "5 - 5",
        "160",
        "1.00",
        "5.0",
        "100.0",
        "100.0%",
    ]
    assert any("every output has 32 tokens" in row for row in rows)
    assert engine.figures([one])[f"m, greedy: {engine.SERVICE} / N1"] == 5
    engine.picture([one], tmp_path / "engine.svg")
    assert engine.SERVICE in (tmp_path / "engine.svg").read_text()
    json.dumps(engine.rounds_of([one]))


def test_a_way_that_did_not_run_has_no_ratio() -> None:
    assert measured(n1=[1]).ratio(engine.N1, engine.R) is None


def ledger_measurement(lines: int, seconds: float, polls: list[float]) -> ledger.Measurement:
    memory = dict.fromkeys(("API", "io worker", "model worker"), 100 * 2**20)
    return ledger.Measurement(
        "jsonl",
        lines,
        10 * lines,
        1,
        1,
        seconds,
        seconds,
        seconds,
        seconds,
        seconds,
        10 * lines,
        polls,
        [],
        memory,
        memory,
    )


def test_the_ledgers_table_says_how_the_cost_of_an_item_grows(tmp_path: Path) -> None:
    found = {
        ("jsonl", 1_000): [ledger_measurement(1_000, 0.01, [0.001, 0.002])],
        ("jsonl", 100_000): [ledger_measurement(100_000, 2, [0.001, 0.003])],
    }

    text, figures = ledger.table(found), ledger.figures(found)

    assert "100k : 1k" in text
    assert figures["jsonl: cost of an item, 100k : 1k"] == 2
    assert figures["jsonl, 1k: ingest, items/s"] == 100_000
    assert "status while ingesting" in text
    assert "status while recording" not in text, "nothing was asked while recording"
    ledger.picture(found, tmp_path / "ledger.svg")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_ledgers_inputs_have_every_text_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"input.{suffix}"

    ledger.write_input(path, 30)

    content = path.read_text()
    assert all(text in content for text in ledger.texts(30))
    assert len(content.splitlines()) == 30 + (suffix == "csv")


def results_file(path: Path, texts: list[str], per_job: int) -> Path:
    lines = [
        {
            "index": number % per_job,
            "custom_id": f"request-{number:07d}",
            "status": "succeeded",
            "output": {"text": text},
        }
        for number, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_wrong_line_of_the_results_ends_the_ledger_benchmark(tmp_path: Path) -> None:
    texts = list(ledger.texts(6))
    ledger.check(results_file(tmp_path / "right", texts, per_job=4), 6, per_job=4)

    wrong = [*texts[:3], "something else", *texts[4:]]
    for name, found in (("changed", wrong), ("missing", texts[:5]), ("doubled", [*texts, texts[0]])):
        with pytest.raises(BenchmarkFailed):
            ledger.check(results_file(tmp_path / name, found, per_job=6), 6, per_job=6)


def test_looks_at_a_job_are_told_apart_by_what_it_was_at() -> None:
    watched = Watched({}, 1.0, [Poll("validating", 0.1), Poll("in_progress", 0.2), Poll("completed", 0.3)])

    assert watched.poll_seconds("validating", "in_progress") == [0.1, 0.2]
    assert watched.poll_seconds() == [0.1, 0.2, 0.3]


def test_idleness_counts_only_while_work_is_ready() -> None:
    look = stages.Look
    looks = [look(9, 0, 0, 5), look(9, 1, 1, 5), look(3, 1, 4, 6), look(0, 1, 5, 30)]

    assert stages.idle_share(looks) == 0.25
    assert stages.idle_share(looks[:2]) is None
    assert stages.idle_share([]) is None


def test_a_metric_that_is_not_there_is_no_zero() -> None:
    sample = ("seconds_sum", (("model", "m"), ("stage", "read")))

    assert stages.grown({sample: 1.0}, {sample: 3.5}, "seconds_sum", stage="read") == 2.5
    assert stages.grown({}, {sample: 3.5}, "seconds_sum", stage="read") == 3.5
    with pytest.raises(LookupError, match="write"):
        stages.grown({}, {sample: 3.5}, "seconds_sum", stage="write")


def test_the_table_of_stages_has_all_of_them(tmp_path: Path) -> None:
    seconds = dict.fromkeys(stages.STAGES, 0.5)
    one = stages.Measured(100, 2, 2.0, 1.0, seconds, dict.fromkeys(stages.STEPS, 0.1), 0.02, 8, 0.9, 0.1)

    text = stages.table([one, replace(one, idle_share=None)])

    assert all(stage.replace("_", " ") in text for stage in (*stages.STAGES, *stages.STEPS))
    assert "idle 2.0% of the time" in text
    stages.picture([one], tmp_path / "stages.svg")


def test_the_schedulers_table_has_the_slowest_small_job(tmp_path: Path) -> None:
    times = scheduler.Times
    found = scheduler.Found(
        small=[times(100, 1, 2, 3), times(100, 1, 9, 9), times(100, 1, 3, 3)],
        urgent=[times(100, 0.5, 0.6, 0.7)],
        large=[times(1_000_000, 1, 200, 201)],
        share=0.48,
        shares=[0.5, 0.6, 0.4],
        swaps=[scheduler.Swaps(1, 12, 4, 30.0), scheduler.Swaps(2, 12, 2, 14.0)],
    )

    text, figures = scheduler.table(found, 0.0002), scheduler.figures(found)

    assert "got 48% of the results" in text and "between 40% and 60%" in text
    assert figures["small jobs: last result, slowest s"] == 9
    assert figures["swaps: loads with room for 1"] == 4
    scheduler.picture(found, tmp_path / "scheduler.svg")


def test_a_peer_that_does_not_run_is_named_with_its_reason() -> None:
    timed = {peers.OURS: Timed(range(4), [1.0]), peers.CELERY: Timed(range(4), [10.0])}
    agreed = agreement({0: "a"}, {0: "a"})
    found = peers.Found(Decoding(4, 256), timed, dict.fromkeys(timed, agreed), {peers.TRITON: "it has no GPU"})

    text = peers.table(found)

    assert peers.figures(found)[f"ours / {peers.CELERY}"] == 10
    assert f"{peers.TRITON} does not run here: it has no GPU." in text


def test_every_judged_figure_is_one_that_the_benchmarks_make() -> None:
    one = measured(n1=[10], r=[1], service=[2])
    made = set(engine.figures([replace(one, model=quick.MODEL)]))
    made |= {f"{quick.MODEL}, greedy: {engine.ALONE} / R"}
    made |= set(ledger.figures({("jsonl", 20_000): [ledger_measurement(20_000, 1, [])]}))
    times = [scheduler.Times(1, 1, 1, 1)]
    made |= set(scheduler.figures(scheduler.Found(times, times, times, 0.5, [0.5], [scheduler.Swaps(1, 2, 2, 1.0)])))

    assert set(quick.RULES) <= made
