"""Reports as files, and two of them joined line by line."""

import random
from collections.abc import Iterable, Iterator
from io import BytesIO

import pytest

from db.reports import Header, Join, ReportLine, TooManyLines, encode, raw, read


def line(custom_id: str, index: int = 0) -> ReportLine:
    return ReportLine(custom_id, index, index + 1, "0", {"chrf": 1.5}, raw({"chrf": [1, 2]}))


def lines(ids: Iterable[int]) -> list[ReportLine]:
    return [line(f"id-{number}", place) for place, number in enumerate(ids)]


def test_a_report_is_read_as_it_was_written() -> None:
    header = Header("job_1", "translation", "m", {"scored": 2})
    file = BytesIO(b"".join(map(encode, (header, line("a\u2028b"), line("c", 1)))))

    found, rest = read(file)

    assert len(file.getvalue().decode().splitlines()) == 3
    assert found == header
    assert [(each.custom_id, each.index, each.numbers) for each in rest] == [
        ("a\u2028b", 0, {"chrf": [1, 2]}),
        ("c", 1, {"chrf": [1, 2]}),
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(range(50), range(50), id="equal"),
        pytest.param(range(0, 50, 2), range(0, 50, 3), id="each with gaps"),
        pytest.param(range(50), random.Random(1).sample(range(50), 50), id="in another order"),
        pytest.param(range(10), range(10, 20), id="nothing shared"),
        pytest.param([], range(3), id="one empty"),
        pytest.param([1, 2], [2, 1], id="crossed"),
    ],
)
def test_lines_are_joined_by_their_ids(a: Iterable[int], b: Iterable[int]) -> None:
    ours, theirs = {f"id-{number}" for number in a}, {f"id-{number}" for number in b}

    join = Join(lines(a), lines(b), 1000)
    pairs = [(one.custom_id, other.custom_id) for one, other in join]

    assert all(one == other for one, other in pairs)
    assert sorted(one for one, _ in pairs) == sorted(ours & theirs)
    assert (join.only_a, join.only_b) == (len(ours - theirs), len(theirs - ours))


@pytest.mark.parametrize(
    ("a", "b"), [(range(101), range(101)), (range(60), range(100, 160))], ids=["too many pairs", "too many waiting"]
)
def test_more_lines_than_memory_is_meant_for_are_refused(a: Iterable[int], b: Iterable[int]) -> None:
    with pytest.raises(TooManyLines):
        list(Join(lines(a), lines(b), 100))


def test_lines_of_equal_reports_do_not_wait() -> None:
    drawn = []

    def counted(count: int) -> Iterator[ReportLine]:
        for number in range(count):
            drawn.append(number)
            yield line(f"id-{number}")

    join = iter(Join(counted(100), counted(100), 100))
    next(join)

    assert drawn == [0, 0]
