"""How a judge errs on the gold set: its confusion matrix by confidence.

A gold set is no sample of any run, so these counts correct no rate. They guess where labels of a run are
worth most, shape a weak prior, and show what a judge is known to confuse. ``python -m
safe_r1.judge.gold_errors`` measures the lexicon judge again and writes ``data/gold_errors.json``:
cross-validated, so that no text is judged by weights that were trained on it.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from safe_r1.judge.base import judge_label
from safe_r1.schema import RefusalLabel

logger = logging.getLogger(__name__)

FILE = Path(__file__).parent / "data" / "gold_errors.json"
CONFIDENT = 0.8
"""Verdicts with at least this confidence are counted as ``high``, others as ``low``."""
_FOLDS = 6


@dataclass(frozen=True)
class GoldErrors:
    """Counts of a judge's verdicts on texts whose labels are known.

    Attributes:
        judge: Name and identity of the judge, as reports print it.
        source: What it was measured on.
        counts: By level of confidence the counts of verdicts, the known label as row and the judge's as
            column, in the order of ``RefusalLabel``.
    """

    judge: str
    source: str
    counts: Mapping[str, Sequence[Sequence[float]]]

    def confusion(self, level: str = "") -> np.ndarray:
        """Counts of one level, known label by judge's label; of all levels together for an empty or unknown
        one. Shape (4, 4).
        """
        chosen = [self.counts[level]] if level in self.counts else list(self.counts.values())
        return np.sum([np.asarray(each, float) for each in chosen], axis=0)

    def known_given_judged(self, label: int, level: str = "") -> np.ndarray:
        """Shares of the known labels among the judge's verdicts ``label``, never 0 or 1; shape (4,)."""
        counts = self.confusion(level)[:, label]
        return (counts + 1 / len(counts)) / (counts.sum() + 1)

    def false_positive_rate(self, label: RefusalLabel) -> float:
        """Share of verdicts ``label`` among the texts that have another known label."""
        others = np.delete(self.confusion(), label.degree, axis=0)
        return float(others[:, label.degree].sum() / others.sum())


def load_gold_errors(judge: str) -> GoldErrors | None:
    """Errors of a judge by its name or by ``NAME@IDENTITY``; None where none are known."""
    text = files("safe_r1.judge").joinpath("data/gold_errors.json").read_text(encoding="utf-8")
    entry = json.loads(text).get(judge.partition("@")[0])
    return GoldErrors(**entry) if entry else None


def measure_lexicon(seed: int = 0) -> GoldErrors:
    """Cross-validated errors of the lexicon judge on the answers of the gold set."""
    # Here, as the trainer needs scikit-learn's solvers, and readers of the file do not.
    from sklearn.model_selection import StratifiedKFold

    from safe_r1.judge.lexicon import LexiconJudge
    from safe_r1.judge.train_lexicon import GOLD_FILE, TRAIN_FILE, read_examples, train

    own = read_examples(TRAIN_FILE)
    gold = [example for example in read_examples(GOLD_FILE) if example.part == "answer"]
    degrees = np.array([example.label.degree for example in gold])
    counts = {level: np.zeros((4, 4), int) for level in ("high", "low")}
    splitter = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    for others, held_out in splitter.split(degrees, degrees):
        models = train([*own, *(gold[place] for place in others)])
        for place in held_out:
            model = models[gold[place].language]
            probabilities = model.probabilities(model.scale(gold[place].features()))
            label = model.choose(probabilities)
            level = "high" if probabilities[label.degree] >= CONFIDENT else "low"
            counts[level][degrees[place], label.degree] += 1
    judge = LexiconJudge()
    return GoldErrors(
        judge_label(judge.name, judge.identity),
        f"{GOLD_FILE.parent.name}/{GOLD_FILE.name}, {len(gold)} answers, cross-validated",
        {level: matrix.tolist() for level, matrix in counts.items()},
    )


def main() -> None:
    """Write the measured errors."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    errors = measure_lexicon()
    FILE.write_text(json.dumps({"lexicon": asdict(errors)}, ensure_ascii=False, indent=1) + "\n", "utf-8")
    logger.info("%s: %s", errors.judge, errors.source)


if __name__ == "__main__":
    main()
