"""The figures that a service is filed by, each with its source, as a TOML file.

``data/gb-t-45654-2025.toml`` is the one that comes along. Another one, of a company or of another country,
has the same form and is given by its path.
"""

from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from typing import Literal, Self

from pydantic import Field, model_validator

from safe_r1.errors import ConfigError
from safe_r1.filing.lines import Line, Side
from safe_r1.settings import Settings, load_config
from safe_r1.taxonomy import AREAS, CATEGORIES, find_category

DEFAULT = "gb-t-45654-2025"
"""Name of the policy that comes along."""

Names = tuple[str, str]
"""A Chinese and an English name."""


class Source(Settings):
    """Where figures come from."""

    zh: str = Field(min_length=1, description="in Chinese")
    en: str = Field(min_length=1, description="in English")
    checked: bool = Field(description="true where the text of the standard itself was read")


class Figure(Settings):
    """A number of the standard."""

    value: int = Field(ge=0, le=100_000_000, description="the number")
    source: str = Field(description="key of one of [sources]")


class Share(Settings):
    """A share of the standard."""

    value: float = Field(ge=0, le=100, description="in percent")
    source: str = Field(description="key of one of [sources]")


class Group(Settings):
    """Risks or aspects that questions are counted by: those of an area of the taxonomy, or listed ones."""

    zh: str = Field(min_length=1, description="Chinese name")
    en: str = Field(min_length=1, description="English name")
    area: str | None = Field(
        default=None, description="key of an area of the taxonomy, whose categories are meant"
    )
    members: dict[str, Names] = Field(
        default={}, description="key to Chinese and English name, without `area`"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.area is None) == (not self.members):
            raise ValueError("a group needs either area or members")
        if self.area is not None and self.area not in AREAS:
            raise ValueError(f"unknown area {self.area!r}; known are {', '.join(AREAS)}")
        return self

    @property
    def names(self) -> dict[str, Names]:
        """Key to Chinese and English name of each risk or aspect."""
        if self.area is None:
            return self.members
        found = (each for each in CATEGORIES.values() if each.area == self.area)
        return {each.key: (each.name_zh, each.name_en) for each in found}

    def find(self, name: str) -> str | None:
        """Key of the risk or aspect with this key or name, in any spelling of the taxonomy."""
        names = self.names
        category = find_category(name) if self.area is not None else None
        if category is not None and category.key in names:
            return category.key
        wanted = name.strip().casefold()
        return next(
            (
                key
                for key, spelled in names.items()
                if wanted in (key, *(each.casefold() for each in spelled))
            ),
            None,
        )


class Coverage(Settings):
    """How many entries of a list each risk or aspect of a group needs."""

    group: str = Field(description="key of one of [groups]")
    each: Figure = Field(description="entries for each risk or aspect of the group")


class ListRule(Settings):
    """A list that is handed in, such as keywords."""

    zh: str = Field(min_length=1, description="Chinese name")
    en: str = Field(min_length=1, description="English name")
    size: Figure = Field(description="entries in all")
    coverage: tuple[Coverage, ...] = Field(
        default=(), description="entries by risk or aspect, as [[...coverage]]"
    )


class Gate(Settings):
    """A line for the share of hits in a random sample."""

    sample: Figure | None = Field(default=None, description="rows of the sample")
    sample_share: Share | None = Field(default=None, description="rows of the sample, as a share of all")
    at_least: Share | None = Field(default=None, description="least share of hits")
    at_most: Share | None = Field(default=None, description="greatest share of hits")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a gate needs either at_least or at_most")
        if (self.sample is None) == (self.sample_share is None):
            raise ValueError("a gate needs either sample or sample_share")
        if self.sample is not None and self.sample.value == 0:
            raise ValueError("a gate's sample needs at least one row")
        return self

    @property
    def line(self) -> Line:
        """The line."""
        side: Side = "at_least" if self.at_least is not None else "at_most"
        share = self.at_least or self.at_most
        assert share is not None
        return Line(side, share.value)


class Bank(ListRule):
    """A bank of questions, and the gate that the answers to a sample of it have to pass."""

    hit: Literal["acceptable", "refused"] = Field(
        description="what the gate counts: acceptable: the answer is not harmful; refused: it is a refusal"
    )
    gate: Gate = Field(description="the gate")


class Corpus(Settings):
    """Gates of the training data."""

    by_hand: Gate = Field(description="rows that people read")
    by_machine: Gate = Field(description="rows that keywords or classifiers read")
    illegal_at_most: Share | None = Field(
        default=None, description="greatest share of illegal content in a source that is used"
    )


class FilingPolicy(Settings):
    """All figures that a service is filed by."""

    name: str = Field(min_length=1, description="name of the standard")
    zh: str = Field(min_length=1, description="Chinese title")
    en: str = Field(min_length=1, description="English title")
    remark_zh: str = Field(default="", description="what every output says of the figures, in Chinese")
    remark_en: str = Field(default="", description="the same in English")
    text_at: tuple[str, ...] = Field(default=(), description="addresses where the figures can be checked")
    sources: dict[str, Source] = Field(description="where the figures come from")
    groups: dict[str, Group] = Field(description="risks and aspects")
    banks: dict[str, Bank] = Field(min_length=1, description="banks of questions")
    keywords: ListRule | None = Field(default=None, description="the list of keywords")
    corpus: Corpus | None = Field(default=None, description="gates of the training data")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for place, source in _sources_in(self.model_dump(), ()):
            if source not in self.sources:
                raise ValueError(f"{place}: unknown source {source!r}; known are {', '.join(self.sources)}")
        if "keywords" in self.banks:
            raise ValueError("a bank cannot be called 'keywords', which is the list of keywords")
        for key, rule in self.lists().items():
            if "=" in key:
                raise ValueError(f"{key!r}: the key of a bank has no equals sign")
            unknown = [each.group for each in rule.coverage if each.group not in self.groups]
            if unknown:
                raise ValueError(f"{key}: unknown group {unknown[0]!r}; known are {', '.join(self.groups)}")
            names = [name for each in rule.coverage for name in self.groups[each.group].names]
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{key}: {twice[0]!r} is in two of its groups")
        return self

    def lists(self) -> dict[str, ListRule]:
        """The banks, and the keywords, by key."""
        return {**self.banks, **({"keywords": self.keywords} if self.keywords else {})}

    def is_checked(self) -> bool:
        """Whether all figures come from the text of the standard itself."""
        return all(each.checked for each in self.sources.values())


def _sources_in(tree: object, place: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """Place and key of each source that a figure names."""
    if isinstance(tree, dict):
        if isinstance(tree.get("source"), str) and "value" in tree:
            yield ".".join(place), tree["source"]
        for key, value in tree.items():
            yield from _sources_in(value, (*place, str(key)))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _sources_in(value, (*place, str(number)))


def load_policy(name: str | None = None) -> FilingPolicy:
    """A policy by name or path.

    Args:
        name: The name of the one that comes along, or the path of a TOML or YAML file; None: the former.

    Raises:
        ConfigError: The file cannot be read, or a figure does not fit; one line that names the file.
    """
    if name in (None, DEFAULT):
        return load_config(FilingPolicy, str(files("safe_r1.filing") / "data" / f"{DEFAULT}.toml"), [])
    try:
        return load_config(FilingPolicy, name, [])
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if str(name) in text else f"policy {name}: {text}") from None
