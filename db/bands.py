"""Between which times a job will likely end. Pure: an estimate and how far off earlier ones were in, a band out.

A band is meant to hold for `SHARE` of the estimates. It comes from how estimates of the model fared lately: the times
that jobs took over the times that had been said, without the tenth at either end (db/estimates.py). That is the spread
of everything that moves an end - chunks that are slower than others, texts that are longer than they looked, jobs that
pushed in, workers that came and went - and not of the one thing we thought of.

Until enough jobs have ended it comes from chunks instead: `log_variance`, how far each was off the time that the
model's rate gave it, as the average square of that quotient's logarithm. It is not divided by the number of chunks that
are left, as it would be if each were off for reasons of its own: chunks of a job are alike, and are off together.
It is never taken for less than `PRIOR_VARIANCE`, a factor of one and a half either way, more or less: what moves an end
beside the chunks cannot be seen yet, and where the chunks' own spread stood for all of it, 43 % of the estimates held
(jobs of the echo engine on two cores that others wanted too).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

SHARE = 0.8
# Of the normal distribution, SHARE lies so many standard deviations around the middle.
_DEVIATIONS = 1.2816
# An end is not told to less: claims, polls and the reading of a clock are in it.
LEAST_SECONDS = 1.0
PRIOR_VARIANCE = 0.16
# More than a factor of ten between two chunks is a model that was being loaded, or a machine that slept.
MAX_LOG_ERROR = math.log(10)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far off a model's chunks and estimates were lately; factors are None until enough jobs have ended."""

    log_variance: float = PRIOR_VARIANCE
    low_factor: float | None = None
    high_factor: float | None = None

    @property
    def factors(self) -> tuple[float, float]:
        """What to multiply an estimate by.

        >>> Spread(0.0, 0.9, 1.5).factors
        (0.9, 1.5)
        >>> Spread(0.0).factors == Spread(PRIOR_VARIANCE).factors
        True
        """
        if self.low_factor is not None and self.high_factor is not None:
            return self.low_factor, self.high_factor
        reach = math.exp(_DEVIATIONS * math.sqrt(max(self.log_variance, PRIOR_VARIANCE)))
        return 1 / reach, reach


def band(eta_seconds: float, spreads: Iterable[Spread]) -> tuple[float, float]:
    """The earliest and the latest time, in seconds from now; the estimate is always between them.

    Of several models the widest counts on either side: it is not known which of them will be the one that is off.
    """
    factors = [spread.factors for spread in spreads] or [Spread().factors]
    low = eta_seconds * min(least for least, _ in factors)
    high = eta_seconds * max(most for _, most in factors)
    # Where ends were always later than said, both factors are above one; the band is then all on that side.
    low = max(0.0, min(low, eta_seconds - LEAST_SECONDS))
    return round(low, 1), round(max(high, eta_seconds + LEAST_SECONDS), 1)
