"""Train the risk classifier for prompts from the prompts shipped in the package.

Run ``python -m safe_r1.judge.train_prompt_risk`` after a change of prompts, word groups or features; it
writes ``data/prompt_risk_weights.json`` beside this file. ``python -m tests.bench.prompt_risk`` measures it.

Prompts: ``data/prompt_risk_train.jsonl``, written for this project by hand and from templates, with the
corpus's seeds of risky and of harmless but sensitive prompts. Those close to a prompt of CHiSafetyBench or
XSTest, on which it is measured, were left out.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from safe_r1.judge.prompt_risk import LanguageWeights, prompt_features, scaled
from safe_r1.language import Language, detect_language

logger = logging.getLogger(__name__)

DATA = Path(__file__).parent / "data"
TRAIN_FILE = DATA / "prompt_risk_train.jsonl"
WEIGHTS_FILE = DATA / "prompt_risk_weights.json"
_INVERSE_PENALTY: dict[Language, float] = {"zh": 10.0, "en": 10.0}
_MIN_COUNT = 3
# Weights of a category that are kept: those that matter most.
_CATEGORY_FEATURES = 80
_DIGITS = 2
_FOLDS = 5


class Prompt(NamedTuple):
    """A prompt, the key of its risk category (None for a harmless one), and where it comes from."""

    text: str
    category: str | None
    source: str = ""


def read_prompts() -> list[Prompt]:
    """The prompts that are trained on."""
    rows = [json.loads(line) for line in TRAIN_FILE.read_text(encoding="utf-8").splitlines()]
    return [Prompt(row["prompt"], row["category"], row["source"]) for row in rows]


def train(prompts: Sequence[Prompt]) -> dict[Language, LanguageWeights]:
    """One classifier for each language."""
    weights: dict[Language, LanguageWeights] = {}
    for language, penalty in _INVERSE_PENALTY.items():
        chosen = [prompt for prompt in prompts if detect_language(prompt.text) == language]
        found = [prompt_features(prompt.text, language) for prompt in chosen]
        counts = Counter(name for row in found for name in row)
        idf = {
            name: round(math.log((1 + len(found)) / (1 + count)) + 1, _DIGITS)
            for name, count in sorted(counts.items())
            if count >= _MIN_COUNT
        }
        vectorizer = DictVectorizer()
        matrix = vectorizer.fit_transform([scaled(row, idf) for row in found])
        names = vectorizer.get_feature_names_out()
        is_risky = np.array([prompt.category is not None for prompt in chosen])
        # One thread: on small matrices threads wait for each other.
        with threadpool_limits(1):
            solver = LogisticRegression(C=penalty, max_iter=2000, class_weight="balanced")
            solver.fit(matrix, is_risky)
            of_category = LogisticRegression(C=penalty, max_iter=2000)
            of_category.fit(matrix[is_risky], [prompt.category for prompt in chosen if prompt.category])
        weights[language] = LanguageWeights(
            intercept=round(float(np.ravel(solver.intercept_)[0]), _DIGITS),
            idf=idf,
            risk=_named(names, solver.coef_[0]),
            categories={
                str(category): {"": round(float(intercept), _DIGITS)}
                | _named(names, _keep_largest(coefficients))
                for category, intercept, coefficients in zip(
                    of_category.classes_, np.ravel(of_category.intercept_), of_category.coef_, strict=True
                )
            },
        )
    return weights


def _keep_largest(coefficients: np.ndarray) -> np.ndarray:
    """The coefficients with all but the largest set to zero."""
    kept = np.zeros_like(coefficients)
    largest = np.argsort(-np.abs(coefficients))[:_CATEGORY_FEATURES]
    kept[largest] = coefficients[largest]
    return kept


def _named(names: np.ndarray, coefficients: np.ndarray) -> dict[str, float]:
    rounded = coefficients.round(_DIGITS)
    return {str(name): float(value) for name, value in zip(names, rounded, strict=True) if value}


def score(weights: dict[Language, LanguageWeights], prompts: Sequence[Prompt]) -> np.ndarray:
    """Log odds of risk of each prompt."""
    found = []
    for prompt in prompts:
        language = detect_language(prompt.text)
        own = weights[language]
        features = scaled(prompt_features(prompt.text, language), own["idf"])
        found.append(
            own["intercept"] + sum(value * own["risk"].get(name, 0.0) for name, value in features.items())
        )
    return np.array(found)


def cross_validated_scores(own: Sequence[Prompt], target: Sequence[Prompt]) -> np.ndarray:
    """Log odds of each prompt of ``target`` by classifiers that were trained on the others and on ``own``."""
    scores = np.zeros(len(target))
    for train_rows, test_rows in KFold(_FOLDS, shuffle=True, random_state=0).split(target):
        weights = train([*own, *(target[i] for i in train_rows)])
        scores[test_rows] = score(weights, [target[i] for i in test_rows])
    return scores


def main() -> None:
    """Write the weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prompts = read_prompts()
    WEIGHTS_FILE.write_text(
        json.dumps(train(prompts), ensure_ascii=False, sort_keys=True, indent=0) + "\n", encoding="utf-8"
    )
    logger.info("%s: from %d prompts", WEIGHTS_FILE, len(prompts))


if __name__ == "__main__":
    main()
