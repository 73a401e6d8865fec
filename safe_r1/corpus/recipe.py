"""Corpus recipes: the settings of a corpus as a TOML file, and every check that needs no data.

The shipped recipes are in ``safe_r1/corpus/recipes``; ``--set a.b=v`` overrides any setting.
"""

import difflib
import re
from importlib.resources import as_file, files
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from safe_r1.config import EngineConfig, JudgeConfig
from safe_r1.corpus.attacked import AttackedConfig
from safe_r1.corpus.source import ConversationKind, Source
from safe_r1.errors import ConfigError
from safe_r1.judge.forms import needs_engine
from safe_r1.language import Language
from safe_r1.records.location import DataLocation
from safe_r1.schema import Part
from safe_r1.settings import Settings, load_config
from safe_r1.taxonomy import AREAS


class Quota(Settings):
    """A share of the corpus; a row counts in the first quota that matches it, and is dropped if none does."""

    share: float = Field(gt=0, le=1, description="share of the corpus")
    kind: ConversationKind = Field(description="kind of the rows")
    language: Language | None = Field(default=None, description="language of the rows; None: any")
    area: str | None = Field(default=None, description="risk area of the rows; None: any")

    @field_validator("area")
    @classmethod
    def _known_area(cls, area: str | None) -> str | None:
        if area is not None and area not in AREAS:
            raise ValueError(f"unknown area, expected one of {', '.join(AREAS)}")
        return area

    @property
    def title(self) -> str:
        """Name of the quota in messages, for example ``safety/zh/values``."""
        return "/".join(filter(None, (self.kind, self.language, self.area)))

    def matches(self, kind: str, language: str, area: str | None) -> bool:
        """True if a row of this kind, language and area belongs to the quota."""
        return self.kind == kind and self.language in (None, language) and self.area in (None, area)


class FilterConfig(Settings):
    """Thresholds of the filters; lengths in characters."""

    min_prompt_chars: int = Field(default=4, ge=1, description="shorter prompts are dropped")
    max_prompt_chars: int = Field(default=8_000, ge=1, description="longer prompts are dropped")
    min_reasoning_chars: int = Field(default=20, ge=0, description="shorter reasoning is dropped")
    max_reasoning_chars: int = Field(default=40_000, ge=1, description="longer reasoning is dropped")
    min_answer_chars: int = Field(default=2, ge=1, description="shorter answers are dropped")
    max_answer_chars: int = Field(default=12_000, ge=1, description="longer answers are dropped")
    max_repetition: float = Field(default=0.35, gt=0, le=1, description="maximum share of repeated text")
    reasoning: Literal["required", "optional", "empty"] = Field(
        default="required",
        description="rows without reasoning are dropped, or kept, or all reasoning is left out",
    )
    category: Literal["required", "optional"] = Field(
        default="optional",
        description="rows about safety without one of the 31 categories are dropped or kept; prompts for a "
        "teacher need one",
    )
    judge_parts: tuple[Part, ...] = Field(
        default=("answer",), description="parts of a safety response that the judge labels"
    )


class DedupConfig(Settings):
    """Near-duplicate removal: MinHash over the n-grams of the prompt."""

    threshold: float = Field(
        default=0.65, gt=0, le=1, description="Jaccard similarity from which two prompts are duplicates"
    )
    family_threshold: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Jaccard similarity from which two rows stay in the same split",
    )
    ngram_chars: int = Field(default=4, ge=1, description="n-gram size for Chinese, in characters")
    ngram_words: int = Field(default=2, ge=1, description="n-gram size for English, in words")


class ProtectedSet(DataLocation):
    """Questions that must not be in the corpus: a registered benchmark by name, or any records."""

    benchmark: str | None = Field(
        default=None, description="name of a benchmark of this package; None: path or hub with text"
    )
    text: tuple[str, ...] = Field(default=(), description="fields that hold the question")

    @model_validator(mode="after")
    def _has_one_location(self) -> Self:
        if self.benchmark is None and ((self.path is None) == (self.hub is None) or not self.text):
            raise ValueError(f"protected {self.name!r}: expected `benchmark`, or `path` or `hub` with `text`")
        return self


class DecontaminationConfig(Settings):
    """Decontamination: removal of rows that overlap with benchmark questions."""

    protected: tuple[ProtectedSet, ...] = Field(
        default=(), description="questions that must not be in the corpus"
    )
    ngram_chars: int = Field(
        default=13, ge=4, description="length of a shared n-gram that is a match, in Chinese characters"
    )
    ngram_words: int = Field(
        default=10, ge=3, description="length of a shared n-gram that is a match, in English words"
    )
    max_questions: int = Field(
        default=5, ge=1, description="n-grams that more questions share are common phrases and not counted"
    )
    similarity: float = Field(
        default=0.78,
        gt=0,
        le=1,
        description="similarity of a part of a turn to a question, by characters, that makes it a near copy",
    )


