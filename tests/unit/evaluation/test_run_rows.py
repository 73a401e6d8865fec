"""Runs read by small columns give what all their rows together give, however they were written."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from safe_r1.errors import IntegrityError
from safe_r1.evaluation import run_rows
from safe_r1.evaluation.publish import summarize, warn_of_unknown_thinking
from safe_r1.evaluation.results import completion_key, verdict_key
from safe_r1.evaluation.run_rows import RunRows, read_run
from safe_r1.evaluation.sample_index import index_samples, store_samples
from safe_r1.evaluation.workers import Workers
from safe_r1.metrics.outcomes import is_leak
from safe_r1.metrics.rates import compute_metrics
from safe_r1.metrics.rows import join_rows
from safe_r1.report.row_choice import RowChoice
from safe_r1.runs import RunFolder
from safe_r1.schema import COMPLETION_SCHEMA, VERDICT_SCHEMA, Completion, Verdict
from tests.unit.report.report_rows import Rows, make_rows

pytestmark = pytest.mark.slow

PARTS = ("answer", "reasoning")


def write(
    folder: RunFolder, completions: Sequence[Completion], verdicts: Sequence[Verdict], seed: int, size: int
) -> None:
    """Rows in shards as they finish: in any order, some of them twice."""
    rng = random.Random(seed)
    for stage, rows, schema, key in (
        ("completions", completions, COMPLETION_SCHEMA, completion_key),
        ("verdicts", verdicts, VERDICT_SCHEMA, verdict_key),
    ):
        todo = [asdict(row) for row in rows] + [asdict(row) for row in rng.sample(list(rows), len(rows) // 5)]
        rng.shuffle(todo)
        for start in range(0, len(todo), size):
            folder.write_shard(stage, todo[start : start + size], schema, key)


def stored(path: Path, rows: Rows, seed: int = 0, size: int = 9) -> RunRows:
    samples, completions, verdicts = rows
    folder = RunFolder.locate(str(path), f"run-{seed}", "v", "b")
    index = store_samples(folder, samples)
    write(folder, completions, verdicts, seed, size)
    return read_run(folder, index, Workers(0), PARTS, lambda texts: list(map(len, texts)))


@pytest.mark.parametrize(
    ("num_mcq", "num_refusal", "repeats", "swapped"),
    [(40, 20, 1, False), (30, 10, 1, True), (25, 12, 3, True), (4, 0, 2, False), (0, 7, 2, False)],
)
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_metrics_are_those_of_all_rows_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_mcq: int,
    num_refusal: int,
    repeats: int,
    swapped: bool,
    chunk: int,
):
    monkeypatch.setattr(run_rows, "_CHUNK", chunk)
    rows = make_rows(num_mcq, num_refusal, repeats=repeats, swapped=swapped)
    read = stored(tmp_path, rows)
    summary = summarize(read, max_rows=10_000)
    assert json.dumps(summary.metrics) == json.dumps(compute_metrics(*rows))
    assert sum(each.num_rows for each in summary.coverage) == len(rows[1])
    assert summary.choice.num_rows == len(rows[1])


def test_all_texts_are_read_back(tmp_path: Path):
    samples, completions, verdicts = rows = make_rows(20, 10, repeats=2, swapped=True)
    read = stored(tmp_path, rows)
    shown = read.load(summarize(read, max_rows=10_000).choice.questions())
    assert shown[0] == samples
    assert shown[1] == sorted(completions, key=lambda row: (samples_order(rows, row.sample_id), row.repeat))
    assert join_rows(*shown) == join_rows(samples, completions, verdicts)


def samples_order(rows: Rows, sample_id: str) -> int:
    return [sample.sample_id for sample in rows[0]].index(sample_id)


def test_the_hash_depends_on_rows_and_not_on_files(tmp_path: Path):
    samples, completions, verdicts = rows = make_rows(20, 10, repeats=2)
    found = {stored(tmp_path, rows, seed, size).results_hash() for seed, size in ((1, 5), (2, 9), (3, 500))}
    assert len(found) == 1
    of_another_build = [replace(row, judge=row.judge.partition("@")[0] + "@ffffffff") for row in verdicts]
    assert stored(tmp_path, (samples, completions, of_another_build), 4).results_hash() in found
    served = [replace(row, served_by="m/fp_1") for row in completions]
    assert stored(tmp_path, (samples, served, verdicts), 5).results_hash() in found
    other = [replace(completions[0], completion=completions[0].completion + "。"), *completions[1:]]
    assert stored(tmp_path, (samples, other, verdicts), 6).results_hash() not in found
    explained = [replace(verdicts[0], explanation="x"), *verdicts[1:]]
    assert stored(tmp_path, (samples, completions, explained), 7).results_hash() not in found


def test_a_confidence_changes_no_hash_and_older_runs_have_none(tmp_path: Path):
    samples, completions, verdicts = make_rows(6, 4)
    judged = [replace(each, confidence=0.75) for each in verdicts]
    plain = stored(tmp_path / "plain", (samples, completions, verdicts))
    with_confidence = stored(tmp_path / "judged", (samples, completions, judged))
    assert with_confidence.results_hash() == plain.results_hash()
    shown = with_confidence.load(summarize(with_confidence, max_rows=10_000).choice.questions())
    assert {verdict.confidence for verdict in shown[2]} == {0.75}

    older = RunFolder.locate(str(tmp_path), "older", "v", "b")
    schema = VERDICT_SCHEMA.remove(VERDICT_SCHEMA.get_field_index("confidence"))
    old_rows = [{name: getattr(each, name) for name in schema.names} for each in verdicts]
    index = store_samples(older, samples)
    older.write_shard(
        "completions", [asdict(each) for each in completions], COMPLETION_SCHEMA, completion_key
    )
    older.write_shard("verdicts", old_rows, schema, verdict_key)
    read = read_run(older, index, Workers(0), PARTS, lambda texts: list(map(len, texts)))
    assert read.results_hash() == plain.results_hash()


def test_what_is_missing_or_surplus_is_named(tmp_path: Path):
    samples, completions, verdicts = make_rows(12, 8, repeats=2)
    with pytest.raises(IntegrityError, match=r"completions: 1 of 40 rows are missing, e.g. .*/1"):
        stored(tmp_path, (samples, completions[:-1], verdicts), 1, 500)
    lacking = [row for row in verdicts if row.sample_id != samples[3].sample_id]
    with pytest.raises(IntegrityError, match="verdicts: 2 of 40 rows are missing"):
        stored(tmp_path, (samples, completions, lacking), 2, 500)
    without_thought = [row for row in verdicts if row.part == "answer"]
    assert len(without_thought) < len(verdicts)
    with pytest.raises(IntegrityError, match=r"verdicts on the reasoning: .* missing"):
        stored(tmp_path, (samples, completions, without_thought), 3, 500)
    foreign = replace(completions[0], sample_id="b/nobody/1")
    with pytest.raises(IntegrityError, match="completions of samples that are not of this run: b/nobody/1"):
        stored(tmp_path, (samples, [*completions, foreign], verdicts), 4, 500)


def test_rows_of_two_variants_are_refused_wherever_they_lie(tmp_path: Path):
    samples, completions, verdicts = make_rows(12, 8)
    last = samples[-1].sample_id
    mixed = [replace(row, variant="w") if row.sample_id == last else row for row in completions]
    of_both = [replace(row, variant="w") if row.sample_id == last else row for row in verdicts]
    with pytest.raises(IntegrityError, match="rows of several variants"):
        stored(tmp_path, (samples, mixed, of_both), 1)
    with pytest.raises(IntegrityError, match="rows of several variants"):
        stored(tmp_path, (samples, completions, of_both), 2)


def test_a_row_of_a_repeat_that_the_run_lacks_is_not_taken_for_another_samples(tmp_path: Path):
    samples, completions, verdicts = make_rows(12, 8)
    surplus = [replace(row, repeat=1) for row in verdicts[:3]]
    with pytest.raises(IntegrityError, match=r"part-.*: a row of repeat 1, .*; expected 1 of each question"):
        stored(tmp_path, (samples, completions, [*verdicts, *surplus]), 1)
    unknown = replace(verdicts[0], part="thoughts")  # pyright: ignore[reportArgumentType]
    with pytest.raises(IntegrityError, match=r"verdicts on \['thoughts'\]; expected answer or reasoning"):
        stored(tmp_path, (samples, completions, [*verdicts, unknown]), 2)


def test_questions_of_one_id_are_refused(tmp_path: Path):
    samples, _, _ = make_rows(12, 8)
    folder = RunFolder.locate(str(tmp_path), "main", "v", "b")
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"several questions have: 1, e.g. {samples[3].sample_id}"):
            store_samples(folder, [*samples, samples[3]])


def test_the_samples_of_an_interrupted_session_are_written_once(tmp_path: Path):
    samples, _, _ = make_rows(30, 12, swapped=True)
    folder = RunFolder.locate(str(tmp_path), "main", "v", "b")
    store_samples(folder, samples[:25])
    index = store_samples(folder, samples)
    again = store_samples(folder, samples)
    assert index.ids.to_pylist() == again.ids.to_pylist() == [sample.sample_id for sample in samples]
    assert len(index_samples(folder)) == len(samples)
    for place, sample in enumerate(samples):
        light = index.sample(place)
        assert (light.sample_id, light.group, light.area, light.category) == (
            sample.sample_id,
            sample.group,
            sample.area,
            sample.category,
        )
        assert light.metadata.get("swap_of") == sample.metadata.get("swap_of")


def test_there_are_no_more_kinds_than_categories_and_keys(tmp_path: Path):
    samples, _, _ = make_rows(1500, 500)
    index = store_samples(RunFolder.locate(str(tmp_path), "main", "v", "b"), samples)
    assert len(index.kinds) < len(samples) / 5


@pytest.mark.parametrize("max_rows", [60, 400])
def test_a_report_of_a_large_run_shows_what_is_remarkable_and_some_of_each_kind(max_rows: int):
    rows = join_rows(*make_rows(700, 300))
    choice = RowChoice(max_rows)
    choice.add(rows)
    chosen = set(choice.questions().tolist())
    assert len(chosen) == max_rows
    remarkable = {place for place, row in enumerate(rows) if row.answer.label is None or is_leak(row)}
    assert 60 < len(remarkable) < 400
    if max_rows == 60:
        # Four fifths, so that the ordinary ones are seen too.
        assert len(chosen & remarkable) == 48
        return
    assert remarkable < chosen
    strata = {(row.sample.group, row.sample.category) for row in rows}
    others = chosen - remarkable
    assert {(rows[place].sample.group, rows[place].sample.category) for place in others} == strata


def test_named_samples_are_shown_before_others():
    rows = join_rows(*make_rows(700, 300))
    ordinary = [place for place, row in enumerate(rows) if row.answer.label is not None and not is_leak(row)]
    named = ordinary[::50]
    choice = RowChoice(400, {rows[place].sample.sample_id for place in named})
    choice.add(rows)
    assert set(named) < set(choice.questions().tolist())
    plain = RowChoice(400)
    plain.add(rows)
    assert not set(named) < set(plain.questions().tolist())


def test_questions_are_shown_whole_or_not_at_all():
    rows = join_rows(*make_rows(60, 20, repeats=3, swapped=True))
    questions = [list(each) for _, each in groupby(rows, lambda row: row.question_id)]
    choice = RowChoice(100)
    choice.add(rows)
    chosen = choice.questions()
    assert 90 < sum(len(questions[place]) for place in chosen) <= 100
    assert (np.diff(chosen) > 0).all()
    everything = RowChoice(10_000)
    everything.add(rows)
    assert everything.questions().tolist() == list(range(len(questions)))


def test_thoughts_in_an_unknown_form_are_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples, completions, verdicts = make_rows(0, 20, 1)
    changed = [
        replace(row, reasoning="", answer="<scratchpad>想</scratchpad>选 A") if row.answer else row
        for row in completions
    ]
    kept = [verdict for verdict in verdicts if verdict.part == "answer"]
    folder = RunFolder.locate(str(tmp_path), "run", "v", "b")
    index = store_samples(folder, samples)
    write(folder, changed, kept, 0, 9)
    totals = read_run(folder, index, Workers(0), None, None).totals()
    assert totals.unknown_thinking == {"<scratchpad>": sum(bool(row.answer) for row in completions)}
    warn_of_unknown_thinking("b", totals.unknown_thinking, len(completions))
    assert "generation.thinking_tags" in caplog.text
    caplog.clear()
    warn_of_unknown_thinking("b", {"<scratchpad>": 1}, 100)
    assert not caplog.text
