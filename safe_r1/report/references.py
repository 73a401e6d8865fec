"""Published figures that a report shows beside a run, each with its source and marked as not measured here.

A benchmark names a TOML file of them (``Benchmark.published``); all figures are in percent.
"""

import logging
import tomllib
from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from safe_r1.benchmarks.attacked import split_attack
from safe_r1.report.labels import installed_benchmark

logger = logging.getLogger(__name__)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BilingualText(_Entry):
    """One statement in Chinese and in English."""

    zh: str
    en: str


class Reference(_Entry):
    """The publication of a figure."""

    title: str
    url: str = Field(pattern=r"^https://[^\s<>\"]+$")


class PublishedResult(_Entry):
    """Figures of one model.

    Attributes:
        model: Name of the model.
        reference: Key of the publication in ``PublishedFigures.references``.
        figures: Metric (see ``safe_r1.report.labels.METRICS``) to percent; a metric may be absent.
        accuracy_by_area: Area key to percent, where the publication gives it.
    """

    model: str
    reference: str
    figures: dict[str, float] = Field(default_factory=dict)
    accuracy_by_area: dict[str, float] = Field(default_factory=dict)


class PublishedFigures(_Entry):
    """The content of a benchmark's ``published.toml``.

    Attributes:
        key_note: How accuracy on the answer key of a run relates to the published accuracy.
        comparability: How their measurement differs from a run's, as a clause without a full stop.
        columns: The metrics shown, in order, with the name of each column.
        references: Publications by key.
        results: Figures in the order of the report.
    """

    key_note: BilingualText | None = None
    comparability: BilingualText
    columns: dict[str, BilingualText]
    references: dict[str, Reference]
    results: list[PublishedResult]


@cache
def published_figures(benchmark: str) -> PublishedFigures | None:
    """Published figures for the benchmark with this name; None where it has none or is not installed."""
    # They are of plain questions.
    found = None if split_attack(benchmark)[1] else installed_benchmark(benchmark)
    if found is None or found.published is None:
        return None
    try:
        return PublishedFigures.model_validate(tomllib.loads(found.published.read_text("utf-8")))
    except (OSError, ValueError) as error:
        # A damaged file of another package must not keep the results of a run from being published.
        logger.warning("%s: published figures are left out, %s: %s", benchmark, found.published, error)
        return None
