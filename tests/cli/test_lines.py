"""Standard input becomes blocks of lines."""

import io
import os

import pytest

from cli.lines import LineBlocks, NotText


def read(content: bytes, size: int = 2) -> list[tuple[int, list[str]]]:
    blocks = LineBlocks(io.BytesIO(content), size)
    found = []
    while not blocks.is_over:
        if block := blocks.next(None):
            found.append((block.first, list(block.lines)))
    return found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"a\nb\nc\n", [(1, ["a", "b"]), (3, ["c"])], id="full and partial"),
        pytest.param(b"a\nb", [(1, ["a", "b"])], id="no newline at the end"),
        pytest.param(b"a\r\n\r\nb\r\n", [(1, ["a", ""]), (3, ["b"])], id="carriage returns"),
        pytest.param(
            b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [(1, ["a", "\ufeffb"])], id="a byte order mark only at the start"
        ),
        pytest.param("a\u2028b\x0cc\n".encode(), [(1, ["a\u2028b\x0cc"])], id="only newlines end lines"),
    ],
)
def test_lines_are_counted_from_one_and_lose_only_their_ends(
    content: bytes, expected: list[tuple[int, list[str]]]
) -> None:
    assert read(content) == expected


def test_a_block_comes_early_when_the_writer_pauses() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        blocks = LineBlocks(stream, size=100, idle=0.01)
        os.write(writer, b"a\nb\nhalf")

        first = blocks.next(None)
        os.write(writer, b" whole\n")
        os.close(writer)
        second = blocks.next(None)

    assert first and list(first.lines) == ["a", "b"]
    assert second and (second.first, list(second.lines)) == (3, ["half whole"])


def test_nothing_within_the_patience_is_no_block_and_no_end() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        blocks = LineBlocks(stream)

        assert blocks.next(0.01) is None
        assert not blocks.is_over
        os.close(writer)


def test_lines_before_one_that_is_not_utf8_come_first() -> None:
    blocks = LineBlocks(io.BytesIO(b"good\n\xc3(\nmore\n"))

    first = blocks.next(None)

    assert first and list(first.lines) == ["good"]
    with pytest.raises(NotText, match="line 2 of standard input is not UTF-8: byte 0xc3 at position 1"):
        blocks.next(None)
