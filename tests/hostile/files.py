"""Files that are not what a job file should be, and files that are it in a way that hurts."""

import gzip
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.hostile import names, values


@dataclass(frozen=True, slots=True)
class HostileFile:
    """Bytes to upload under a name, and how the job that reads them is told to."""

    kind: str
    data: bytes
    format: dict[str, Any]
    name: str = "input.txt"


TXT, JSONL, CSV = {"type": "txt"}, {"type": "jsonl"}, {"type": "csv"}
_GOOD_LINES = b"the train is late\nwhere is the library\n"
_GOOD_ROWS = b"id,text,note\n1,the train is late,a\n2,where is the library,b\n"


def _line(rng: random.Random) -> bytes:
    """A line of JSONL with something hostile at a place of its own."""
    body: Any = {"custom_id": "a", "text": "hello", "params": {"max_new_tokens": 5, "stop": ["x"]}, "reference": "b"}
    path = rng.choice(values.places(body))
    whole = values.encoded(values.replaced(body, path, lambda _: values.anything(rng)))
    # A line break inside would make two lines of it, which is another attack.
    return whole.replace(b"\n", b"") if rng.random() < 0.8 else whole


def _jsonl(rng: random.Random) -> HostileFile:
    lines = [_line(rng) for _ in range(rng.choice((1, 3, 30)))]
    return HostileFile("file: hostile JSONL", b"\n".join(lines) + b"\n", JSONL, "a.jsonl")


def _encodings(rng: random.Random) -> HostileFile:
    good = rng.choice((_GOOD_LINES, _GOOD_ROWS, b'"hello"\n{"text": "a"}\n'))
    format = {_GOOD_LINES: TXT, _GOOD_ROWS: CSV}.get(good, JSONL)
    text, at = good.decode(), rng.randrange(len(good))
    data = rng.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-16-le"),
            lambda: text.encode("utf-32"),
            lambda: b"\xef\xbb\xbf" + good,
            lambda: b"\xef\xbb\xbf" * 3 + good,
            lambda: good.replace(b"\n", b"\r\n"),
            lambda: good.replace(b"\n", b"\r"),
            lambda: good[:at] + rng.choice((b"\xff", b"\xed\xa0\x80", b"\0", b"\x1a", b"\xc3")) + good[at:],
            lambda: text.encode("cp037"),
            lambda: good.replace(b"\n", "\u2028".encode()),
            lambda: good.rstrip(b"\n"),
        )
    )()
    return HostileFile("file: encodings", data, dict(format))


def _csv(rng: random.Random) -> HostileFile:
    data = rng.choice(
        (
            b'text\n"never closed\nand on\n',
            b'text\n"a"b"c"\n',
            b'text,b\n"a"" , "b\n',
            b"text\n" + b'"' * rng.choice((1, 2, 3, 9_999)) + b"\n",
            b"text,text\na,b\n",
            b",,,,\n,,,,\n",
            b"text,a\nx\ny,1,2,3\n",
            b"text" + b",c" * rng.choice((9_998, 10_001, 300_000)) + b"\nx\n",
            b"text\n" + b"," * 50_000 + b"\n",
            b"text;id\na;1\na;1\n",
            b"\n\n\n",
            b"text\r\n=1+1\r\n-2\r\n@x\r\n\t=1\r\n",
            b"te\0xt\na\n",
            b"text\n" + b"a" * 70_000 + b"\n",
        )
    )
    format: dict[str, Any] = dict(CSV)
    if rng.random() < 0.4:
        format |= rng.choice(
            (
                {"delimiter": ";"},
                {"delimiter": "\t"},
                {"has_header": False, "text_column": "1"},
                {"has_header": False, "text_column": "99999"},
                {"id_column": "id"},
                {"text_column": "\ud7ff" * 200},
                {"csv_formulas": rng.choice(("escape", "keep", "round_trip"))},
            )
        )
    return HostileFile("file: broken CSV", data, format, "a.csv")


