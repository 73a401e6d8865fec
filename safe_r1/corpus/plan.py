"""What a corpus will be made of, decided and checked before anything is started or written."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from upath import UPath

from safe_r1.corpus.decontaminate import load_questions
from safe_r1.corpus.dedup import NUM_BANDS, NUM_PERM
from safe_r1.corpus.mixing import quota_sizes, refuse_shortfalls
from safe_r1.corpus.recipe import Recipe, Source
from safe_r1.corpus.rows import Row, normalise
from safe_r1.corpus.sources import Part, list_parts, pin, read_part
from safe_r1.corpus.teachers import WORDS_SHA256
from safe_r1.errors import DataError
from safe_r1.policies import load_cards
from safe_r1.provenance import versions
from safe_r1.runs import sha256

_LOOKED_AT = 50
_TOKENS_OF_A_POLICY = 700
_TOKENS_OF_A_RESPONSE = 900


@dataclass(frozen=True)
class Plan:
    """A recipe with its sources found.

    Attributes:
        recipe: The recipe.
        parts: Of all sources, in the recipe's order.
        fingerprint: Everything that could change a row of the corpus.
    """

    recipe: Recipe
    parts: list[Part]
    fingerprint: dict[str, Any]

    def count(self, source: str) -> int:
        """Records of a source."""
        return sum(part.num_records for part in self.parts if part.place == source)


def make_plan(recipe: Recipe) -> Plan:
    """Find all sources and protected questions, and check what can be checked without reading everything.

    Raises:
        DataError: A source is missing, its mapping does not fit its records, or a quota asks for more rows
            than there are.
    """
    recipe = _pinned(recipe)
    parts: list[Part] = []
    for source in recipe.sources:
        mine = list_parts(source, recipe.data, recipe.rows_per_part, source.limit)
        _check_mapping(source, mine[0])
        parts += mine
    plan = Plan(recipe, parts, {})
    _check_supply(plan)
    questions = load_questions(recipe.decontamination.protected, recipe.data)
    settings = recipe.model_dump(mode="json", exclude={"output", "data"})
    for name in ("engine", "concurrency", "timeout_s", "max_retries"):
        settings["synthesis"].pop(name)
    fingerprint = {
        "recipe": settings,
        "files": _hashes(parts),
        "records": {source.name: plan.count(source.name) for source in recipe.sources},
        "protected": sha256([[question.name, question.text] for question in questions]),
        "teacher": WORDS_SHA256,
        "policy_cards": sha256([asdict(card) for card in load_cards().values()]),
        "minhash": [NUM_PERM, NUM_BANDS],
        "versions": versions(("safe_r1", "rensa")),
    }
    return replace(plan, fingerprint=fingerprint)


def _pinned(recipe: Recipe) -> Recipe:
    guards = tuple(place if place.benchmark else pin(place) for place in recipe.decontamination.protected)
    return recipe.model_copy(
        update={
            "sources": tuple(map(pin, recipe.sources)),
            "decontamination": recipe.decontamination.model_copy(update={"protected": guards}),
        }
    )


def _check_mapping(source: Source, part: Part) -> None:
    """The first records have the mapped fields: a mapping that fits none of them is a mistake, not bad data."""
    rows = _first_rows(source, part)
    faults = [row.drop for row in rows if row.drop and row.drop.reason == "malformed"]
    if len(faults) == len(rows):
        raise DataError(
            f"source {source.name}: its mapping fits none of its first {len(rows)} records; {faults[0].detail}"
        )


def _first_rows(source: Source, part: Part) -> list[Row]:
    few = replace(part, num_records=min(part.num_records, _LOOKED_AT))
    return [normalise(record, source) for record in read_part(source, few)]


def _check_supply(plan: Plan) -> None:
    """No quota of a kind and language asks for more rows than its sources hold, duplicates and all."""
    recipe = plan.recipe
    wanted: Counter[tuple[str, str | None]] = Counter()
    for quota, size in zip(recipe.quotas, quota_sizes(recipe), strict=True):
        wanted[quota.kind, quota.language] += size
    missed = []
    for (kind, language), size in wanted.items():
        had = sum(
            plan.count(s.name) for s in recipe.sources if s.kind == kind and language in (None, s.language)
        )
        if had < size * (1 - recipe.max_shortfall):
            missed.append(
                f"{kind}/{language or 'any'} wants {size:,} rows, its sources hold {had:,} ({size - had:,} too few)"
            )
    refuse_shortfalls(missed)


def _hashes(parts: list[Part]) -> dict[str, dict[str, str]]:
    """Source to its files' hashes by number and name: their folder may be another one on another node."""
    files: dict[str, list[str]] = {}
    for part in parts:
        if part.format != "hub" and part.file not in files.setdefault(part.place, []):
            files[part.place].append(part.file)
    return {
        place: {f"{number} {UPath(file).name}": _hash(file) for number, file in enumerate(mine)}
        for place, mine in files.items()
    }


def _hash(file: str) -> str:
    with UPath(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def dry_run(recipe: Recipe, show: Callable[[str], None]) -> None:
    """Show sources, rows, quotas and what the teacher would cost; starts and writes nothing."""
    plan = make_plan(recipe)
    recipe = plan.recipe
    show(f"recipe {recipe.name}: {recipe.description}")
    show("\nsources")
    prompts: dict[str, int] = {}
    for source in recipe.sources:
        first = next(part for part in plan.parts if part.place == source.name)
        needs_teacher = not any(row.has_response for row in _first_rows(source, first) if row.drop is None)
        count = plan.count(source.name)
        if needs_teacher:
            prompts[source.name] = count
        note = "  → teacher" if needs_teacher else ""
        show(
            f"  {source.name:28} {count:>9,} rows  {source.kind:17} {source.language}  {source.licence}{note}"
        )
    if recipe.quotas:
        show(f"\nquotas of {recipe.total:,} rows")
        for quota, size in zip(recipe.quotas, quota_sizes(recipe), strict=True):
            fitting = [
                s.name
                for s in recipe.sources
                if s.kind == quota.kind and quota.language in (None, s.language)
            ]
            had = sum(map(plan.count, fitting))
            show(f"  {quota.title:38} {size:>8,} wanted, sources of this kind and language hold {had:,}")
    questions = load_questions(recipe.decontamination.protected, recipe.data)
    show(f"\nprotected: {len(questions):,} questions of {len(recipe.decontamination.protected)} sets")
    calls = sum(prompts.values()) * recipe.synthesis.candidates
    tokens = (
        "no tokens"
        if recipe.teacher == "template"
        else f"about {calls * _TOKENS_OF_A_RESPONSE:,} tokens to write"
    )
    read = "" if recipe.teacher == "template" else f" and {calls * _TOKENS_OF_A_POLICY:,} to read"
    show(
        f"teacher {recipe.teacher}: at most {calls:,} calls for {sum(prompts.values()):,} prompts, {tokens}{read}"
    )
    show(f"output: {recipe.output}")
