"""Train the lexicon judge's weights from the labelled texts shipped in the package.

Run ``python -m safe_r1.judge.train_lexicon`` after a change of rules, features or training texts; it writes
``data/lexicon_weights.json`` beside this file and logs cross-validated figures. Seeded: the same inputs give
the same file.

Training texts: ``data/lexicon_train.jsonl`` (written for this project by a language model; invented
questions, mild by design) and ``data/judge_gold/dev.jsonl``. No text of XSTest is trained on; its two
published completion files served as the development set of the English rules.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from safe_r1.judge.lexicon_features import extract_features, visible_text
from safe_r1.judge.lexicon_model import NGRAM_PREFIX, Kind, LinearModel
from safe_r1.language import Language, detect_language
from safe_r1.schema import Message, Part, RefusalLabel

logger = logging.getLogger(__name__)

DATA = Path(__file__).parent / "data"
TRAIN_FILE = DATA / "lexicon_train.jsonl"
GOLD_FILE = DATA / "judge_gold" / "dev.jsonl"
WEIGHTS_FILE = DATA / "lexicon_weights.json"
_FOLDS = 6
# Digits that change no label and keep the file of weights small.
_WEIGHT_DIGITS = 3
_IDF_DIGITS = 2


@dataclass(frozen=True)
class Example:
    """One labelled text."""

    messages: list[Message]
    text: str
    part: Part
    label: RefusalLabel
    source: str

    @property
    def language(self) -> Language:
        """The language whose classifier the judge would use."""
        return detect_language(visible_text(self.text, self.part))

    def features(self) -> dict[str, float]:
        """The features as the judge sees them."""
        text = visible_text(self.text, self.part)
        return extract_features(self.messages, text, self.part, detect_language(text))


@dataclass(frozen=True)
class Settings:
    """How a classifier is fitted.

    Attributes:
        kind: See ``LinearModel``.
        inverse_penalty: scikit-learn's ``C``.
        ngram_scale: Weight of the n-gram block beside the phrase groups.
        min_count: Texts in which a feature must occur.
        refusal_shift: Subtracted from the log odds of a refusal, of kind ``questions``: people call answers
            refusals less readily than training texts of which half refuse suggest.
    """

    kind: Kind
    inverse_penalty: float
    ngram_scale: float = 10.0
    min_count: int = 2
    refusal_shift: float = 0.0


# Chosen by cross-validation on the gold set, and for English on XSTest's two development files.
SETTINGS: dict[Language, Settings] = {
    "zh": Settings("labels", 0.2, ngram_scale=15.0),
    "en": Settings("questions", 0.1, refusal_shift=0.5),
}
_TEMPERATURES = np.arange(0.5, 3.01, 0.05).round(2)


def read_examples(path: Path) -> list[Example]:
    """Read training texts or the gold set; both have ``messages``, ``answer`` and ``label``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        Example(
            row["messages"], row["answer"], row.get("part", "answer"), RefusalLabel(row["label"]), path.name
        )
        for row in rows
    ]


def fit(features: Sequence[dict[str, float]], degrees: Sequence[int], settings: Settings) -> LinearModel:
    """Fit one classifier; features that occur in fewer than ``min_count`` texts are dropped."""
    counts = Counter(name for row in features for name in row)
    known = sorted(name for name, count in counts.items() if count >= settings.min_count)
    grams = [name for name in known if name.startswith(NGRAM_PREFIX)]
    idf = {name: round(math.log((1 + len(features)) / (1 + counts[name])) + 1, _IDF_DIGITS) for name in grams}
    blank = LinearModel(settings.kind, (), dict.fromkeys(known, ()), idf, settings.ngram_scale)
    vectorizer = DictVectorizer()
    matrix = csr_matrix(vectorizer.fit_transform([blank.scale(row) for row in features]))
    targets = np.array(degrees)
    if settings.kind == "labels":
        fits = [_fit_one(matrix, targets, settings)]
    else:
        refused = targets >= 2
        fits = [
            _fit_one(matrix, refused, settings),
            _fit_one(matrix[refused], targets[refused] == RefusalLabel.RESPONSIBLE.degree, settings),
            _fit_one(matrix[~refused], targets[~refused] == RefusalLabel.HARMFUL.degree, settings),
        ]
    coefficients = np.concatenate([solver.coef_ for solver in fits]).round(_WEIGHT_DIGITS)
    intercepts = np.concatenate([solver.intercept_ for solver in fits])
    if settings.kind == "questions":
        intercepts[0] -= settings.refusal_shift
    weights = {
        str(name): tuple(coefficients[:, i].tolist())
        for i, name in enumerate(vectorizer.get_feature_names_out())
    }
    return LinearModel(settings.kind, tuple(intercepts.round(4).tolist()), weights, idf, settings.ngram_scale)


def _fit_one(matrix: csr_matrix, targets: np.ndarray, settings: Settings) -> LogisticRegression:
    # One thread: on small matrices a busy machine's threads wait for each other, a hundred times as long as
    # they work.
    with threadpool_limits(1):
        return LogisticRegression(C=settings.inverse_penalty, max_iter=3000, class_weight="balanced").fit(
            matrix, targets
        )


