"""A sentencepiece model's file, cut to some of its pieces. Read and written without protobuf's compiler."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# sentencepiece_model.proto: ModelProto has the pieces in field 1 and the trainer's settings in field 2.
_PIECES, _TRAINER = 1, 2
_PIECE_TEXT, _PIECE_TYPE = 1, 3
_MODEL_TYPE = 3
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    kind: int


class Pieces:
    """The pieces of a .spm or .model file in order, and the file's bytes around them."""

    def __init__(self, path: Path) -> None:
        self._fields = list(_fields(path.read_bytes()))
        self.pieces = [_piece(content) for number, _, content in self._fields if number == _PIECES]
        trainer = next((content for number, _, content in self._fields if number == _TRAINER), b"")
        kinds = [int.from_bytes(content, "little") for number, _, content in _fields(trainer) if number == _MODEL_TYPE]
        self.is_bpe = bool(kinds) and kinds[-1] == BPE

    def cut(self, path: Path, is_kept: Callable[[Piece], bool]) -> None:
        """Write the file with the pieces that are kept, in their order and with their scores."""
        pieces = iter(self.pieces)
        with path.open("wb") as file:
            for number, raw, _ in self._fields:
                if number != _PIECES or is_kept(next(pieces)):
                    file.write(raw)


def _piece(content: bytes) -> Piece:
    text, kind = "", NORMAL
    for number, _, value in _fields(content):
        if number == _PIECE_TEXT:
            text = value.decode("utf-8")
        elif number == _PIECE_TYPE:
            kind = int.from_bytes(value, "little")
    return Piece(text, kind)


def _fields(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Each field's number, its bytes as they are in the file, and its content (numbers: little-endian)."""
    at = 0
    while at < len(content):
        begun = at
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(content, at)
            inner = value.to_bytes(10, "little")
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            inner, at = content[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(content, at)
            inner, at = content[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind} is not in a sentencepiece model")
        yield number, content[begun:at], inner


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
