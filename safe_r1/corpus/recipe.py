"""What a corpus is made of and how: the recipe, a TOML file, and the checks that need no data.

A recipe by name lies in ``safe_r1/corpus/recipes``; ``--set a.b=v`` changes any of its settings.
"""

import difflib
import re
from importlib.resources import as_file, files
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from safe_r1.config import EngineConfig, JudgeConfig, Settings, load_config
from safe_r1.errors import ConfigError
from safe_r1.language import Language
from safe_r1.taxonomy import AREAS, CATEGORIES

Kind = Literal["safety", "reasoning", "benign-sensitive"]
KINDS: tuple[Kind, ...] = ("safety", "reasoning", "benign-sensitive")
Format = Literal["auto", "jsonl", "json", "csv", "parquet"]


class Mapping(Settings):
    """Which fields of a record become what; ``a.b`` reaches into nested objects.

    A record gives either a ``prompt`` or ``messages``. A response comes whole (``response``, reasoning in its
    tags) or in two fields (``reasoning`` and ``answer``); a record without either is a prompt for the
    teacher.
    """

    prompt: str | None = None
    messages: str | None = Field(
        default=None, description="a list of turns; a last assistant turn is the response"
    )
    role: str = Field(default="role", description="field of a turn that says who speaks")
    content: str = Field(default="content", description="field of a turn that holds the text")
    response: str | None = None
    reasoning: str | None = None
    answer: str | None = None
    solution: Literal["plain", "gsm8k"] = Field(
        default="plain", description="gsm8k: `answer` holds steps and `#### result`"
    )
    final: str | None = Field(
        default=None, description="the known result, to check the answer's boxed one against"
    )
    category: str | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected either `prompt` or `messages`")
        if self.response and (self.reasoning or self.answer):
            raise ValueError("expected either `response` or `reasoning` and `answer`")
        return self

    @property
    def fields(self) -> list[str]:
        """The fields that every record must have."""
        wanted = (self.prompt, self.messages, self.response, self.reasoning, self.answer, self.final)
        return [field for field in wanted if field]


