"""What is guessed of a stratum before it is labelled: shares of the right labels among its verdicts."""

from dataclasses import dataclass

import numpy as np

from safe_r1.calibration.imputation import Floats
from safe_r1.calibration.items import Stratum
from safe_r1.judge.gold_errors import GoldErrors

# Shares of wrong labels where nothing was measured: of a judge without a gold set, by its confidence, and of
# an answer key by its own. They say where labels go first; what is estimated rests on the labels.
_JUDGE_ERRORS = {"high": 0.03, "low": 0.25, "": 0.12}
_KEY_ERRORS = {"high": 0.02, "medium": 0.1, "low": 0.3, "": 0.1}


@dataclass(frozen=True)
class Guesses:
    """Guesses for the strata of a run.

    Attributes:
        errors: How its judge errs on the gold set; None where that is not known.
    """

    errors: GoldErrors | None

    def shape(self, stratum: Stratum) -> Floats:
        """Guessed shares of the right labels in a stratum, shape (classes,)."""
        if self.errors is not None and stratum.task == "refusal":
            return self.errors.known_given_judged(stratum.position, stratum.level)
        errors = _KEY_ERRORS if stratum.subject == "key" else _JUDGE_ERRORS
        share = errors.get(stratum.level, errors[""])
        shape = np.full(len(stratum.classes), share / (len(stratum.classes) - 1))
        shape[stratum.position] = 1 - share
        return shape

    def error_share(self, stratum: Stratum) -> float:
        """Guessed share of wrong verdicts in a stratum."""
        return float(1 - self.shape(stratum)[stratum.position])
