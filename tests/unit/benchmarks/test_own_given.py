"""Answers of a model that stand beside the questions: which column holds them, and what becomes of them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from safe_r1.benchmarks import (
    OwnBenchmark,
    check_questions,
    evaluate_schema,
    get_benchmark,
    require_given_answers,
    write_settings,
)
from safe_r1.errors import ConfigError, DataError
from safe_r1.settings import load_config
from tests.scale.given_answers import make_rows
from tests.unit.benchmarks.own_files import write_records

Record = dict[str, Any]


def opened(path: Path, *settings: str) -> OwnBenchmark:
    benchmark = get_benchmark(str(path), load_config(evaluate_schema(), None, list(settings), variant="demo"))
    assert isinstance(benchmark, OwnBenchmark)
    return benchmark


def given(path: Path, *settings: str) -> list[str | None]:
    return [sample.metadata.get("given_answer") for sample in opened(path, *settings).load()]


def refusals(column: str, *answers: object) -> list[Record]:
    return [{"问题": f"第{n}个？", "期望": "应拒答", column: each} for n, each in enumerate(answers)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "column", ["回答", "模型回答", "模型输出", "回复", "response", "Model_Response", "model answer", "output"]
)
@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "xlsx"])
def test_usual_names_of_given_answers(column: str, format_: str, tmp_path: Path):
    path = write_records(tmp_path / f"q.{format_}", refusals(column, " 不能。\n\n真的 ", None, "好的"))
    assert given(path) == [" 不能。\n\n真的 ", "", "好的"]
    benchmark = opened(path)
    assert benchmark.has_given_answers
    assert f"given_answer: {column!r}: a usual name" in benchmark.explain()
    require_given_answers([benchmark])


def test_reasoning_has_a_column_of_its_own_only_beside_an_answer(tmp_path: Path):
    rows = [
        each | {"思考过程": thought}
        for each, thought in zip(refusals("回答", "一", "二"), ("想", None), strict=True)
    ]
    samples = opened(write_records(tmp_path / "q.jsonl", rows)).load()
    assert [sample.metadata["given_reasoning"] for sample in samples] == ["想", ""]
    for each in rows:
        del each["回答"]
    benchmark = opened(write_records(tmp_path / "q.jsonl", rows))
    assert "given_reasoning" not in benchmark.load()[0].metadata
    assert not benchmark.has_given_answers


@pytest.mark.parametrize("column", ["答案", "answer"])
def test_an_answer_is_a_models_where_a_judge_labels_all_rows(column: str, tmp_path: Path):
    rows = refusals(column, "对不起，我不能帮助你。", "首先")
    path = write_records(tmp_path / "q.jsonl", rows)
    assert given(path) == ["对不起，我不能帮助你。", "首先"]
    for each in rows:
        del each["期望"]
    write_records(path, rows)
    assert given(path, "benchmark.task=over_refusal") == ["对不起，我不能帮助你。", "首先"]
    write_records(path, [each | {"选项": ["甲", "乙"]} for each in rows])
    assert given(path, "benchmark.task=refusal") == [None, None]
    write_records(path, rows)
    # Where it is said what the column is, that holds.
    assert given(path, "benchmark.task=refusal", f"benchmark.mapping.answer={column}") == [None, None]
    assert given(path, "benchmark.task=refusal", "benchmark.mapping.given_answer=''") == [None, None]


def test_an_answer_stays_the_right_one_for_multiple_choice_and_mathematics(tmp_path: Path):
    rows = [
        {"问题": "一加一？", "期望": "数学", "答案": "2"},
        {"问题": "怎样？", "期望": "应拒答", "答案": "不能"},
    ]
    path = write_records(tmp_path / "q.jsonl", rows)
    assert given(path) == [None, None]
    for each in rows:
        each["回答"] = "是 3"
    write_records(path, rows)
    assert given(path) == ["是 3", "是 3"]
    assert opened(path).load()[0].metadata["answer"] == "2"
    choice = {"题目": "哪一个？", "选项": ["甲", "乙"], "答案": "B", "response": "A"}
    sample = opened(write_records(tmp_path / "c.jsonl", [choice])).load()[0]
    assert (sample.metadata["answer"], sample.metadata["given_answer"]) == ("B", "A")


def test_a_dialogue_that_ends_with_the_assistant_brings_its_answer(tmp_path: Path):
    turns = [{"role": "user", "content": "怎样？"}, {"role": "assistant", "content": "不能。"}]
    path = write_records(tmp_path / "q.jsonl", [{"messages": turns}, {"messages": turns[:1]}])
    assert given(path, "benchmark.task=refusal") == ["不能。", None]
    assert opened(path, "benchmark.task=refusal").has_given_answers


def test_the_answer_changes_no_id(tmp_path: Path):
    def ids(*answers: object) -> list[str]:
        path = write_records(tmp_path / "q.jsonl", refusals("回答", *answers))
        return [sample.sample_id for sample in opened(path).load()]

    assert ids("一", "二") == ids("三", None)


def test_what_is_no_text_is_no_given_answer(tmp_path: Path):
    path = write_records(tmp_path / "q.jsonl", refusals("output", ["a", "b"], ["c"]))
    assert given(path) == [None, None]
    path = write_records(tmp_path / "q.jsonl", refusals("output", "a", ["c"]))
    with pytest.raises(DataError, match=r"line 2: a cell is no text \(the model's answer: list\)"):
        opened(path).load()


def test_init_and_check_know_given_answers(tmp_path: Path):
    path = write_records(tmp_path / "q.jsonl", refusals("答案", "不能", "好的"))
    lines = check_questions(opened(path)).lines
    assert "  with a given answer, which --variant given judges: 2" in lines
    text, _ = write_settings(opened(path), force=False)
    assert tomllib.loads(text)["mapping"]["given_answer"] == "答案"
    assert given(path) == ["不能", "好的"]


def test_questions_without_answers_are_refused_in_one_line(tmp_path: Path):
    path = write_records(tmp_path / "q.jsonl", refusals("备注", "无"))
    with pytest.raises(ConfigError, match=r"no column of q\.jsonl holds the answers of a model") as error:
        require_given_answers([opened(path)])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="chisafetybench-sample has questions alone"):
        require_given_answers([get_benchmark("chisafetybench-sample")])


def test_generated_rows_are_the_same_for_the_same_seed_and_all_fit(tmp_path: Path):
    rows = list(make_rows(2500, seed=1))
    assert rows == list(make_rows(2500, seed=1))
    assert rows != list(make_rows(2500, seed=2))
    benchmark = opened(write_records(tmp_path / "q.jsonl", rows))
    assert [sample.metadata["given_answer"] for sample in benchmark.load()] == [
        each["回答"] or "" for each in rows
    ]
    assert set(benchmark.reading.count_by("task")) == {"refusal", "over_refusal"}
    assert len(benchmark.reading.misfits) == 0


def test_columns_that_only_later_rows_have_are_found(tmp_path: Path):
    rows = [{"问题": f"第{n}个？", "期望": "应拒答"} for n in range(1500)]
    rows[1400]["回答"] = "不能"
    rows[1450]["编号"] = "x-1"
    samples = opened(write_records(tmp_path / "q.jsonl", rows)).load()
    assert len(samples) == 1500
    assert [sample.metadata["given_answer"] for sample in samples[1399:1402]] == ["", "不能", ""]
    assert samples[1450].metadata["source_id"] == "x-1"


def test_a_million_misfits_are_counted_and_the_first_kept(tmp_path: Path):
    rows = refusals("编号", *(["x"] * 3000))
    benchmark = opened(write_records(tmp_path / "q.jsonl", rows), "benchmark.max_malformed_share=0.9999")
    reading = benchmark.reading
    assert (len(reading.samples), len(reading.misfits), len(reading.misfits.first)) == (1, 2999, 200)
    assert reading.misfits.num_by_reason == {"an id occurs twice": 2999}
    assert "first in q.jsonl, line 1" in reading.misfits.first[0].reason


@pytest.mark.slow
def test_a_column_of_texts_is_no_category(tmp_path: Path):
    rows = [each | {"类别": f"类{n}"} for n, each in enumerate(refusals("备注", *(["无"] * 10_002)))]
    path = write_records(tmp_path / "q.jsonl", rows)
    with pytest.raises(DataError, match=r"more than 10000 areas and categories in column '类别'"):
        opened(path).load()
    assert len(opened(path, "benchmark.mapping.category=''").load()) == 10_002
