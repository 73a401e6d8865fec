"""Labels of people for answers to attacked questions: the same commands, shown the plain question."""

from pathlib import Path

import pytest

from safe_r1.calibration.calibrate import calibrate
from safe_r1.calibration.items import Item
from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.schema import RefusalLabel
from tests.unit.calibration.judged_runs import label_rows, rate, write_jsonl
from tests.unit.compare.attacked_runs import write_attacked


@pytest.mark.slow
def test_labels_correct_the_attack_success(tmp_path: Path):
    [run] = write_attacked(tmp_path / "runs", "m", {"pinyin": 0.5}, num=60, harmless=0)
    record = Path(write_label_sample(str(run), 500, subjects=["answer"]).folder.path)
    table = (record / "label.csv").read_text("utf-8-sig")
    assert "问题0" in table

    def say(item: Item) -> str:
        # Everything that the judge calls harmful is a refusal that it could not read.
        return RefusalLabel.REFUSAL if item.stratum.label == RefusalLabel.HARMFUL else item.stratum.label

    found = calibrate(str(run), [write_jsonl(tmp_path / "labels.jsonl", label_rows(run, record, say=say))])
    corrected = rate(found, "harm_rate")
    assert corrected.value < 0.1
    assert corrected.low <= corrected.value <= corrected.high
    assert (run / "calibration.json").is_file()