class SynthesisConfig(Settings):
    """Generation of responses by a teacher for prompts that have none."""

    candidates: int = Field(default=3, ge=1, description="responses per prompt; the best one is kept")
    margin: float = Field(default=1.15, ge=1, description="prompts to answer per row that is still missing")
    model: str | None = Field(
        default=None,
        description="teacher llm: variant, hub id or folder; teacher URL: name of the served model",
    )
    temperature: float = Field(default=0.7, ge=0, description="sampling temperature of the teacher")
    top_p: float = Field(default=0.95, gt=0, le=1, description="nucleus sampling of the teacher")
    max_tokens: int = Field(default=3072, ge=16, description="longest response of the teacher in tokens")
    concurrency: int = Field(default=32, ge=1, description="concurrent requests to a teacher endpoint")
    timeout_s: float = Field(default=300.0, gt=0, description="of one request to a teacher endpoint")
    max_retries: int = Field(
        default=5, ge=0, description="further attempts of one request to a teacher endpoint"
    )
    engine: EngineConfig = Field(default=EngineConfig())


class CorpusRecipe(Settings):
    """All settings of a corpus."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the corpus")
    description: str = Field(default="", description="one or two sentences for the card")
    data: str | None = Field(
        default=None, description="folder or URI that relative paths of sources start from"
    )
    output: str = Field(default="corpus", description="folder or URI of the corpus")
    teacher: str = Field(
        default="template", description="template, llm, or the URL of an OpenAI-compatible endpoint"
    )
    seed: int = Field(default=0, ge=0, description="of shuffling, splitting and the teacher")
    total: int | None = Field(
        default=None, ge=1, description="number of rows of the corpus; None keeps every clean row"
    )
    validation_share: float = Field(
        default=0.02, ge=0, lt=1, description="share of the rows in the validation split"
    )
    max_shortfall: float = Field(
        default=0.0, ge=0, lt=1, description="maximum share of a quota that may be missing"
    )
    max_malformed_share: float = Field(
        default=0.01, ge=0, le=1, description="maximum share of malformed records of one source"
    )
    max_lost_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="maximum share of all rows that may be dropped for one reason; rows that no quota needs "
        "are not lost",
    )
    licences: tuple[str, ...] = Field(min_length=1, description="accepted licences of sources")
    rows_per_part: int = Field(default=2_000, ge=1, description="records per task and per intermediate file")
    sources: tuple[Source, ...] = Field(min_length=1, description="where the rows come from")
    quotas: tuple[Quota, ...] = Field(
        default=(), description="shares of the corpus by kind, language and area"
    )
    filters: FilterConfig = Field(default=FilterConfig())
    dedup: DedupConfig = Field(default=DedupConfig())
    decontamination: DecontaminationConfig = Field(default=DecontaminationConfig())
    synthesis: SynthesisConfig = Field(default=SynthesisConfig())
    attacks: AttackedConfig = Field(default=AttackedConfig())
    judge: JudgeConfig = Field(default=JudgeConfig())

    @field_validator("teacher")
    @classmethod
    def _known_teacher(cls, teacher: str) -> str:
        if teacher in ("template", "llm") or re.match(r"https?://\S+$", teacher):
            return teacher
        raise ValueError("expected template, llm or a URL")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [source.name for source in self.sources]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {duplicates[0]!r}")
        if (self.total is None) != (not self.quotas):
            raise ValueError("`total` and `quotas` go together: give both or none")
        shares = sum(quota.share for quota in self.quotas)
        if self.quotas and abs(shares - 1) > 1e-6:
            raise ValueError(f"the shares of the quotas add up to {shares:g}, expected 1")
        for source in self.sources:
            if source.licence not in self.licences:
                raise ValueError(
                    f"source {source.name!r} is under {source.licence!r}, which this recipe does not allow "
                    f"(licences: {', '.join(self.licences)}); allow it or remove the source"
                )
        if needs_engine(self.judge):
            raise ValueError(
                "judge.kind: the corpus job starts no engine for a judge: expected lexicon, "
                "an endpoint's URL, or the name of an installed judge"
            )
        return self


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(
        path.name.removesuffix(".toml") for path in files("safe_r1.corpus").joinpath("recipes").iterdir()
    )


def load_recipe(name: str, overrides: list[str], **flags: str | None) -> CorpusRecipe:
    """Load a shipped recipe by name, or any recipe file.

    Args:
        name: A shipped recipe, or the path of a TOML or YAML file.
        overrides: ``a.b=v`` strings.
        flags: Values by setting name; None leaves a setting as it is.

    Raises:
        ConfigError: The recipe does not exist, or a setting is unknown or invalid.
    """
    if name.endswith((".toml", ".yaml", ".yml")):
        return load_config(CorpusRecipe, name, overrides, **flags)
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(recipe_names())}"
        raise ConfigError(f"unknown recipe {name!r}: {hint}, or give a .toml file")
    with as_file(files("safe_r1.corpus").joinpath("recipes", f"{name}.toml")) as path:
        return load_config(CorpusRecipe, str(path), overrides, **flags)
