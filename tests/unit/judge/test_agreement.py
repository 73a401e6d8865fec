"""Agreement with labelled answers: figures worked by hand, both formats, damaged files."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from safe_r1.errors import DataError, JudgeError
from safe_r1.judge.agreement import measure_agreement
from safe_r1.judge.base import JudgeItem, Judgement, content_identity
from safe_r1.judge.labelled import read_labelled
from safe_r1.schema import RefusalLabel, Unscored

HARMFUL, HARMLESS, REFUSAL, RESPONSIBLE = RefusalLabel


class EchoJudge:
    """Says what the answer says: ``0`` to ``3`` for a degree, anything else for no label."""

    name = "echo"
    identity = content_identity("echo")

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        labels = list(RefusalLabel)
        return [
            Judgement(labels[int(entry.text)])
            if entry.text in "0123" and entry.text
            else Judgement(None, Unscored.AMBIGUOUS)
            for entry in items
        ]


def write_gold(path: Path, pairs: Sequence[tuple[RefusalLabel, str]]) -> str:
    rows = [
        {
            "messages": [{"role": "user", "content": "问\u2028题"}],
            "answer": answer,
            "label": label.value,
            "why": "extra",
        }
        for label, answer in pairs
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def write_xstest(path: Path, rows: Sequence[tuple[str, str]]) -> str:
    lines = ["id,type,prompt,completion,annotation_1,annotation_2,agreement,final_label"]
    lines += [f'{i},x,"a, ""b""\nc",{said},l,l,True,{label}' for i, (label, said) in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_gold_figures_by_hand(tmp_path: Path):
    # Rows (given) by columns (said): HARMFUL 1,1,0,0; HARMLESS 0,2,0,0; REFUSAL 0,0,1,1; RESPONSIBLE 0,1,0,1.
    pairs = [
        (HARMFUL, "0"),
        (HARMFUL, "1"),
        (HARMLESS, "1"),
        (HARMLESS, "1"),
        (REFUSAL, "2"),
        (REFUSAL, "3"),
        (RESPONSIBLE, "3"),
        (RESPONSIBLE, "1"),
        (RESPONSIBLE, "?"),
    ]
    result = measure_agreement(EchoJudge(), write_gold(tmp_path / "gold.jsonl", pairs))
    assert (result.num_scored, result.num_unscored) == (8, 1)
    assert result.unscored_reasons == {"ambiguous": 1}
    assert result.confusion == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
    # 5 of 8 right. Wilson with z = 1.96: centre 0.58454, half-width 0.27895.
    assert result.accuracy.value == pytest.approx(0.625)
    assert result.accuracy.low == pytest.approx(0.3057, abs=1e-3)
    assert result.accuracy.high == pytest.approx(0.8632, abs=1e-3)
    # Given 2,2,2,2; said 1,4,1,2: chance (2+8+2+4)/64 = 0.25; kappa (0.625-0.25)/0.75 = 0.5.
    assert result.kappa is not None
    assert result.kappa.value == pytest.approx(0.5)
    # Refusal: given 4/4, said 5 none/3 refusal; agree 7/8; chance (20+12)/64 = 0.5; kappa 0.75.
    assert result.kappa_refusal is not None
    assert result.kappa_refusal.value == pytest.approx(0.75)
    assert result.kappa_refusal.low is not None
    assert result.kappa_refusal.low < 0.75
    assert result.kappa_refusal_with_partial is None


def test_xstest_figures_by_hand(tmp_path: Path):
    # Compliance 3 right 1 wrong; full refusal 3 right 0 wrong; partial refusal 0 right 1 wrong.
    rows = [("1_full_compliance", said) for said in "0112"]
    rows += [("2_full_refusal", said) for said in "233"]
    rows += [("3_partial_refusal", "1")]
    result = measure_agreement(EchoJudge(), write_xstest(tmp_path / "x.csv", rows))
    assert result.label_format == "xstest"
    assert (result.rows, result.columns) == (
        ["compliance", "refusal", "partial refusal"],
        ["compliance", "refusal"],
    )
    assert result.confusion == [[3, 1], [0, 3], [1, 0]]
    assert (result.num_scored, result.num_unscored, result.num_partial) == (8, 0, 1)
    assert result.accuracy.value == pytest.approx(6 / 7)
    assert result.kappa is None
    # 3,1 / 0,3: agree 6/7; chance (4*3+3*4)/49 = 24/49; kappa (42-24)/(49-24) = 0.72.
    assert result.kappa_refusal is not None
    assert result.kappa_refusal.value == pytest.approx(0.72)
    # With the partial one as refusal 3,1 / 1,3: agree 6/8, chance 0.5, kappa (0.75-0.5)/0.5 = 0.5.
    assert result.kappa_refusal_with_partial is not None
    assert result.kappa_refusal_with_partial.value == pytest.approx(0.5)


def test_only_partial_refusals_are_no_measurement(tmp_path: Path):
    path = write_xstest(tmp_path / "x.csv", [("3_partial_refusal", "1")])
    with pytest.raises(DataError, match="partial"):
        measure_agreement(EchoJudge(), path)


def test_json_holds_the_promised_names(tmp_path: Path):
    path = write_gold(tmp_path / "gold.jsonl", [(HARMFUL, "0"), (REFUSAL, "2"), (REFUSAL, "1")])
    data = json.loads(json.dumps(measure_agreement(EchoJudge(), path).to_json(), allow_nan=False))
    assert {"accuracy", "kappa", "kappa_refusal", "num_scored", "num_unscored"} <= set(data)
    assert data["accuracy"] == pytest.approx(2 / 3)
    assert data["num_scored"] == 3
    low, high = data["accuracy_interval"]
    assert low < data["accuracy"] < high
    assert -1 <= data["kappa_refusal_interval"][0] <= data["kappa_refusal_interval"][1] <= 1


def test_text_is_a_table_with_every_count(tmp_path: Path):
    text = measure_agreement(
        EchoJudge(), write_gold(tmp_path / "g.jsonl", [(HARMFUL, "0"), (REFUSAL, "x")])
    ).to_text()
    assert "2 answers, 1 scored, 1 unscored" in text
    assert "unscored, ambiguous: 1" in text
    assert "accuracy" in text
    assert "responsible" in text


def test_perfect_and_one_sided_agreement(tmp_path: Path):
    perfect = measure_agreement(
        EchoJudge(), write_gold(tmp_path / "a.jsonl", [(HARMFUL, "0"), (REFUSAL, "2")])
    )
    assert perfect.kappa is not None
    assert perfect.kappa.value == pytest.approx(1.0)
    # One label on both sides: chance agreement is complete, so that kappa does not exist.
    one_sided = measure_agreement(
        EchoJudge(), write_gold(tmp_path / "b.jsonl", [(REFUSAL, "2"), (REFUSAL, "2")])
    )
    assert one_sided.kappa is None
    assert one_sided.to_json()["kappa"] is None
    assert "accuracy" in one_sided.to_text()


def test_judge_without_any_label(tmp_path: Path):
    path = write_gold(tmp_path / "gold.jsonl", [(HARMFUL, "?")])
    with pytest.raises(JudgeError, match="no label"):
        measure_agreement(EchoJudge(), path)


GOOD = '{"messages": [{"role": "user", "content": "q"}], "answer": "2", "label": "直接拒绝"}'


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "user", "content": "q"}], "answer": "2", "label": "直接',
        '{"messages": [{"role": "user", "content": "q"}], "answer": "2", "label": "拒绝"}',
        '{"messages": [{"role": "user", "content": "q"}], "label": "直接拒绝"}',
        '{"messages": [{"role": "user", "content": "q"}], "answer": null, "label": "直接拒绝"}',
        '{"messages": [{"role": "user"}], "answer": "2", "label": "直接拒绝"}',
        '{"messages": [], "answer": "2", "label": "直接拒绝"}',
        '{"messages": "q", "answer": "2", "label": "直接拒绝"}',
        '{"messages": [{"role": "user", "content": "q"}], "answer": "2", "label": "直接拒绝", "part": "x"}',
        "[1, 2]",
        "null",
    ],
)
def test_damaged_gold_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "gold.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 3"):
        read_labelled(path.as_posix())


@pytest.mark.parametrize(
    "line", ["1,x,p,c,l,l,True,4_unknown", "1,x,p", "1,x,p,c,l,l,True,1_full_compliance,more"]
)
def test_damaged_xstest_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "x.csv"
    path.write_text(
        "id,type,prompt,completion,annotation_1,annotation_2,agreement,final_label\n" + line + "\n",
        encoding="utf-8",
    )
    with pytest.raises(DataError, match="line 2"):
        read_labelled(path.as_posix())


def test_other_files_are_refused(tmp_path: Path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="final_label"):
        read_labelled(other.as_posix())
    empty = tmp_path / "empty.csv"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(DataError):
        read_labelled(empty.as_posix())
    with pytest.raises(DataError, match="cannot be read"):
        read_labelled((tmp_path / "absent.jsonl").as_posix())
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_labelled(binary.as_posix())
