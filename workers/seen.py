"""Which earlier inputs of a job later ones are equal to: digests in a table that does not grow."""

from array import array
from collections.abc import Mapping

# Two inputs each. With 20 bytes an input that is 5 MiB, whatever the job has.
SLOTS = 2**17


class Seen:
    """The inputs of a job so far, as many as there is room for: of others it does not know that they were there.

    Of the two in a slot, one that was met again stays in the first place, and the second goes to whoever comes.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        """`slots` is a power of two."""
        self._mask = slots - 1
        self._low, self._high = array("q", [0]) * (2 * slots), array("q", [0]) * (2 * slots)
        self._idx = array("i", [0]) * (2 * slots)

    def firsts(self, inputs: Mapping[str | bytes, int], start: int, setup: tuple[str, str]) -> dict[int, int]:
        """Which of the inputs are equal to earlier ones: by their places, the indexes of those.

        An input's index is its place and `start`. Those of a call run with the same model and parameters, and those
        that were not known are from now on.

        An input is known by 128 bits. Python's own hash, SipHash with a random key, has 64, and of what was a key of a
        dict it is made already; with another ending it gives 64 that have nothing to do with those. Texts and bytes
        have the same hash, but not with their endings. A call of BLAKE2 for each took three times as long.
        """
        mask, lows, highs, indexes = self._mask, self._low, self._high, self._idx
        low_mark, high_mark = hash(setup), hash("\0".join(setup))
        found = {}
        for said, at in inputs.items():
            low = hash(said) ^ low_mark
            high = hash(said + "\1" if isinstance(said, str) else said + b"\2") ^ high_mark
            place = (low & mask) << 1
            if (there := lows[place]) == low and highs[place] == high:
                found[at] = indexes[place]
            elif lows[place + 1] == low and highs[place + 1] == high:
                found[at] = indexes[place + 1]
                self._swap(place)
            else:
                if there:
                    place += 1
                lows[place], highs[place], indexes[place] = low, high, start + at
        return found

    def _swap(self, place: int) -> None:
        for each in (self._low, self._high, self._idx):
            each[place], each[place + 1] = each[place + 1], each[place]
