"""Strangers' texts that do nothing to the terminal they are shown in."""

import unicodedata
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Controls (escape sequences begin with one), format characters (they turn the direction of a whole line), surrogates,
# and the two separators that end a line.
_ACTIVE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters that only join their neighbours or keep them apart, in Persian as in emoji.
_JOINERS = frozenset("\u200c\u200d")


def inert(text: str) -> str:
    """The text in one line, with a mark for every character that is no sign but an instruction.

    >>> inert("a\\x1b[2Jb\\u202ec\\n")
    'a�[2Jb�c�'
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_active(each) else each for each in text)


def _is_active(character: str) -> bool:
    return unicodedata.category(character) in _ACTIVE and character not in _JOINERS


class InertConsole(Console):
    """A console that sends the terminal no instruction but its own.

    Rich drops five control characters of what it prints and passes the others on, escape among them.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                yield Segment("\n".join(map(inert, segment.text.split("\n"))), segment.style)
