"""Files of a run that somebody damaged by hand: every command that reads runs says so in one line, or works.

Each file is damaged in several ways, one at a time; the folder is a small run with labels, a further judge, a
panel and exports.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.cli import app
from safe_r1.errors import SafeR1Error, reading
from safe_r1.evaluation.panels import judge_again
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.evaluation.rejudge import RejudgeConfig
from safe_r1.metrics.strata import Population
from tests.unit.calibration.judged_runs import label_rows, write_jsonl
from tests.unit.compare.runs import refusal_samples, write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM = 24
MAX_CHARS = 1500


def invoke(*arguments: str) -> str:
    """Run a command; gives the message of its error, or nothing where it works."""
    command, *given = arguments
    try:
        if command == "rejudge":
            config = RejudgeConfig(run=given[0], judge_rule="strictest")
            with reading(given[0]):
                judge_again(config, lambda progress: None)
            return ""
        result = CliRunner().invoke(app, list(arguments))
    except SafeR1Error as error:
        return str(error)
    if isinstance(result.exception, SafeR1Error):
        return str(result.exception)
    # A gate that fails, or has not enough evidence, has worked.
    assert result.exit_code == 0 or (command == "gate" and result.exit_code in (3, 4)), (
        arguments,
        result.output,
        result.exception,
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), arguments
    return ""


def commands(root: Path) -> list[tuple[str, ...]]:
    run = str(root / "runs" / "main" / "m" / "asked")
    other = str(root / "other")
    return [
        ("report", run),
        ("export", run, "--output", str(root / "exports")),
        ("label-sample", run, "--n", str(NUM)),
        ("calibrate", run, "--labels", str(root / "labels.jsonl")),
        ("gate", run, "--min", "rr-1=50", "--no-regression", other),
        ("compare", run, other, "--baseline", "base", "--output", str(root / "comparison")),
        ("rejudge", run),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    samples = refusal_samples(NUM)
    other = write_run(root / "other", "base", "asked", samples=samples, skill=0.4)
    run = write_run(root / "runs", "m", "asked", samples=samples, skill=0.6)
    (run / "population.json").write_text(json.dumps(Population.of(samples).to_json()), "utf-8")
    for each in (other, run):
        rewrite_report(str(each))
        record = Path(write_label_sample(str(each), NUM, subjects=["answer"]).folder.path)
        labels = write_jsonl(root / "labels.jsonl", label_rows(each, record))
        assert not invoke("calibrate", str(each), "--labels", labels)
    for command in reversed(commands(root)):
        assert not invoke(*command), command
    return root


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def without_first_key(content: bytes) -> bytes:
    found = json.loads(content)
    return json.dumps({name: found[name] for name in list(found)[1:]}).encode()


def of_other_types(content: bytes) -> bytes:
    """Every value is of another type than it was."""
    found = json.loads(content)
    return json.dumps(
        {name: "text" if isinstance(value, (dict, list)) else [value] for name, value in found.items()}
    ).encode()


def of_other_types_inside(content: bytes) -> bytes:
    """Every value one level down is of another type than it was."""
    found = json.loads(content)

    def changed(value: object) -> object:
        if isinstance(value, dict):
            return {
                name: "text" if isinstance(each, (dict, list)) else [each] for name, each in value.items()
            }
        return [7 for _ in value] if isinstance(value, list) else value

    return json.dumps({name: changed(value) for name, value in found.items()}).encode()


JSON: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": cut,
    "list": lambda _: b"[]",
    "null": lambda _: b"null",
    "empty object": lambda _: b"{}",
    "deep": lambda _: b"[" * 100_000,
    "binary": lambda _: bytes(range(256)),
    "without a key": without_first_key,
    "other types": of_other_types,
    "other types inside": of_other_types_inside,
}
PARQUET: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": cut,
    "json": lambda _: b"{}",
    "binary": lambda content: content[:40] + bytes(255 - byte for byte in content[40:-40]) + content[-40:],
}


def rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(change(pq.read_table(pa.BufferReader(content))), sink)
        return sink.getvalue().to_pybytes()

    return changed


PARQUET |= {
    "no rows": rewrite(lambda table: table.slice(0, 0)),
    "one row less": rewrite(lambda table: table.slice(1)),
    "no columns": rewrite(lambda table: table.select([])),
    "without the first column": rewrite(lambda table: table.select(table.column_names[1:])),
    "without the last columns": rewrite(lambda table: table.select(table.column_names[:4])),
    "nulls": rewrite(
        lambda table: pa.table({name: pa.nulls(len(table), pa.string()) for name in table.column_names})
    ),
    "other types": rewrite(
        lambda table: pa.table({name: pa.array([[1.5]] * len(table)) for name in table.column_names})
    ),
    "numbers": rewrite(
        lambda table: pa.table({name: pa.array(range(len(table))) for name in table.column_names})
    ),
}
FILES = [
    "run.json",
    "metrics.json",
    "population.json",
    "calibration.json",
    "calibration-draws.parquet",
    "samples/*.parquet",
    "completions/*.parquet",
    "verdicts/*.parquet",
    "reviews/*.parquet",
    "label-sample/*/record.json",
    "judges/lexicon*/judge.json",
    "judges/lexicon*/metrics.json",
    "judges/lexicon*/verdicts/*.parquet",
    "judges/strictest*/judge.json",
]


def readers_of(pattern: str, root: Path) -> list[tuple[str, ...]]:
    """The commands that read such a file."""
    by_folder = {"judges": ("report", "rejudge"), "label-sample": ("label-sample", "calibrate")}
    readers = by_folder.get(pattern.partition("/")[0])
    return [command for command in commands(root) if not readers or command[0] in readers]


@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_one_clear_line_or_does_not_matter(whole: Path, pattern: str, tmp_path: Path):
    ways = JSON if pattern.endswith(".json") else PARQUET
    told: list[str] = []
    for way, damage in ways.items():
        root = tmp_path / way.replace(" ", "-")
        shutil.copytree(whole, root)
        run = root / "runs" / "main" / "m" / "asked"
        if not pattern.startswith("judges/"):
            # So that a further judge has to read all of the run.
            shutil.rmtree(run / "judges")
        file = next(iter(sorted(run.glob(pattern))))
        file.write_bytes(damage(file.read_bytes()))
        for command in readers_of(pattern, root):
            # Another command before it may have mended the file.
            file.write_bytes(damage((whole / file.relative_to(root)).read_bytes()))
            line = invoke(*command)
            if line:
                # Settings that differ have a line each.
                more = line.splitlines()[1:]
                assert not more or "other settings" in line, (way, command, line)
                assert len(line) < MAX_CHARS, (way, command, line)
                told.append(line)
        shutil.rmtree(root)
    assert told or pattern.startswith("judges/strictest")


def test_what_is_told_names_the_file(whole: Path, tmp_path: Path):
    root = tmp_path / "run"
    shutil.copytree(whole, root)
    run = root / "runs" / "main" / "m" / "asked"
    (run / "run.json").write_text("[]", "utf-8")
    for command in commands(root):
        assert "run.json is damaged (no JSON object)" in invoke(*command), command