def _compressed(rng: random.Random) -> HostileFile:
    whole = gzip.compress(_GOOD_LINES * 1_000)
    at = rng.randrange(1, len(whole))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"../../{names.ESCAPE}", "x" * 100_000)
    data = rng.choice(
        (
            lambda: whole[:at],
            lambda: whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :],
            lambda: whole + b"trailing bytes",
            lambda: gzip.compress(whole),
            lambda: gzip.compress(b""),
            lambda: b"\x1f\x8b",
            lambda: b"\x1f\x8b" + rng.randbytes(200),
            lambda: archive.getvalue(),
            lambda: zlib.compress(_GOOD_LINES),
            lambda: b"BZh91AY&SY" + rng.randbytes(100),
            lambda: b"\x28\xb5\x2f\xfd" + rng.randbytes(100),
            lambda: gzip.compress(archive.getvalue()),
        )
    )()
    return HostileFile("file: compressed", data, dict(rng.choice((TXT, JSONL, CSV))), "a.txt.gz")


def _lines(rng: random.Random) -> HostileFile:
    many = rng.choice((1_000, 20_000))
    same = json.dumps({"custom_id": "same", "text": "a"}).encode()
    data, format = rng.choice(
        (
            (b"\n" * many, TXT),
            (b"\n" * many, JSONL),
            (b"\r\n" * many, CSV),
            (b"a" * 300_000 + b"\n", TXT),
            (b'"' + b"\\" * 70_001 + b'"\n', JSONL),
            ((same + b"\n") * rng.choice((2, 500)), JSONL),
            (b"id,text\n" + b"1,a\n" * 500, {**CSV, "id_column": "id"}),
            (b'{"text": "a", "text": "b", "custom_id": "1", "custom_id": "2"}\n', JSONL),
            (b"[" * 50_000 + b"\n" + b'{"a":' * 50_000 + b"\n", JSONL),
            (rng.randbytes(5_000), rng.choice((TXT, JSONL, CSV))),
            (b"%PDF-1.7\n" + rng.randbytes(100), TXT),
            (b"\x80\x05cposix\nsystem\nX\x02\x00\x00\x00id\x85R.", JSONL),
            ("\n".join((*values.SPECIAL_TEXTS, *values.REGEX_TEXTS, *values.SQL_TEXTS)).encode(), TXT),
        )
    )
    return HostileFile("file: lines", data, dict(format))


def _named(rng: random.Random) -> HostileFile:
    return HostileFile("file: names", _GOOD_LINES, dict(TXT), names.header(rng))


def any_file(rng: random.Random) -> HostileFile:
    makers: tuple[Callable[[random.Random], HostileFile], ...] = (_jsonl, _encodings, _csv, _compressed, _lines, _named)
    return rng.choice(makers)(rng)


def large(megabytes: int) -> list[HostileFile]:
    """The ones that only hurt by their size; `megabytes` is what each has once it is unpacked."""
    size = megabytes * 2**20
    return [
        HostileFile("large: one line", b"a" * size, dict(TXT)),
        HostileFile("large: one line of JSONL", b'{"text": "' + b"a" * size + b'"}\n', dict(JSONL)),
        HostileFile("large: empty lines", b"\n" * (size // 200), dict(TXT)),
        HostileFile("large: empty lines of JSONL", b"\n" * (size // 10), dict(JSONL)),
        HostileFile("large: gzip bomb", _bomb(b"\0" * 2**20, megabytes), dict(TXT)),
        HostileFile("large: gzip bomb of lines", _bomb(b"a\n" * 2**19, megabytes), {**JSONL}),
        HostileFile(
            "large: a million columns", b"text" + b",c" * 1_000_000 + b"\nx" + b"," * 1_000_000 + b"\n", dict(CSV)
        ),
        HostileFile("large: a quote that never closes", b'text\n"' + b"a,b\n" * (size // 4), dict(CSV)),
        HostileFile("large: brackets", b"[" * size + b"\n", dict(JSONL)),
    ]


def _bomb(piece: bytes, count: int) -> bytes:
    """`count` times the piece, packed without ever being there at once."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        for _ in range(count):
            file.write(piece)
    return packed.getvalue()
