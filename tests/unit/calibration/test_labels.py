"""Which labels count: blind files, records, annotators, and what is refused."""

import csv
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from openpyxl import load_workbook

from safe_r1.calibration.calibrate import calibrate
from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.calibration.reviews import cohens_kappa
from safe_r1.errors import ConfigError, DataError, RunConflictError, StorageError
from safe_r1.schema import RefusalLabel, Verdict
from tests.unit.calibration.judged_runs import (
    NUM,
    label_rows,
    rate,
    refusal_rows,
    sampled,
    write_jsonl,
    write_judged_run,
)

pytestmark = pytest.mark.slow


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
