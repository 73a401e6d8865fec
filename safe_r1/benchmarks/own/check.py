"""Shows what is recognised in a file of questions, before a model is asked any of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from upath import UPath

from safe_r1.benchmarks.own.benchmark import OwnBenchmark, explain
from safe_r1.benchmarks.own.mapping import Columns, check_task, recognise
from safe_r1.benchmarks.own.profile import Profile
from safe_r1.benchmarks.own.reading import Reading
from safe_r1.benchmarks.own.settings import GROUP, TASKS
from safe_r1.benchmarks.own.words import ROLES
from safe_r1.benchmarks.sample_table import SampleTable
from safe_r1.errors import ConfigError, DataError
from safe_r1.runs import write_bytes
from safe_r1.schema import Sample
from safe_r1.settings import toml_comment, toml_string

_NUM_SAMPLES = 3
_EXAMPLES = {"sheet": "NAME", "encoding": "gb18030", "records": "FIELD"}


@dataclass(frozen=True)
class FileCheck:
    """What ``safe-r1 benchmark check`` shows of a file.

    Attributes:
        lines: For the terminal; they hold text of the file, which may contain anything.
        num_misfits: Rows that do not fit.
    """

    lines: list[str]
    num_misfits: int


def check_questions(benchmark: OwnBenchmark) -> FileCheck:
    """Columns, counts, three rendered samples, and every row that does not fit.

    Raises:
        ConfigError, DataError: Its columns or its task cannot be told, or it cannot be read.
    """
    reading = benchmark.reading
    lines = [
        f"{benchmark.file.place.file_name}: {reading.num_rows} rows, {len(reading.samples)} questions, "
        f"{len(reading.misfits)} that do not fit; sha256 {benchmark.sha256[:12]}",
        *(f"  {line}" for line in explain(reading)),
        *_counts(reading),
    ]
    for sample in _examples(reading.samples):
        lines += _render(sample)
    if reading.misfits:
        lines.append("rows that do not fit:")
        lines += [f"  {misfit.where}: {misfit.reason}" for misfit in reading.misfits.first]
        if (num_more := len(reading.misfits) - len(reading.misfits.first)) > 0:
            lines.append(f"  and {num_more} more")
    return FileCheck(lines, len(reading.misfits))


def _counts(reading: Reading) -> Iterator[str]:
    tasks = ", ".join(f"{task} {count}" for task, count in reading.count_by("task").items())
    yield f"  questions by task: {tasks or 'none'}"
    for name, field in (("area", "area"), ("category", "category")):
        counts = reading.count_by(field)
        named = ", ".join(f"{reading.labels.get(key, (key, ''))[0]} {count}" for key, count in counts.items())
        yield f"  by {name}: {named or 'none'}"
    if reading.num_repeated:
        yield f"  asked more than once: {reading.num_repeated}"
    if reading.num_given:
        yield f"  with a given answer, which --variant given judges: {reading.num_given}"


def _examples(samples: SampleTable) -> list[Sample]:
    """The first sample of each task, and others until there are three."""
    if not samples:
        return []
    tasks = samples.column("task").cast("string")
    firsts = sorted(tasks.index(task).as_py() for task in tasks.unique())
    places = dict.fromkeys([*firsts, 0, len(samples) // 2, len(samples) - 1])
    return [samples[place] for place in list(places)[:_NUM_SAMPLES]]


def _render(sample: Sample) -> Iterator[str]:
    answer = sample.metadata.get("answer")
    yield f"--- {sample.sample_id}" + (f" (answer {answer})" if answer else "")
    for turn in sample.messages:
        yield f"[{turn['role']}] {turn['content']}"


def write_settings(benchmark: OwnBenchmark, force: bool) -> tuple[str, UPath | None]:
    """Write the TOML file beside the questions with what was recognised and why.

    Args:
        benchmark: The questions.
        force: Replace a file that exists.

    Returns:
        The file's text and its path; None as path for a dataset of the hub, which has no file beside it.

    Raises:
        ConfigError: The file exists.
        DataError: The questions cannot be read.
        StorageError: The file cannot be written.
    """
    path = benchmark.file.place.beside
    if path is not None and path.exists() and not force:
        raise ConfigError(f"{path}: exists already; --force replaces it")
    files = benchmark.file.files()
    profile = benchmark.file.profile(files)
    text = "\n".join(_toml(benchmark, profile)) + "\n"
    for note in (note for _, layout in files for note in layout.notes):
        text = f"# {toml_comment(note)}\n{text}"
    if path is None:
        table = text.replace("[mapping]", f"[{GROUP}.mapping]")
        return f"# For --config of evaluate.\n[{GROUP}]\n{table}", None
    write_bytes(path, text.encode())
    return text, path


def _toml(benchmark: OwnBenchmark, profile: Profile) -> Iterator[str]:
    place = benchmark.file.place
    settings = benchmark.file.settings
    columns = Columns()
    problem = ""
    reason = ""
    try:
        columns = recognise(profile, settings, place.file_name)
        has_options = columns.has_options
        reason = check_task(columns, settings, has_options, place.file_name, profile)
    except DataError as error:
        problem = str(error)
    yield f"# How {toml_comment(place.file_name)} is read: `safe-r1 benchmark check` shows the result."
    counts = ", ".join(f"{column!r} ({count})" for column, count in profile.filled.items())
    yield f"# {profile.num_rows} rows; columns, with the number of filled cells: {toml_comment(counts)}"
    yield f"name = {toml_string(benchmark.name)}"
    yield f"title = {toml_string(benchmark.title)}"
    if problem:
        yield f"# {toml_comment(problem)}"
        yield f'# task = "{TASKS[1]}"'
    else:
        yield f"# {toml_comment(reason)}"
        yield f'task = "{settings.task}"'
    yield f'taxonomy = "{settings.taxonomy}" # "chisafetybench": categories with these names are its 31 ones'
    yield f"max_malformed_share = {settings.max_malformed_share:g}"
    for name, example in _EXAMPLES.items():
        value = getattr(settings, name)
        yield f"{name} = {toml_string(value)}" if value else f"# {name} = {toml_string(example)}"
    yield ""
    yield "[mapping]"
    for role in ROLES:
        column = getattr(columns, role)
        if column is None:
            yield f'# {role} = "" # none; usual names: {", ".join(ROLES[role][:4])}'
        else:
            yield f"{role} = {toml_string(column)} # {toml_comment(columns.reasons[role])}"
    if columns.option_columns:
        names = ", ".join(map(toml_string, columns.option_columns))
        yield f"option_columns = [{names}]"
