"""Attack success of two variants and its transfer, against direct counts of the runs' verdicts."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from safe_r1.compare.run import compare
from safe_r1.errors import ConfigError
from safe_r1.schema import RefusalLabel
from tests.unit.compare.attacked_runs import BASE, write_attacked

pytestmark = pytest.mark.slow
BEFORE = {"plain": 0.9, "pinyin": 0.2, "base64": 0.5}
AFTER = {"plain": 0.9, "pinyin": 0.8, "base64": 0.5}


def harm(runs: Path, variant: str, attack: str) -> dict[str, bool]:
    """Whether the answer to each risky question is harmful, from the verdicts alone."""
    [shard] = (runs / "main" / variant / f"{BASE}@{attack}" / "verdicts").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    return {
        row["sample_id"]: row["label"] == RefusalLabel.HARMFUL
        for row in rows
        if "refusal" in row["sample_id"]
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for variant, skills in (("before", BEFORE), ("after", AFTER)):
        write_attacked(tmp_path / "runs", variant, skills)
    return tmp_path / "runs"


def test_attack_success_before_and_after(runs: Path, tmp_path: Path):
    report = compare([str(runs)], "before", str(tmp_path / "report"))
    [pair] = report.data.attacks
    assert [row.name.key for row in pair.rows] == ["any", "plain", "base64", "pinyin"]
    found = {row.name.key: row for row in pair.rows}
    counts = {name: [harm(runs, variant, name) for variant in ("before", "after")] for name in BEFORE}
    for name, (first, second) in counts.items():
        answer = found[name].answer
        assert answer is not None
        assert answer.difference.value == pytest.approx((sum(second.values()) - sum(first.values())) / 40)
    either = [
        {question: harmful or counts["base64"][side][question] for question, harmful in by_pinyin.items()}
        for side, by_pinyin in enumerate(counts["pinyin"])
    ]
    assert found["any"].answer is not None
    assert found["any"].answer.difference.value == pytest.approx(
        (sum(either[1].values()) - sum(either[0].values())) / 40
    )
    # Much less harm under one attack, as much as before under the other.
    assert found["pinyin"].answer is not None
    assert found["pinyin"].answer.effect == "better"
    assert found["base64"].answer is not None
    assert found["base64"].answer.effect == ""
    # The price of it: harmless questions in pinyin are refused.
    assert found["pinyin"].over_refusal is not None
    assert found["pinyin"].over_refusal.difference.value > 0.3
    # By category, of the same questions.
    assert [name.key for name, _ in pair.categories] == ["area/a", "area/b"]
    for place, (_, cells) in enumerate(pair.categories):
        mine = [f"asked/refusal/{number:04}" for number in range(place, 40, 2)]
        change = sum(counts["pinyin"][1][each] - counts["pinyin"][0][each] for each in mine)
        cell = cells[2]
        assert cell is not None
        assert cell.difference.value == pytest.approx(change / 20)
        assert cell.difference.low <= cell.difference.value <= cell.difference.high


def test_transfer_is_the_share_of_what_succeeded_elsewhere(runs: Path, tmp_path: Path):
    compare([str(runs)], "before", str(tmp_path / "report"))
    rows = list(csv.DictReader((tmp_path / "report" / "transfer.csv").open(encoding="utf-8")))
    assert len(rows) == 4
    for row in rows:
        source, target = (
            {
                (name, key): value
                for name in ("pinyin", "base64")
                for key, value in harm(runs, each, name).items()
            }
            for each in (row["source"], row["target"])
        )
        asked = [key for key, value in source.items() if value == (row["of"] == "successes")]
        assert int(row["denominator"]) == len(asked)
        assert int(row["numerator"]) == sum(target[key] for key in asked)
        assert float(row["low"]) <= float(row["rate"]) <= float(row["high"])


def test_what_is_written_and_said(runs: Path, tmp_path: Path):
    report = compare([str(runs)], "before", str(tmp_path / "report"))
    rows = list(csv.DictReader((tmp_path / "report" / "comparisons.csv").open(encoding="utf-8")))
    attacked = [row for row in rows if row["benchmark"] not in (f"{BASE}@plain",)]
    # None of the usual metrics: a benchmark of tens of attacks would fill the report with them.
    assert {row["metric"] for row in attacked} == {
        "attack_success",
        "attack_success_any",
        "over_refusal_rate",
    }
    assert {row["family"] for row in attacked} == {"attack", "attack_detail"}
    assert {row["family"] for row in rows if row not in attacked} == {"headline"}
    tables = {path.name for path in (tmp_path / "report" / "tables").iterdir()}
    assert {f"{BASE}-attacks-attack_success.csv", f"{BASE}-attacks-over_refusal_rate.csv"} <= tables
    assert not any("pinyin" in name for name in tables)
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert f"{BASE}.attacks.html" in page
    assert 'id="attacks"' in page
    markdown = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "### Transfer" in markdown
    text = report.to_text()
    assert "Attack success, any attack" in text
    assert "asked@pinyin" in text


def test_attacks_that_one_model_does_not_take_are_told(tmp_path: Path):
    write_attacked(tmp_path / "runs", "before", BEFORE)
    write_attacked(tmp_path / "runs", "after", {"plain": 0.9, "pinyin": 0.8})
    report = compare([str(tmp_path / "runs")], "before", str(tmp_path / "report"))
    assert any("after on asked: not asked under base64" in note for note in report.data.notes)
    [pair] = report.data.attacks
    assert [row.name.key for row in pair.rows] == ["any", "plain", "pinyin"]
    # Any of the attacks of both is the one that both were asked.
    anywhere, _, pinyin = (row.answer for row in pair.rows)
    assert anywhere is not None
    assert pinyin is not None
    assert anywhere.difference == pinyin.difference


def test_a_variant_without_attacks_is_no_match(tmp_path: Path):
    write_attacked(tmp_path / "runs", "before", BEFORE)
    write_attacked(tmp_path / "runs", "after", {"plain": 0.9})
    with pytest.raises(ConfigError, match="not measured"):
        compare([str(tmp_path / "runs")], "before", str(tmp_path / "report"))
