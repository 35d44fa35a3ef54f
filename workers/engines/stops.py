"""Where an output ends because of a stop string. Pure, but for the decoder it is given."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Token = TypeVar("Token", str, int)


def cut_text(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string.

    >>> cut_text("one. two. three", [" two", "three"])
    'one.'
    """
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def has_stop(text: str, stops: Sequence[str]) -> bool:
    return any(stop in text for stop in stops)


def cut_tokens(
    tokens: tuple[Token, ...], stops: Sequence[str], decode: Callable[[tuple[Token, ...]], str]
) -> tuple[tuple[Token, ...], bool]:
    """The tokens up to the one that completes the first stop string, and whether there was one.

    Found by bisection over decoded prefixes: a stop string may begin and end anywhere within tokens.
    """
    if not stops or not has_stop(decode(tokens), stops):
        return tokens, False
    low, high = 1, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if has_stop(decode(tokens[:middle]), stops):
            high = middle
        else:
            low = middle + 1
    return tokens[:low], True


def tail_length(stops: Sequence[str]) -> int:
    """How many of the last tokens can hold a stop string that the very last one completes.

    A character takes at most four tokens (bytes of UTF-8), and its neighbours may share the first one.
    """
    return 4 * max((len(stop) for stop in stops), default=0) + 4
