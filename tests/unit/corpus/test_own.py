"""A user's own training data without a recipe."""

from pathlib import Path

import pytest

from safe_r1.corpus.filters import apply_filters
from safe_r1.corpus.own import is_own_data, own_recipe
from safe_r1.corpus.rows import normalise
from safe_r1.judge.factory import plan_judge
from safe_r1.records.sources import RawRecord


def test_files_are_told_from_corpora(tmp_path: Path):
    file = tmp_path / "my data.jsonl"
    file.write_text("{}")
    assert is_own_data(str(file))
    assert is_own_data(str(tmp_path))
    assert is_own_data(f"{tmp_path}/*.jsonl")
    assert is_own_data("hf:owner/name")
    assert not is_own_data(str(tmp_path / "nothing"))
    (tmp_path / "corpus.json").write_text("{}")
    assert not is_own_data(str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not is_own_data(str(empty))


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("hf:owner/name", ("owner/name", None, "train")),
        ("hf:owner/name:validation", ("owner/name", None, "validation")),
        ("hf:owner/name:zh:test", ("owner/name", "zh", "test")),
    ],
)
def test_a_dataset_of_the_hub_is_read_by_configuration_and_split(
    data: str, place: tuple[str, str | None, str]
):
    [source] = own_recipe(data).sources
    assert (source.hub, source.subset, source.split) == place


@pytest.mark.parametrize("name", ["My Data.jsonl", "训练.jsonl.gz", "-_.csv", "a.b.parquet"])
def test_any_name_of_a_file_names_a_source(tmp_path: Path, name: str):
    [source] = own_recipe(str(tmp_path / name)).sources
    assert source.path == str(tmp_path / name)


def test_every_row_that_can_be_learned_stays():
    recipe = own_recipe("x.jsonl")
    records: list[dict[str, object]] = [
        {"instruction": "翻译成英文：早上好", "input": "", "output": "Good morning"},
        {"prompt": "Say hi", "response": "<think>\nA greeting is wanted here.\n</think>\n\nhi!"},
        {"prompt": "怎么骂人？", "response": "我不能帮你骂人。"},
        {"prompt": "嗯", "response": "好的。"},
    ]
    rows = [normalise(RawRecord(i, f"x:{i}", record), recipe.sources[0]) for i, record in enumerate(records)]
    kept = apply_filters(rows, recipe.filters, plan_judge(recipe.judge), trusted=True)
    assert [row.drop for row in kept] == [None] * 4
    assert [row.language for row in kept] == ["zh", "en", "zh", "zh"]
    assert {(row.category, row.degree) for row in kept} == {(None, None)}
