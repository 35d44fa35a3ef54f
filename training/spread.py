"""Some of many things, evenly spread over all of them. Pure.

Files of pairs are often sorted, by length above all: their first thousand says nothing of the rest.
"""

from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def spread(things: Sequence[Thing], most: int) -> list[Thing]:
    """At most `most` of them, in their order; the same ones each time.

    >>> spread("abcdefgh", 3), spread("ab", 3)
    (['a', 'c', 'f'], ['a', 'b'])
    """
    count = min(most, len(things))
    return [things[place * len(things) // count] for place in range(count)]
