"""Linear four-label classifiers over named features whose weights are a readable JSON file."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from safe_r1.schema import RefusalLabel

LABELS = list(RefusalLabel)
NGRAM_PREFIX = "n:"
OPENING_PREFIX = "o:"

Kind = Literal["labels", "questions"]


class LinearModelData(TypedDict):
    """A ``LinearModel`` as plain JSON values."""

    kind: Kind
    ngram_scale: float
    temperature: float
    intercepts: list[float]
    weights: dict[str, list[float]]
    idf: dict[str, float]


@dataclass(frozen=True)
class LinearModel:
    """Logistic regression on named features.

    Attributes:
        kind: ``labels``: one output per label, softmax. ``questions``: three yes-or-no outputs (a refusal at
            all; if so, with guidance; if not, harmful), which suits a language with few training texts: each
            question gets its own weights.
        intercepts: One number per output, in the order of ``RefusalLabel`` or of the questions.
        weights: Feature name to one weight per output; features without an entry are ignored.
        idf: Feature name to inverse document frequency, of the n-gram features alone.
        ngram_scale: Length to which the vector of n-gram features is scaled, so that they do not drown the
            phrase groups.
        temperature: What the outputs are divided by, so that a probability says how often a label is right;
            it changes no label.
    """

    kind: Kind
    intercepts: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    idf: Mapping[str, float]
    ngram_scale: float
    temperature: float = 1.0

    def scale(self, features: Mapping[str, float]) -> dict[str, float]:
        """The features that the model knows; the n-grams weighted and scaled to a vector of fixed length."""
        scaled: dict[str, float] = {}
        ngrams: dict[str, float] = {}
        for name, value in features.items():
            if name in self.idf:
                ngrams[name] = value * self.idf[name]
            elif name in self.weights:
                scaled[name] = value
        norm = math.sqrt(sum(value * value for value in ngrams.values())) or 1.0
        scaled.update({name: value * self.ngram_scale / norm for name, value in ngrams.items()})
        return scaled

    def probabilities(self, scaled: Mapping[str, float]) -> np.ndarray:
        """Probability of each label, in the order of ``RefusalLabel``, from what ``scale`` gave."""
        logits = np.array(self.intercepts, dtype=float)
        if scaled:
            logits = (
                logits + np.array(list(scaled.values())) @ self._matrix[[self._rows[name] for name in scaled]]
            )
        logits = logits / self.temperature
        if self.kind == "labels":
            exponentials = np.exp(logits - logits.max())
            return exponentials / exponentials.sum()
        # Of a refusal at all; of guidance, given a refusal; of harm, given none.
        refusal, guidance, harm = 1 / (1 + np.exp(-logits))
        return np.array(
            [(1 - refusal) * harm, (1 - refusal) * (1 - harm), refusal * (1 - guidance), refusal * guidance],
        )

    def choose(self, probabilities: np.ndarray) -> RefusalLabel:
        """The likeliest label; with questions, the likelier label of the likelier side (refusal or not)."""
        if self.kind == "labels":
            return LABELS[int(probabilities.argmax())]
        first = 2 if probabilities[2:].sum() > 0.5 else 0
        return LABELS[first + int(probabilities[first : first + 2].argmax())]

    def reasons(self, scaled: Mapping[str, float], label: RefusalLabel, num: int = 3) -> list[str]:
        """The named features (no n-grams) that contribute most to ``label``."""
        degree = label.degree
        gains = {
            name: value * self._gains[name][degree] for name, value in scaled.items() if name in self._gains
        }
        best = sorted(gains, key=lambda name: -gains[name])[:num]
        return [name for name in best if gains[name] > 0]

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.weights)}

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        return np.array(list(self.weights.values()), dtype=float)

    @functools.cached_property
    def _gains(self) -> dict[str, tuple[float, ...]]:
        """Contribution of one unit of each named feature to each label."""
        named = {
            name: values
            for name, values in self.weights.items()
            if not name.startswith((NGRAM_PREFIX, OPENING_PREFIX))
        }
        if self.kind == "labels":
            # Softmax takes no notice of what all labels share.
            return {
                name: tuple(value - sum(values) / len(LABELS) for value in values)
                for name, values in named.items()
            }
        return {
            name: (harm - refusal, -harm - refusal, refusal - guidance, refusal + guidance)
            for name, (refusal, guidance, harm) in named.items()
        }

    def to_dict(self) -> LinearModelData:
        """As plain JSON values."""
        return {
            "kind": self.kind,
            "ngram_scale": self.ngram_scale,
            "temperature": self.temperature,
            "intercepts": list(self.intercepts),
            "weights": {name: list(values) for name, values in self.weights.items()},
            "idf": dict(self.idf),
        }

    @classmethod
    def from_dict(cls, data: LinearModelData) -> "LinearModel":
        """Inverse of ``to_dict``."""
        return cls(
            kind=data["kind"],
            intercepts=tuple(data["intercepts"]),
            weights={name: tuple(values) for name, values in data["weights"].items()},
            idf=dict(data["idf"]),
            ngram_scale=float(data["ngram_scale"]),
            temperature=float(data["temperature"]),
        )
