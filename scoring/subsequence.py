"""How long the longest common subsequence of two lists is. Pure."""

from collections.abc import Sequence


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Bit-parallel (Hyyrö 2004): a column of the usual table is one integer, so that book-long texts take a moment.

    >>> longest_common("the cat sat down".split(), "the dog sat quite down".split())
    3
    """
    if len(one) > len(other):
        # Every word has an integer as long as `one`: of a long text they would take gigabytes.
        one, other = other, one
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(one)) - 1
    # A zero stands where the subsequence grows by one.
    column = every
    for word in other:
        matched = column & places.get(word, 0)
        column = (column + matched | column - matched) & every
    return len(one) - column.bit_count()
