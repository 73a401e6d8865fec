"""``safe-r1 recipe init``: what it writes is a recipe that reads the files it was written for."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safe_r1.cli import app
from safe_r1.corpus.init import recipe_text
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import normalise
from safe_r1.records.sources import list_parts, read_part

ALPACA = {"instruction": "翻译", "input": "早上好", "output": "Good morning", "quality": 5}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}],
    "system": "规则",
    "lang": "zh",
}
OPENAI = {
    "messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}],
    "tools": [],
}
NAMED = {"题目": "一加一？", "思考": "二", "回答": "二", "来源": "书"}
STRANGE: dict[str, object] = {"alpha": "x", "beta": "y"}


def write(path: Path, *records: dict[str, object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(
    ("record", "unused"), [(ALPACA, "quality"), (SHAREGPT, "lang"), (OPENAI, "tools"), (NAMED, "来源")]
)
def test_what_is_written_reads_the_file(record: dict[str, object], unused: str, tmp_path: Path):
    text = recipe_text([write(tmp_path / "data.jsonl", *[record] * 3)])
    recipe = CorpusRecipe.model_validate(tomllib.loads(text))
    [source] = recipe.sources
    assert source.mapping is not None
    [part] = list_parts(source, None, 100)
    rows = [normalise(raw, source) for raw in read_part(source, part)]
    assert [row.drop for row in rows] == [None] * 3
    assert all(row.answer for row in rows)
    assert f"# Fields that are not read, with the number of records: {unused} (3)" in text


def test_files_of_several_forms_stay_without_a_mapping(tmp_path: Path):
    write(tmp_path / "a/one.jsonl", ALPACA, OPENAI)
    write(tmp_path / "a/deep/er/TWO.JSONL", SHAREGPT)
    (tmp_path / "a/notes.txt").write_text("no data")
    text = recipe_text([str(tmp_path / "a")])
    [source] = CorpusRecipe.model_validate(tomllib.loads(text)).sources
    assert source.mapping is None
    assert text.count("#   mapping = {") == 3
    assert "not read, as their names end in no known format: notes.txt" in text


def test_unknown_fields_are_named_with_a_mapping_to_fill_in(tmp_path: Path):
    text = recipe_text([write(tmp_path / "x.jsonl", STRANGE)])
    tomllib.loads(text)
    assert "# The fields are: alpha, beta. Say which is which:" in text
    assert "unknown_form (1)" in text


def test_hostile_names_of_fields_and_files_stay_comments_and_strings(tmp_path: Path):
    record = {**ALPACA, 'a\n[[sources]]\nname = "evil"': "x", "\x1b[31m": "y", '"""': "z"}
    text = recipe_text(
        [write(tmp_path / 'we"ird \\ name.jsonl', record), write(tmp_path / "data.jsonl", OPENAI)]
    )
    recipe = CorpusRecipe.model_validate(tomllib.loads(text))
    assert len(recipe.sources) == 2
    assert "\x1b" not in text


def test_sources_of_the_same_name_are_told_apart(tmp_path: Path):
    files = [write(tmp_path / folder / "data.jsonl", OPENAI) for folder in "abc"]
    recipe = CorpusRecipe.model_validate(tomllib.loads(recipe_text(files)))
    assert [source.name for source in recipe.sources] == ["data", "data-2", "data-3"]


def test_the_command_writes_the_file_once(tmp_path: Path):
    data = write(tmp_path / "data.jsonl", OPENAI)
    output = tmp_path / "recipe.toml"
    arguments = ["recipe", "init", data, "--output", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"written: {output}" in done.output
    assert CorpusRecipe.model_validate(tomllib.loads(output.read_text()))
    again = CliRunner().invoke(app, arguments)
    assert "exists already" in str(again.exception)
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
