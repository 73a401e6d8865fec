"""A line that a share has to keep, the naive rule on a sample, and the chance of passing by it.

The naive rule is the standard's: of a sample of ``n`` answers so many are hits, and that share itself has to
keep the line. Whether it does is chance as much as quality where the true rate is near the line.

Source:
    A sample of a service's next answers is binomial, one drawn from a bank whose answers are known is
    hypergeometric: Johnson, Kemp, Kotz, "Univariate Discrete Distributions" (2005), chapters 3 and 6.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from safe_r1.gate.decide import Status

Side = Literal["at_least", "at_most"]


@dataclass(frozen=True)
class Line:
    """A line for a share of answers.

    Attributes:
        side: ``at_least`` where more hits are better, else ``at_most``.
        percent: The line, from 0 to 100; a share that is on it keeps it.
    """

    side: Side
    percent: float

    @property
    def share(self) -> float:
        """The line as a share."""
        return self.percent / 100

    def last_hits(self, num: int) -> int:
        """The number of hits of ``num`` answers that just keeps the line."""
        # In fractions, as 0.07 * 100 is 7.000000000000001.
        exact = Fraction(str(self.percent)) * num / 100
        return math.ceil(exact) if self.side == "at_least" else math.floor(exact)

    def is_kept_by(self, hits: int, num: int) -> bool:
        """The naive rule: whether the share ``hits / num`` keeps the line."""
        last = self.last_hits(num)
        return hits >= last if self.side == "at_least" else hits <= last

    def status(self, low: float, high: float) -> Status:
        """Pass or fail where an interval of shares is on one side of the line, else undecided."""
        # 0.57 is 56.99999999999999 %: an end that is on the line must not fall beside it.
        low, high = round(100 * low, 9), round(100 * high, 9)
        at_least = self.side == "at_least"
        if low >= self.percent if at_least else high <= self.percent:
            return Status.PASS
        is_failed = high < self.percent if at_least else low > self.percent
        return Status.FAIL if is_failed else Status.UNDECIDED

    def chance_of_next(self, rate: float, num_sample: int) -> float:
        """Chance that a sample of a service's next answers keeps the line by the naive rule.

        Args:
            rate: The service's true rate, from 0 to 1.
            num_sample: Answers of the sample.
        """
        from scipy.stats import binom

        last = self.last_hits(num_sample)
        if self.side == "at_least":
            return float(binom.sf(last - 1, num_sample, rate))
        return float(binom.cdf(last, num_sample, rate))

    def chance_from_bank(self, num_hits: int, num_bank: int, num_sample: int) -> float:
        """Chance that a random sample of a bank, whose answers are fixed, keeps the line by the naive rule.

        Args:
            num_hits: Hits among the answers to the whole bank.
            num_bank: Answers to the whole bank.
            num_sample: Answers drawn of them without replacement.

        Raises:
            ValueError: The bank has fewer answers than are drawn, or than are hits.
        """
        if not 0 <= num_hits <= num_bank or not 0 <= num_sample <= num_bank:
            raise ValueError(f"{num_hits} hits of {num_bank} answers, {num_sample} of them drawn")
        from scipy.stats import hypergeom

        last = self.last_hits(num_sample)
        if self.side == "at_least":
            return float(hypergeom.sf(last - 1, num_bank, num_hits, num_sample))
        return float(hypergeom.cdf(last, num_bank, num_hits, num_sample))