class Place(Settings):
    """Where records lie: ``path`` (file, folder or glob, relative to ``--data``; ``package:`` for shipped
    ones) or ``hub``.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    path: str | None = None
    hub: str | None = Field(default=None, description="id of a data set on the hub")
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    format: Format = Field(default="auto", description="auto: by the file's name")
    records: str | None = Field(
        default=None, description="JSON: field that holds the records; *: all lists in it"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"source {self.name!r}: expected either `path` or `hub`")
        return self


class Source(Place):
    """One raw source: where it lies, what its records mean, under which licence."""

    kind: Kind
    language: Language
    licence: str
    why: str = Field(default="", description="why this source is in the recipe; stands in the card")
    mapping: Mapping
    category: str | None = Field(default=None, description="category of every row; a key of the taxonomy")
    categories: dict[str, str] = Field(
        default_factory=dict,
        description="the source's own labels → keys of the taxonomy; of a row's labels the one named first here counts",
    )
    trusted: bool = Field(
        default=False, description="its responses were read by its authors: the judge drops none of them"
    )
    classify: bool = Field(default=False, description="find the category by the signs of the policy cards")
    limit: int | None = Field(default=None, ge=1, description="read only so many records")

    @model_validator(mode="after")
    def _known_categories(self) -> Self:
        for key in filter(None, [self.category, *self.categories.values()]):
            if key not in CATEGORIES:
                near = difflib.get_close_matches(key, CATEGORIES, n=2)
                hint = f", did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"source {self.name!r}: unknown category {key!r}{hint}")
        return self


class Quota(Settings):
    """A share of the corpus. A row counts in the first quota that it fits; rows that fit none are left out."""

    share: float = Field(gt=0, le=1)
    kind: Kind
    language: Language | None = None
    area: str | None = None

    @field_validator("area")
    @classmethod
    def _known_area(cls, area: str | None) -> str | None:
        if area is not None and area not in AREAS:
            raise ValueError(f"unknown area, expected one of {', '.join(AREAS)}")
        return area

    @property
    def title(self) -> str:
        """``safety/zh/values``: what the quota asks for."""
        return "/".join(filter(None, (self.kind, self.language, self.area)))

    def fits(self, kind: str, language: str, area: str | None) -> bool:
        """True for a row of that kind, language and area."""
        return self.kind == kind and self.language in (None, language) and self.area in (None, area)


class FilterConfig(Settings):
    """Limits of the filters; lengths in characters."""

    min_prompt_chars: int = Field(default=4, ge=1)
    max_prompt_chars: int = Field(default=8_000, ge=1)
    min_reasoning_chars: int = Field(default=20, ge=0)
    max_reasoning_chars: int = Field(default=40_000, ge=1)
    min_answer_chars: int = Field(default=2, ge=1)
    max_answer_chars: int = Field(default=12_000, ge=1)
    max_repetition: float = Field(
        default=0.35, gt=0, le=1, description="largest share of text that repeats itself"
    )
    judge_parts: tuple[Literal["answer", "reasoning"], ...] = ("answer",)


class DedupConfig(Settings):
    """Near duplicates: MinHash over the n-grams of the prompt."""

    threshold: float = Field(
        default=0.65, gt=0, le=1, description="similarity (Jaccard) from which two prompts are one"
    )
    family_threshold: float = Field(
        default=0.5, gt=0, le=1, description="similarity from which two rows share a split"
    )
    ngram_chars: int = Field(default=4, ge=1, description="Chinese")
    ngram_words: int = Field(default=2, ge=1, description="English")


class Protected(Place):
    """Questions that must not be in the corpus: a benchmark of this package by name, or any records."""

    benchmark: str | None = None
    text: tuple[str, ...] = Field(default=(), description="fields that hold the question")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.benchmark is None and ((self.path is None) == (self.hub is None) or not self.text):
            raise ValueError(f"protected {self.name!r}: expected `benchmark`, or `path` or `hub` with `text`")
        return self


class DecontaminationConfig(Settings):
    """When a row is too close to a benchmark question."""

    protected: tuple[Protected, ...] = ()
    ngram_chars: int = Field(
        default=13, ge=4, description="a shared run of so many Chinese characters is a match"
    )
    ngram_words: int = Field(default=10, ge=3, description="a shared run of so many English words is a match")
    max_questions: int = Field(
        default=5, ge=1, description="a run that more questions share is a phrase, not a question"
    )
    containment: float = Field(
        default=0.7, gt=0, le=1, description="share of a question's short n-grams in a near copy"
    )


class SynthesisConfig(Settings):
    """The teacher that answers prompts without a response."""

    candidates: int = Field(default=3, ge=1, description="responses per prompt; the judge keeps the best")
    margin: float = Field(default=1.15, ge=1, description="prompts asked for each row that is still missing")
    model: str | None = Field(
        default=None, description="llm: variant, hub id or folder; URL: name of the model it serves"
    )
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=3072, ge=16)
    concurrency: int = Field(default=32, ge=1)
    timeout_s: float = Field(default=300.0, gt=0)
    max_retries: int = Field(default=5, ge=0)
    engine: EngineConfig = Field(default=EngineConfig())


class Recipe(Settings):
    """A corpus, from its sources to its quotas."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    data: str | None = Field(default=None, description="folder or URI that relative paths start from")
    output: str = "corpus"
    teacher: str = Field(
        default="template", description="template, llm, or the URL of an OpenAI-compatible endpoint"
    )
    seed: int = Field(default=0, ge=0)
    total: int | None = Field(
        default=None, ge=1, description="rows of the corpus; None keeps every clean row"
    )
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    max_shortfall: float = Field(
        default=0.0, ge=0, lt=1, description="share of a quota that may be missing in the end"
    )
    max_malformed_share: float = Field(default=0.01, ge=0, le=1, description="of one source's records")
    licences: tuple[str, ...] = Field(min_length=1, description="what a source may be under")
    rows_per_part: int = Field(
        default=2_000, ge=1, description="records that are read, and written, together"
    )
    sources: tuple[Source, ...] = Field(min_length=1)
    quotas: tuple[Quota, ...] = ()
    filters: FilterConfig = Field(default=FilterConfig())
    dedup: DedupConfig = Field(default=DedupConfig())
    decontamination: DecontaminationConfig = Field(default=DecontaminationConfig())
    synthesis: SynthesisConfig = Field(default=SynthesisConfig())
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
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {doubled[0]!r}")
        if (self.total is None) != (not self.quotas):
            raise ValueError("`total` and `quotas` go together: give both or none")
        if self.quotas and abs(sum(quota.share for quota in self.quotas) - 1) > 1e-6:
            raise ValueError(
                f"the shares of the quotas add up to {sum(quota.share for quota in self.quotas):g}, expected 1"
            )
        for source in self.sources:
            if source.licence not in self.licences:
                raise ValueError(
                    f"source {source.name!r} is under {source.licence!r}, which this recipe does not allow "
                    f"(licences: {', '.join(self.licences)}); allow it or remove the source"
                )
        if self.judge.kind == "llm":
            raise ValueError("judge.kind: the corpus is judged by lexicon or an endpoint's URL, not by llm")
        return self


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        path.name.removesuffix(".toml") for path in files("safe_r1.corpus").joinpath("recipes").iterdir()
    )


def load_recipe(name: str, overrides: list[str], **flags: str | None) -> Recipe:
    """A recipe of the package by name, or of any TOML file.

    Raises:
        ConfigError: There is no such recipe, or a setting does not fit.
    """
    if name.endswith((".toml", ".yaml", ".yml")):
        return load_config(Recipe, name, overrides, **flags)
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(recipe_names())}"
        raise ConfigError(f"unknown recipe {name!r}: {hint}, or give a .toml file")
    with as_file(files("safe_r1.corpus").joinpath("recipes", f"{name}.toml")) as path:
        return load_config(Recipe, str(path), overrides, **flags)
