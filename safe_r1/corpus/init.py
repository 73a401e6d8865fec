"""``safe-r1 recipe init``: a recipe for some training files, with what was recognised in each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from safe_r1.corpus.forms import Form, recognise
from safe_r1.corpus.own import own_recipe
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import normalise
from safe_r1.corpus.source import Source
from safe_r1.records.find import find_all
from safe_r1.records.sources import RawRecord, list_parts, read_part
from safe_r1.settings import toml_comment, toml_string

# Records looked at in each file: enough to see its forms, and read in a moment.
_NUM_RECORDS = 200
_NUM_FIELDS = 40


@dataclass(frozen=True)
class FoundForms:
    """What the first records of a source are.

    Attributes:
        num_records: Records that were looked at.
        forms: Name and mapping of each form, with the number of its records.
        unused: Fields that are not read, with the number of records that have them.
        fields: All fields.
        drops: Why records could not be used, with their number.
        skipped: Which files of a folder are not read; empty where all are.
    """

    num_records: int
    forms: list[tuple[tuple[str, str], int]]
    unused: Counter[str]
    fields: list[str]
    drops: Counter[str]
    skipped: str = ""


def recipe_text(data: Sequence[str]) -> str:
    """A recipe as TOML for some files, folders, globs, URIs or datasets of the hub.

    Raises:
        DataError: One of them cannot be read.
    """
    recipes = [own_recipe(each) for each in data]
    sources = _with_own_names([recipe.sources[0] for recipe in recipes])
    lines = [
        "# A recipe for your own data: python ray_jobs/build_corpus.py --recipe THIS_FILE [--dry-run].",
        f"name = {toml_string(recipes[0].name)}",
        'description = "Our own data."',
        "# Share of the rows by which training is validated.",
        "validation_share = 0.03",
        'licences = ["own"]',
    ]
    for source in sources:
        lines += ["", *_source_lines(source, look_at(source))]
    return "\n".join([*lines, "", *_rest(recipes[0])]) + "\n"


def look_at(source: Source) -> FoundForms:
    """The forms of the first records of each file of a source."""
    first_parts = {part.file: part for part in reversed(list_parts(source, None, _NUM_RECORDS))}
    records: list[RawRecord] = []
    for part in reversed(list(first_parts.values())):
        records += read_part(source, replace(part, num_records=min(part.num_records, _NUM_RECORDS)))
    values = [record.value for record in records if record.value is not None]
    found = [form for value in values if (form := recognise(value))]
    by_form = Counter((form.name, _mapping(form)) for form in found).most_common()
    rows = [normalise(record, source) for record in records]
    return FoundForms(
        num_records=len(records),
        forms=by_form,
        unused=Counter(name for form in found for name in form.unused),
        fields=list(dict.fromkeys(str(name) for value in values for name in value)),
        drops=Counter(row.drop.reason for row in rows if row.drop),
        skipped="" if source.hub else find_all(source, None).note,
    )


def _with_own_names(sources: Sequence[Source]) -> Iterator[Source]:
    """The sources with a number after each name that an earlier one has."""
    seen: Counter[str] = Counter()
    for source in sources:
        seen[source.name] += 1
        number = seen[source.name]
        yield source if number == 1 else source.model_copy(update={"name": f"{source.name}-{number}"})


def _source_lines(source: Source, found: FoundForms) -> Iterator[str]:
    yield "[[sources]]"
    yield f"name = {toml_string(source.name)}"
    for field in ("path", "hub", "subset", "revision"):
        if value := getattr(source, field):
            yield f"{field} = {toml_string(value)}"
    if source.hub:
        yield f"split = {toml_string(source.split)}"
    if found.skipped:
        yield f"# {toml_comment(found.skipped)}"
    yield "# safety (to be refused), benign-sensitive (only looks harmful), reasoning, or general: all else,"
    yield "# which no judge looks at."
    yield f"kind = {toml_string(source.kind)}"
    yield f"licence = {toml_string(source.licence)}"
    yield "# The judge drops no response of reviewed data."
    yield "trusted = true"
    forms = ", ".join(f"{count} × {name}" for (name, _), count in found.forms) or "no known form"
    yield f"# Of the first {found.num_records} records: {forms}."
    if found.unused:
        names = ", ".join(f"{name} ({count})" for name, count in found.unused.most_common(_NUM_FIELDS))
        yield f"# Fields that are not read, with the number of records: {toml_comment(names)}"
    if found.drops:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found.drops.most_common())
        yield f"# Records that cannot be used, by reason: {reasons}"
    mappings = [mapping for (_, mapping), _ in found.forms]
    if len(mappings) == 1:
        yield f"mapping = {mappings[0]}"
        return
    if mappings:
        yield "# Several forms: without a mapping each record is read by its own fields. Those found:"
        yield from (f"#   mapping = {mapping}" for mapping in mappings)
        return
    yield f"# The fields are: {toml_comment(', '.join(found.fields[:_NUM_FIELDS]))}. Say which is which:"
    yield '#   mapping = { prompt = "FIELD", response = "FIELD" }'
    yield '#   mapping = { messages = "FIELD", role = "role", content = "content" }'


def _rest(recipe: CorpusRecipe) -> Iterator[str]:
    filters = recipe.filters
    yield "[filters]"
    yield "# optional: rows without reasoning stay, as an empty thought; required: they go; empty: every"
    yield "# thought is left out."
    yield f"reasoning = {toml_string(filters.reasoning)}"
    for name in ("min_prompt_chars", "min_reasoning_chars", "min_answer_chars"):
        yield f"{name} = {getattr(filters, name)}"
    for protected in recipe.decontamination.protected:
        yield ""
        yield "# Questions that must not be learned; name the benchmarks that you evaluate on."
        yield "[[decontamination.protected]]"
        yield f"name = {toml_string(protected.name)}"
        yield f"benchmark = {toml_string(str(protected.benchmark))}"


def _mapping(form: Form) -> str:
    fields = form.mapping.model_dump(exclude_defaults=True)
    return "{ " + ", ".join(f"{name} = {toml_string(str(value))}" for name, value in fields.items()) + " }"
