"""Planning of a corpus: all checks and costs that can be determined before anything is started or written."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from upath import UPath

from safe_r1.corpus.attacked import AttackedConfig, identities
from safe_r1.corpus.decontaminate import Question, load_questions
from safe_r1.corpus.forms import recognise
from safe_r1.corpus.mixing import quota_sizes, raise_shortfalls
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import CorpusRow, normalise
from safe_r1.corpus.sketches import NUM_BANDS, NUM_PERM
from safe_r1.corpus.source import FieldMapping, Source
from safe_r1.corpus.teachers import TEACHERS_SHA256
from safe_r1.errors import DataError
from safe_r1.judge.factory import JudgePlan
from safe_r1.policies import load_cards
from safe_r1.progress import NOTICES
from safe_r1.provenance import versions
from safe_r1.records.find import find_all
from safe_r1.records.sources import RawRecord, SourcePart, list_parts, pin_revision, read_part
from safe_r1.runs import sha256
from safe_r1.settings import hide_credentials, public_settings

notices = logging.getLogger(NOTICES)

# Enough to tell a wrong mapping from single malformed records.
_NUM_CHECKED_RECORDS = 50
_NUM_CHECKED_FILES = 20
# Rough averages for the estimate of a dry run.
_TOKENS_PER_POLICY = 700
_TOKENS_PER_RESPONSE = 900
# Settings of the teacher that change how a response is obtained, but not the response.
_RUNTIME_SETTINGS = ("engine", "concurrency", "timeout_s", "max_retries")


@dataclass(frozen=True)
class CorpusPlan:
    """A recipe with its sources found and checked.

    Attributes:
        recipe: The recipe, with the revision of every hub dataset pinned to a commit.
        parts: Parts of all sources, in the order of the recipe.
        questions: The protected questions.
    """

    recipe: CorpusRecipe
    parts: list[SourcePart]
    questions: list[Question]

    def count(self, source: str) -> int:
        """Number of records of a source."""
        return sum(part.num_records for part in self.parts if part.source == source)


def make_plan(recipe: CorpusRecipe) -> CorpusPlan:
    """Find all sources and protected questions, and check everything that needs no full read.

    Raises:
        DataError: A source is missing, its mapping does not fit its records, or a quota needs more rows than
            its sources have.
    """
    recipe = _pin_revisions(recipe)
    parts: list[SourcePart] = []
    for source in recipe.sources:
        found = list_parts(source, recipe.data, recipe.rows_per_part, source.limit)
        _check_mapping(source, found[0])
        if note := "" if source.hub else find_all(source, recipe.data).note:
            notices.warning("source %s: %s", source.name, note)
        if source.mapping is None:
            notices.warning("source %s: %s", source.name, _describe_forms(source, found))
        elif unread := _unread_fields(source, source.mapping, found[0]):
            notices.warning("source %s: fields that are not read: %s", source.name, unread)
        parts += found
    plan = CorpusPlan(recipe, parts, load_questions(recipe.decontamination.protected, recipe.data))
    _check_supply(plan)
    return plan


def _pin_revisions(recipe: CorpusRecipe) -> CorpusRecipe:
    decontamination = recipe.decontamination
    protected = tuple(each if each.benchmark else pin_revision(each) for each in decontamination.protected)
    return recipe.model_copy(
        update={
            "sources": tuple(map(pin_revision, recipe.sources)),
            "decontamination": decontamination.model_copy(update={"protected": protected}),
        }
    )


def _check_mapping(source: Source, part: SourcePart) -> None:
    """Raise an error if the mapping fits none of the first records: then it is wrong, and not the data."""
    rows = _first_rows(source, part)
    faults = [row.drop for row in rows if row.drop and row.drop.stage == "read"]
    if len(faults) == len(rows):
        raise DataError(
            f"source {source.name}: its mapping fits none of its first {len(rows)} records; "
            f"{faults[0].detail}"
        )


def _describe_forms(source: Source, parts: Sequence[SourcePart]) -> str:
    """Which forms the first records of each file have, and which of their fields are not read."""
    first_parts = {part.file: part for part in reversed(parts)}
    beginnings = [_beginning(source, part) for part in list(first_parts.values())[-_NUM_CHECKED_FILES:]]
    records = [record.value for beginning in beginnings for record in beginning if record.value]
    forms = [form for record in records if (form := recognise(record))]
    found = Counter(form.name for form in forms)
    unused = sorted({name for form in forms for name in form.unused})
    described = ", ".join(f"{number} × {name}" for name, number in found.most_common())
    unread = f"; fields that are not read: {', '.join(unused)[:200]}" if unused else ""
    return f"recognised {described} among {len(records)} records at the beginning of its files{unread}"


def _unread_fields(source: Source, mapping: FieldMapping, part: SourcePart) -> str:
    """Fields of the first records that a mapping does not name."""
    named = {str(path).partition(".")[0] for path in mapping.model_dump(exclude_defaults=True).values()}
    found = {str(name): None for record in _beginning(source, part) if record.value for name in record.value}
    return ", ".join(name for name in found if name not in named)[:200]


def _first_rows(source: Source, part: SourcePart) -> list[CorpusRow]:
    return [normalise(record, source) for record in _beginning(source, part)]


def _beginning(source: Source, part: SourcePart) -> Iterator[RawRecord]:
    return read_part(source, replace(part, num_records=min(part.num_records, _NUM_CHECKED_RECORDS)))


def _check_supply(plan: CorpusPlan) -> None:
    """Raise an error if the quotas of a kind and language need more rows than its sources have."""
    recipe = plan.recipe
    wanted: Counter[tuple[str, str | None]] = Counter()
    for quota, size in zip(recipe.quotas, quota_sizes(recipe), strict=True):
        wanted[quota.kind, quota.language] += size
    missed: list[str] = []
    for (kind, language), size in wanted.items():
        count = _count_records(plan, kind, language)
        if count < size * (1 - recipe.max_shortfall):
            missed.append(
                f"{kind}/{language or 'any'} wants {size:,} rows, its sources hold {count:,} "
                f"({size - count:,} too few)"
            )
    raise_shortfalls(missed)


def _count_records(plan: CorpusPlan, kind: str, language: str | None) -> int:
    """Records of all sources of a kind and language (None for any), duplicates included."""
    sources = (source for source in plan.recipe.sources if source.kind == kind)
    matching = (
        source for source in sources if None in (language, source.language) or source.language == language
    )
    return sum(plan.count(source.name) for source in matching)


def fingerprint(plan: CorpusPlan, judge: JudgePlan) -> dict[str, object]:
    """Everything that could change a row of the corpus."""
    recipe = plan.recipe
    settings = public_settings(recipe)
    # Folders and the limit of what may be lost do not change a row, and the identity of the judge stands for
    # its settings.
    for name in ("output", "data", "judge", "max_lost_share"):
        settings.pop(name)
    # As in recipes from before these settings: a corpus of theirs is resumed, not refused.
    _remove_unset(settings)
    attacks = {"attacks": identities(recipe.attacks)}
    if recipe.attacks == AttackedConfig():
        attacks.clear()
        settings.pop("attacks")
    synthesis = recipe.synthesis.model_dump(mode="json", exclude=set(_RUNTIME_SETTINGS))
    return {
        "recipe": settings | {"synthesis": synthesis},
        "files": _hash_files(plan.parts),
        "records": {source.name: plan.count(source.name) for source in recipe.sources},
        # By content: the files of a benchmark may lie elsewhere on another machine.
        "protected": sha256([[question.name, question.text] for question in plan.questions]),
        "teacher": TEACHERS_SHA256,
        "judge": judge.identity,
        "policy_cards": sha256([asdict(card) for card in load_cards().values()]),
        # Signatures of another version of rensa may differ.
        "minhash": [NUM_PERM, NUM_BANDS],
        "versions": versions(("safe_r1", "rensa")),
        **attacks,
    }


def _remove_unset(settings: dict[str, Any]) -> None:
    for location in (*settings["sources"], *settings["decontamination"]["protected"]):
        for name in ("sheet", "encoding"):
            if location[name] is None:
                del location[name]


def _hash_files(parts: Sequence[SourcePart]) -> dict[str, dict[str, str]]:
    """Source to the hashes of its files, by number and name: their folder may differ from node to node."""
    files: dict[str, list[str]] = {}
    for part in parts:
        # A hub dataset is identified by its pinned revision.
        if part.format != "hub" and part.file not in files.setdefault(part.source, []):
            files[part.source].append(part.file)
    return {
        source: {f"{number} {UPath(file).name}": _hash_file(file) for number, file in enumerate(names)}
        for source, names in files.items()
    }


def _hash_file(file: str) -> str:
    with UPath(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def dry_run(recipe: CorpusRecipe, show: Callable[[str], None]) -> None:
    """Show sources, quotas and the cost of the teacher; starts and writes nothing."""
    plan = make_plan(recipe)
    recipe = plan.recipe
    show(f"recipe {recipe.name}: {recipe.description}")
    num_prompts = _show_sources(plan, show)
    if recipe.quotas:
        show(f"\nquotas of {recipe.total:,} rows")
    for quota, size in zip(recipe.quotas, quota_sizes(recipe), strict=True):
        count = _count_records(plan, quota.kind, quota.language)
        show(f"  {quota.title:38} {size:>8,} wanted, sources of this kind and language hold {count:,}")
    _show_attacks(recipe.attacks, show)
    num_sets = len(recipe.decontamination.protected)
    show(
        f"\nprotected: {len(plan.questions):,} questions of {num_sets} sets and the banks of the filing test"
    )
    num_calls = num_prompts * recipe.synthesis.candidates
    tokens = "no tokens"
    if recipe.teacher != "template":
        tokens = (
            f"about {num_calls * _TOKENS_PER_RESPONSE:,} tokens to generate and "
            f"{num_calls * _TOKENS_PER_POLICY:,} to read"
        )
    teacher = hide_credentials(recipe.teacher)
    show(f"teacher {teacher}: at most {num_calls:,} calls for {num_prompts:,} prompts, {tokens}")
    show(f"output: {hide_credentials(recipe.output)}")


def _show_attacks(config: AttackedConfig, show: Callable[[str], None]) -> None:
    if config.train:
        names = ", ".join(attack.name for attack in config.attacks)
        shares = (
            f"{config.share:.0%} of the safety and {config.harmless_share:.0%} of the benign-sensitive rows"
        )
        show(f"\nattacks: {shares}, through {names}")
    if config.held_out:
        show(f"attacks held out: {', '.join(config.held_out_names)}")


def _show_sources(plan: CorpusPlan, show: Callable[[str], None]) -> int:
    """Show the sources; returns how many records need the teacher, judged by the first of each source."""
    show("\nsources")
    num_prompts = 0
    for source in plan.recipe.sources:
        first = next(part for part in plan.parts if part.source == source.name)
        usable = [row for row in _first_rows(source, first) if row.drop is None]
        needs_teacher = not any(row.has_response for row in usable)
        count = plan.count(source.name)
        num_prompts += count if needs_teacher else 0
        note = "  → teacher" if needs_teacher else ""
        kind = f"{source.kind:17} {source.language or 'any'}"
        show(f"  {source.name:28} {count:>9,} rows  {kind}  {source.licence}{note}")
    return num_prompts
