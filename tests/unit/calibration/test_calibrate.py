"""From a finished run to labels and corrected rates: exact, honest about gaps, closed to wrong labels."""

import csv
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from openpyxl import load_workbook
from typer.testing import CliRunner
from upath import UPath

from safe_r1.calibration.calibrate import calibrate, compare_corrected, read_draws
from safe_r1.calibration.corrected import CorrectedRate
from safe_r1.calibration.items import Item, open_run
from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.calibration.result import Calibration
from safe_r1.calibration.reviews import cohens_kappa
from safe_r1.cli import app
from safe_r1.errors import ConfigError, DataError, RunConflictError, StorageError
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.runs import RunFolder
from safe_r1.schema import RefusalLabel, Verdict
from tests.unit.calibration.judged_runs import (
    key_rows,
    label_rows,
    refusal_rows,
    true_class,
    write_jsonl,
    write_judged_run,
)

NUM = 80


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_judged_run(tmp_path / "runs", refusal_rows())


def sampled(run: Path, *subjects: str, num: int = NUM) -> Path:
    return Path(write_label_sample(str(run), num, subjects=subjects).folder.path)


def rate(
    found: Calibration, metric: str, part: str = "answer", scope: str = "overall", key: str = "all"
) -> CorrectedRate:
    [each] = [
        each
        for each in found.rates
        if (each.metric, each.part, each.scope, each.key) == (metric, part, scope, key)
    ]
    return each


def test_the_files_for_annotators_are_blind(run: Path):
    folder = sampled(run, "answer", "reasoning")
    record = json.loads((folder / "record.json").read_text("utf-8"))
    assert Counter(text["subject"] for text in record["texts"]) == {"answer": NUM, "reasoning": NUM}
    assert len({text["item"] for text in record["texts"]}) == 2 * NUM
    for stratum in record["strata"]:
        assert stratum["num_drawn"] >= min(8, stratum["num_texts"])
        assert stratum["inclusion_probability"] == stratum["num_drawn"] / stratum["num_texts"]
    rows = list(csv.DictReader(io.StringIO((folder / "label.csv").read_text("utf-8-sig"))))
    assert [row["item"] for row in rows] == [text["item"] for text in record["texts"]]
    assert {row["label"] for row in rows} == {""}
    assert all(len(row["choices"].split(" | ")) == 5 for row in rows)
    strata = [record["strata"][text["stratum"]]["label"] for text in record["texts"]]
    # In the order of strata there would be about seven changes.
    assert sum(one != other for one, other in pairwise(strata)) > 50


def test_confidence_makes_strata_and_sure_verdicts_get_fewer_labels(tmp_path: Path):
    def confidence(verdict: Verdict) -> float:
        return 0.95 if int(verdict.sample_id.rpartition("/")[2]) % 2 else 0.6

    run = write_judged_run(tmp_path / "runs", refusal_rows(), confidence=confidence)
    strata = json.loads((sampled(run, num=120) / "record.json").read_text("utf-8"))["strata"]
    assert len(strata) == 8
    shares = {
        level: sum(each["num_drawn"] for each in strata if each["level"] == level)
        / sum(each["num_texts"] for each in strata if each["level"] == level)
        for level in ("high", "low")
    }
    assert shares["low"] > 1.5 * shares["high"]


def test_the_same_draw_is_written_again_and_no_other_in_its_place(run: Path, tmp_path: Path):
    folder = sampled(run)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "label.xlsx"}
    assert sampled(run) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "label.xlsx"} == before
    with pytest.raises(RunConflictError, match="holds another sample"):
        write_label_sample(str(run), NUM, seed=1, output=str(folder))


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
        sum(each.stratum.label == RefusalLabel.HARMFUL for each in _answers(run)) / 200
    )
    assert found.num_labelled == 200


def _answers(run: Path) -> list[Item]:
    return [item for item in open_run(str(run)).items() if item.stratum.subject == "answer"]


def test_a_few_labels_correct_rates_areas_and_leaks(run: Path, tmp_path: Path):
    folder = sampled(run, "answer", "reasoning")
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", label_rows(run, folder))])
    truth = Counter(true_class(item) for item in _answers(run))
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


