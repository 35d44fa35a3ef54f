"""Which bytes of the text each token stands for."""

import re
from typing import Any

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Spelling:
    """Texts and bytes of a tokenizer's tokens; exact for byte-level BPE and for sentencepiece.

    Special tokens have a text to be named by, but no bytes: they are no part of an output's text.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        spell = _speller(tokenizer)
        self._bytes = [
            (b"" if added[at].special else added[at].content.encode()) if at in added else spell(piece or "")
            for at, piece in enumerate(pieces)
        ]
        self._names = {at: token.content for at, token in added.items() if token.special}

    def bytes_of(self, token: int) -> bytes:
        # A model's vocabulary may be padded beyond the tokenizer's.
        return self._bytes[token] if token < len(self._bytes) else b""

    def name_of(self, token: int) -> str:
        """The text; a piece of a character shows as the replacement character."""
        return self._names.get(token) or self.bytes_of(token).decode("utf-8", "replace")


def _speller(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    kinds = decoder.__getstate__().decode() if decoder is not None else ""
    if '"ByteLevel"' in kinds:
        return _byte_level
    if '"Metaspace"' in kinds or '"ByteFallback"' in kinds or "▁" in kinds or backend is None:
        return _sentencepiece
    return lambda piece: tokenizer.convert_tokens_to_string([piece]).encode()


def _byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in piece)
    except KeyError:
        return piece.encode()


def _sentencepiece(piece: str) -> bytes:
    byte = BYTE.match(piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace("▁", " ").encode()


def _alphabet() -> dict[str, int]:
    """How GPT-2's byte-level BPE writes bytes: printable ones as themselves, the rest as characters from 256 up."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTES = _alphabet()