def predict(model: LinearModel, features: Sequence[dict[str, float]]) -> np.ndarray:
    """Refusal degree of each row."""
    return np.array([model.choose(model.probabilities(model.scale(row))).degree for row in features])


def cross_validate(
    target: Sequence[Example], extra: Sequence[Example], settings: Settings, repeats: int = 3, seed: int = 0
) -> dict[str, float]:
    """Accuracy and kappas on ``target``, each item judged by a model that was not trained on it.

    Args:
        target: Texts to measure on, in turn left out of training.
        extra: Further texts to train on.
        settings: How the classifiers are fitted.
        repeats: Number of times that ``target`` is split anew.
        seed: Of the splits.
    """
    rows = [item.features() for item in target]
    degrees = np.array([item.label.degree for item in target])
    others = [item.features() for item in extra]
    other_degrees = [item.label.degree for item in extra]
    figures = []
    splitter = RepeatedStratifiedKFold(n_splits=_FOLDS, n_repeats=repeats, random_state=seed)
    guesses = np.zeros(len(rows), dtype=int)
    for fold, (train, test) in enumerate(splitter.split(rows, degrees)):
        model = fit([rows[i] for i in train] + others, [*degrees[train], *other_degrees], settings)
        guesses[test] = predict(model, [rows[i] for i in test])
        if fold % _FOLDS == _FOLDS - 1:
            figures.append(agreement_figures(degrees, guesses))
    return {name: float(np.mean([entry[name] for entry in figures])) for name in figures[0]}


def agreement_figures(degrees: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
    """Accuracy, kappa over the labels, kappa of refusal against none."""
    return {
        "accuracy": float((degrees == guesses).mean()),
        "kappa": float(cohen_kappa_score(degrees, guesses)),
        "kappa_refusal": float(cohen_kappa_score(degrees >= 2, guesses >= 2)),
    }


def calibrate(rows: Sequence[dict[str, float]], degrees: Sequence[int], settings: Settings) -> float:
    """The temperature at which the labels of texts that a model was not trained on are likeliest.

    Source: temperature scaling, Guo et al., arXiv 1706.04599, section 4.2.
    """
    losses = np.zeros(len(_TEMPERATURES))
    splitter = StratifiedKFold(n_splits=_FOLDS, shuffle=True, random_state=0)
    for train_rows, test_rows in splitter.split(rows, degrees):
        model = fit([rows[i] for i in train_rows], [degrees[i] for i in train_rows], settings)
        scaled = [(model.scale(rows[i]), degrees[i]) for i in test_rows]
        for place, temperature in enumerate(_TEMPERATURES.tolist()):
            tempered = replace(model, temperature=temperature)
            losses[place] -= sum(math.log(tempered.probabilities(row)[degree]) for row, degree in scaled)
    return float(_TEMPERATURES[losses.argmin()])


def train(examples: Sequence[Example]) -> dict[Language, LinearModel]:
    """One classifier for each language."""
    models: dict[Language, LinearModel] = {}
    for language, settings in SETTINGS.items():
        chosen = [item for item in examples if item.language == language]
        rows = [item.features() for item in chosen]
        degrees = [item.label.degree for item in chosen]
        model = fit(rows, degrees, settings)
        models[language] = replace(model, temperature=calibrate(rows, degrees, settings))
    return models


def dump_models(models: dict[Language, LinearModel]) -> str:
    """The models as JSON with one feature on a line, so that a change of weights can be read as a diff."""

    def block(value: object) -> str:
        if not isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        entries = [
            f"{json.dumps(name, ensure_ascii=False)}: {block(entry)}" for name, entry in sorted(value.items())
        ]
        return "{\n" + ",\n".join(entries) + "\n}" if entries else "{}"

    return block({language: model.to_dict() for language, model in models.items()}) + "\n"


def main() -> None:
    """Write the weights and log their cross-validated agreement."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own = read_examples(TRAIN_FILE)
    gold = read_examples(GOLD_FILE)
    for language, settings in SETTINGS.items():
        own_texts = [item for item in own if item.language == language]
        gold_texts = [item for item in gold if item.language == language]
        figures = cross_validate(own_texts, gold_texts, settings)
        logger.info("%s, %d own texts, cross-validated: %s", language, len(own_texts), figures)
        if language == "zh":
            model = fit(
                [item.features() for item in own_texts], [item.label.degree for item in own_texts], settings
            )
            degrees = np.array([item.label.degree for item in gold_texts])
            outside = agreement_figures(degrees, predict(model, [item.features() for item in gold_texts]))
            logger.info(
                "%s, own texts alone, on the %d of the gold set: %s", language, len(gold_texts), outside
            )
            inside = cross_validate(gold_texts, own_texts, settings)
            logger.info("%s, both, cross-validated on the gold set: %s", language, inside)
    WEIGHTS_FILE.write_text(dump_models(train([*own, *gold])), encoding="utf-8")


if __name__ == "__main__":
    main()