def test_two_annotators(run: Path, tmp_path: Path):
    folder = sampled(run)
    first = label_rows(run, folder, "ann")
    second = label_rows(run, folder, "bob", num=40)
    disputed = {row["item"] for row in second[:6]}
    for row in second[:6]:
        row["label"] = "无法判断" if row["label"] == "直接拒绝" else "直接拒绝"
    files = [write_jsonl(tmp_path / "a.jsonl", first), write_jsonl(tmp_path / "b.jsonl", second)]
    found = calibrate(str(run), files)
    [pair] = found.agreements
    assert (pair.first, pair.second, pair.num_texts, pair.num_equal) == ("ann", "bob", 40, 34)
    assert pair.kappa is not None
    assert 0.6 < pair.kappa < 0.9
    assert len(found.disputed) == len(disputed)
    assert found.to_text().count("disagree on") == 6
    alone = calibrate(str(run), decides="ann")
    assert rate(alone, "harm_rate") != rate(found, "harm_rate")
    with pytest.raises(ConfigError, match="no label is by that annotator; there are ann, bob"):
        calibrate(str(run), decides="eve")


def test_kappa_by_hand():
    # 20 texts, 15 equal; yes of 10 and 13: by chance (10 · 13 + 10 · 7) / 400 = 0.5.
    pairs = [("y", "y")] * 9 + [("n", "n")] * 6 + [("n", "y")] * 4 + [("y", "n")]
    assert cohens_kappa(pairs) == pytest.approx((0.75 - 0.5) / 0.5)
    assert cohens_kappa([("y", "y")]) is None


def test_decisions_are_added_and_the_latest_counts(run: Path, tmp_path: Path):
    rows = label_rows(run, sampled(run))
    path = write_jsonl(tmp_path / "l.jsonl", rows)
    assert calibrate(str(run), [path]).num_new == NUM
    assert calibrate(str(run), [path]).num_new == 0
    changed = [{**rows[0], "label": "cannot_tell", "labelled_at": "2026-11-30", "note": "半句"}]
    found = calibrate(str(run), [write_jsonl(tmp_path / "again.jsonl", changed)])
    assert (found.num_new, found.num_labelled, found.num_cannot_tell) == (1, NUM - 1, 1)
    assert len(list((run / "reviews").iterdir())) == 2


def test_labels_of_another_run_are_refused(run: Path, tmp_path: Path):
    samples, completions, verdicts = refusal_rows()
    completions = [replace(completions[0], completion="其他"), *completions[1:]]
    other = write_judged_run(tmp_path / "runs", (samples, completions, verdicts), run="other")
    rows = label_rows(other, sampled(other))
    sampled(run)
    with pytest.raises(DataError, match=r"l.jsonl: 80 of 80 labels are of another run, e.g. l.jsonl:1"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    for row in rows:
        del row["results_sha256"]
    with pytest.raises(DataError, match="80 of 80 labels are of another run"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])


def test_texts_that_were_not_drawn_are_refused(run: Path, tmp_path: Path):
    folder = sampled(run, num=80)
    rows = label_rows(run, folder)
    record = json.loads((folder / "record.json").read_text("utf-8"))
    record["texts"] = record["texts"][1:]
    (folder / "record.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(DataError, match=r"1 of 80 labels are of texts that were not drawn \(l.jsonl:1\)"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    (folder / "record.json").unlink()
    with pytest.raises(DataError, match="no record of a sample of this run"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])


def test_a_sample_elsewhere_is_named(run: Path, tmp_path: Path):
    folder = tmp_path / "elsewhere"
    write_label_sample(str(run), NUM, output=str(folder))
    labels = write_jsonl(tmp_path / "l.jsonl", label_rows(run, folder))
    with pytest.raises(DataError, match="by --sample"):
        calibrate(str(run), [labels])
    assert calibrate(str(run), [labels], samples=[str(folder)]).num_labelled == NUM


