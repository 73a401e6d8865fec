"""From a finished run and labels of it to corrected rates, exact from the seed."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from upath import UPath

from safe_r1.calibration.calibrate import calibrate, compare_corrected, read_draws
from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.cli import app
from safe_r1.errors import DataError, StorageError
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.runs import RunFolder
from safe_r1.schema import RefusalLabel
from tests.unit.calibration.judged_runs import (
    judged_answers,
    key_rows,
    label_rows,
    rate,
    refusal_rows,
    sampled,
    true_class,
    write_jsonl,
    write_judged_run,
)
from tests.unit.compare.runs import label_all

pytestmark = pytest.mark.slow


def test_rates_of_perfect_labels_are_those_of_the_labels(run: Path, tmp_path: Path):
    folder = sampled(run, num=200)
    rows = label_rows(run, folder)
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    truth = Counter(row["label"] for row in rows)
    share = truth[RefusalLabel.HARMFUL] / len(rows)
    harm = rate(found, "harm_rate")
    # Every text is labelled: the draws vary by the questions' weights alone.
    assert harm.value == pytest.approx(share, abs=0.01)
    assert harm.high - harm.low == pytest.approx(2 * 1.96 * (share * (1 - share) / 200) ** 0.5, rel=0.1)
    assert harm.judged == pytest.approx(
        sum(each.stratum.label == RefusalLabel.HARMFUL for each in judged_answers(run)) / 200
    )
    assert found.num_labelled == 200


def test_a_few_labels_correct_rates_areas_and_leaks(run: Path, tmp_path: Path):
    folder = sampled(run, "answer", "reasoning")
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", label_rows(run, folder))])
    truth = Counter(true_class(item) for item in judged_answers(run))
    for metric, labels in (
        ("harm_rate", ["不拒绝且给出风险回复"]),
        ("responsible_rate", ["拒绝并负责任引导"]),
    ):
        each = rate(found, metric)
        assert each.low < sum(truth[label] for label in labels) / 200 < each.high
        assert each.bound_low == each.low
        assert each.bound_high == each.high
    areas = {each.key for each in found.rates if each.scope == "area" and each.metric == "harm_rate"}
    assert len(areas) == 2
    assert {each.scope for each in found.rates} == {"overall", "area", "category", "history"}
    leak = rate(found, "leak_rate", "reasoning")
    assert 0 < leak.low < leak.value < leak.high < 1
    saved = json.loads((run / "calibration.json").read_text("utf-8"))
    assert saved["rates"] == [each.to_json() for each in found.rates]
    assert (run / "metrics.json").exists()


def test_equal_labels_and_seed_give_equal_bytes(run: Path, tmp_path: Path):
    labels = write_jsonl(tmp_path / "l.jsonl", label_rows(run, sampled(run)))
    first = calibrate(str(run), [labels])
    draws = (run / "calibration-draws.parquet").read_bytes()
    again = calibrate(str(run))
    assert again.rates == first.rates
    assert (run / "calibration-draws.parquet").read_bytes() == draws
    assert calibrate(str(run), seed=1).rates != first.rates


def test_missing_rows_are_bounds_and_not_guessed(tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", refusal_rows(missing=40))
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", label_rows(run, sampled(run)))])
    harm = rate(found, "harm_rate")
    assert (harm.num_judged, harm.num_missing) == (160, 40)
    # As misses they take a fifth of the rate away, as hits they add a fifth of all.
    assert harm.bound_low == pytest.approx(0.8 * harm.low, abs=0.02)
    assert harm.bound_high == pytest.approx(0.2 + 0.8 * harm.high, abs=0.03)


def test_a_class_without_a_label_has_the_floor_of_jeffreys(run: Path, tmp_path: Path):
    rows = label_rows(run, sampled(run), say=lambda _: RefusalLabel.RESPONSIBLE.value)
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    harm, refused = rate(found, "harm_rate"), rate(found, "rejection_rate")
    assert (harm.floored, refused.floored) == ("high", "low")
    # 80 labels in four strata: Jeffreys' upper end of 0 of 80 is 3.1%, of fewer effective ones more.
    assert 0.03 < harm.high < 0.07
    assert 0.93 < refused.low < 0.97


def test_the_answer_key_is_labelled_like_a_judge(tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", key_rows())
    written = write_label_sample(str(run), 90)
    assert written.num_by_subject == {"key": 90}
    folder = Path(written.folder.path)
    strata = {
        (each["label"], each["level"]) for each in json.loads((folder / "record.json").read_text())["strata"]
    }
    assert strata == {
        (label, level) for label in ("correct", "incorrect") for level in ("high", "medium", "low")
    }
    assert "参考答案" not in (folder / "label.html").read_text("utf-8").partition("<script>")[0]
    # People say that the model is right wherever it chose B.
    rows = label_rows(run, folder, say=lambda item: "B")
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    chosen = [verdict.choice for verdict in key_rows()[2]]
    accuracy = rate(found, "accuracy")
    assert accuracy.low < sum(choice == "B" for choice in chosen) / len(chosen) < accuracy.high
    rows[0]["label"] = "直接拒绝"
    with pytest.raises(DataError, match="expected a letter, or cannot_tell"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])


def test_differences_of_two_runs_are_paired(tmp_path: Path):
    samples, completions, verdicts = refusal_rows()
    labels = list(RefusalLabel)
    milder = [
        replace(each, label=RefusalLabel.RESPONSIBLE.value, degree=3)
        if each.part == "answer" and each.label == RefusalLabel.REFUSAL
        else each
        for each in verdicts
    ]
    folders = []
    for name, scored in (("first", verdicts), ("second", milder)):
        run = write_judged_run(tmp_path / "runs", (samples, completions, scored), run=name)
        rows = label_rows(run, sampled(run, num=200), say=lambda item: item.stratum.label)
        calibrate(str(run), [write_jsonl(tmp_path / f"{name}.jsonl", rows)])
        folders.append(RunFolder(UPath(run)))
    changed = sum(each.label == labels[2] for each in verdicts if each.part == "answer") / 200
    found = {(each.metric, each.scope): each for each in compare_corrected(*folders)}
    guided = found["responsible_rate", "overall"]
    assert guided.value == pytest.approx(changed, abs=0.01)
    assert guided.low < changed < guided.high
    # The same answers in both, and the same weights of their questions: no difference at all.
    same = found["harm_rate", "overall"]
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert np.ptp(next(iter(read_draws(folders[0]).values()))) > 0
    calibrate(str(folders[1].path), seed=5)
    with pytest.raises(DataError, match="calibrate both with the same"):
        compare_corrected(*folders)


def test_without_labels_no_rate_is_corrected(run: Path):
    result = CliRunner().invoke(app, ["calibrate", str(run)])
    assert result.exit_code == 0, result.output
    assert "no labels of this run, so no rate is corrected" in result.output
    assert result.output.count("not of this model") == 4
    saved = json.loads((run / "calibration.json").read_text("utf-8"))
    assert saved["rates"] == []
    assert saved["gold"]["about"] == "not of this model"
    unknown = CliRunner().invoke(app, ["calibrate", str(run.parent)])
    assert isinstance(unknown.exception, StorageError)


def test_the_commands(run: Path, tmp_path: Path):
    result = CliRunner().invoke(app, ["label-sample", str(run), "--n", "80", "--of", "answer,reasoning"])
    assert result.exit_code == 0, result.output
    assert "80 answers, 80 reasonings of 400 texts" in result.output
    folder = next((run / "label-sample").iterdir())
    labels = write_jsonl(tmp_path / "l.jsonl", label_rows(run, folder, "eve\x1b[31m"))
    result = CliRunner().invoke(app, ["calibrate", str(run), "--labels", labels])
    assert result.exit_code == 0, result.output
    assert "Harm rate HR" in result.output
    assert "Leak rate" in result.output
    assert "\x1b" not in result.output
    refused = CliRunner().invoke(app, ["label-sample", str(run), "--of", "thoughts"])
    assert "--of thoughts: expected answer, reasoning, key" in str(refused.exception)
    refused = CliRunner().invoke(app, ["label-sample", str(run), "--of", "key"])
    assert "no key of it has a label to be checked" in str(refused.exception)


def test_labels_of_rows_that_changed_since_are_told_with_a_remedy(run: Path, tmp_path: Path):
    rows = label_rows(run, sampled(run, "answer"))
    calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    label_all(run, "直接拒绝")
    result = CliRunner().invoke(app, ["calibrate", str(run)])
    assert result.exit_code == 0, result.output
    assert f"the {len(rows)} labels of this run are of other rows" in result.output
    assert "draw and label again: safe-r1 label-sample" in result.output
    rewrite_report(str(run))
    assert f"{len(rows)} labels are of other rows" in (run / "report.md").read_text("utf-8")
    assert f"{len(rows)} 条人工标注属于其他行" in (run / "report.html").read_text("utf-8")
    # New labels count beside them.
    again = label_rows(run, sampled(run, "answer", "reasoning", num=60))
    calibrate(str(run), [write_jsonl(tmp_path / "m.jsonl", again)])
    result = CliRunner().invoke(app, ["calibrate", str(run)])
    assert f"{len(rows)} earlier labels are of other rows and do not count" in result.output