def test_too_few_labels_in_a_stratum_are_refused(run: Path, tmp_path: Path):
    rows = label_rows(run, sampled(run))
    harmful = [row for row in rows if row["label"] == RefusalLabel.HARMFUL]
    kept = [row for row in rows if row not in harmful[2:]]
    with pytest.raises(DataError, match=r"too few labels .*\(\d of 5 in answer/refusal/不拒绝"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", kept)])
    assert not (run / "calibration.json").exists()


@pytest.mark.parametrize("word", ["maybe", "2", "correct"])
def test_a_word_that_is_no_label_is_refused(run: Path, tmp_path: Path, word: str):
    rows = [*label_rows(run, sampled(run))[:3]]
    rows[1]["label"] = word
    with pytest.raises(DataError, match=f"l.jsonl:2: '{word}' is no label of this text"):
        calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])


def test_an_unfinished_run_is_refused(run: Path):
    (run / "_SUCCESS").unlink()
    for command in (write_label_sample, calibrate):
        with pytest.raises(StorageError, match="no finished evaluation here"):
            command(str(run))


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


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_the_filled_in_table_is_read_back(run: Path, tmp_path: Path, form: str):
    folder = sampled(run)
    labels = {row["item"]: row["label"] for row in label_rows(run, folder)}
    path = tmp_path / f"filled.{form}"
    if form == "csv":
        with (folder / "label.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "label": labels[row["item"]], "annotator": "ann"} for row in rows)
    else:
        book = load_workbook(folder / "label.xlsx")
        sheet = book.worksheets[0]
        names = {cell.value: place for place, cell in enumerate(sheet[1], start=1)}
        for row in range(2, sheet.max_row + 1):
            item = sheet.cell(row, names["item"]).value
            sheet.cell(row, names["label"], str(labels[str(item)]))
            sheet.cell(row, names["annotator"], "ann")
        book.save(path)
    expected = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", label_rows(run, folder))])
    shutil.rmtree(run / "reviews")
    found = calibrate(str(run), [str(path)])
    assert found.num_labelled == NUM
    assert found.rates == expected.rates


def test_a_table_without_labels_is_refused(run: Path):
    folder = sampled(run)
    with pytest.raises(DataError, match=r"label.csv: no row has a label yet \(80 are blank\)"):
        calibrate(str(run), [str(folder / "label.csv")])


def test_the_report_shows_corrected_rates_of_the_rows_as_they_are(run: Path, tmp_path: Path):
    folder = sampled(run, "answer", "reasoning")
    second = label_rows(run, folder, "eve</td><script>", num=20)
    second[0]["label"] = "cannot_tell"
    files = [
        write_jsonl(tmp_path / "a.jsonl", label_rows(run, folder)),
        write_jsonl(tmp_path / "b.jsonl", second),
    ]
    found = calibrate(str(run), files)
    rewrite_report(str(run))
    harm = rate(found, "harm_rate")
    shown = f"{100 * harm.value:.1f} [{100 * harm.low:.1f}, {100 * harm.high:.1f}]"
    markdown = (run / "report.md").read_text("utf-8")
    assert "## Rates corrected by people's labels" in markdown
    assert shown in markdown
    html = (run / "report.html").read_text("utf-8")
    assert "经人工标注校正的比率" in html
    assert "eve&lt;/td&gt;&lt;script&gt;" in html
    assert "eve</td>" not in html
    # Verdicts that were edited since: the labels' strata are no longer those of the report.
    about = json.loads((run / "calibration.json").read_text("utf-8"))
    (run / "calibration.json").write_text(json.dumps({**about, "results_sha256": "0"}), "utf-8")
    rewrite_report(str(run))
    assert "corrected by people" not in (run / "report.md").read_text("utf-8")


def test_the_report_without_labels_says_what_is_not_of_this_model(run: Path):
    calibrate(str(run))
    rewrite_report(str(run))
    markdown = (run / "report.md").read_text("utf-8")
    assert "not of this model" in markdown
    assert "no rate is corrected" in markdown
    assert "不是在这个模型上测得的" in (run / "report.html").read_text("utf-8")
    damaged = json.dumps({"results_sha256": open_run(str(run)).results_sha256, "rates": "none"})
    (run / "calibration.json").write_text(damaged, "utf-8")
    with pytest.raises(DataError, match=r"calibration.json is damaged"):
        rewrite_report(str(run))
