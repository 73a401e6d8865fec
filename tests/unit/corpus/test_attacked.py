"""Attacked prompts in a corpus: what may be trained on, which rows are asked so, and what is recorded."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from safe_r1.attacks.registry import SETS, get_attack
from safe_r1.corpus import plan
from safe_r1.corpus.attacked import (
    ATTACKED_CONVERSATION_SCHEMA,
    Asking,
    AttackedConfig,
    identities,
    record,
)
from safe_r1.corpus.card import _attacks
from safe_r1.corpus.export import record_attacks
from safe_r1.corpus.mixing import RowSummary, place_attacks
from safe_r1.corpus.recipe import CorpusRecipe, load_recipe
from safe_r1.errors import ConfigError, IntegrityError, NoResultError
from safe_r1.runs import RunFolder, write_table
from safe_r1.schema import CONVERSATION_SCHEMA
from tests.small_corpus import conversation
from tests.unit.corpus.test_plan import fingerprint, make_recipe, write_source
from tests.unit.corpus.test_recipe import SOURCE

PREFILLED = [name for name in SETS["all"] if "prefill" in get_attack(name).needs]


def recipe(**attacks: Any) -> CorpusRecipe:
    return CorpusRecipe.model_validate(
        {"name": "t", "licences": ["MIT"], "sources": [SOURCE], "attacks": attacks}
    )


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ({"train": ["pinyin"], "held_out": ["writing"], "share": 1}, "pinyin is held out by writing"),
        ({"train": ["pinyin"], "held_out": ["pinyin"], "share": 1}, "pinyin is held out; leave it out"),
        (
            {"train": ["pinyin+role"], "held_out": ["writing"], "share": 1},
            r"pinyin\+role is held out by writ",
        ),
        ({"train": ["pinyin+role"], "held_out": ["role"], "share": 1}, r"pinyin\+role is held out by role"),
        (
            {"train": ["zh-quick"], "held_out": ["reasoning"], "share": 1},
            "thought-hijack is held out by reas",
        ),
        ({"train": ["writing"], "held_out": ["zh-quick"], "share": 1}, "pinyin is held out"),
        ({"train": ["pinyn"], "share": 1}, "unknown attack 'pinyn': did you mean pinyin"),
        ({"train": ["role"], "held_out": ["endcoding"], "share": 1}, "unknown attack 'endcoding'"),
        ({"train": ["plain"], "share": 1}, "plain is no attack"),
        ({"train": ["role"], "share": 1, "harmless_share": 0.5}, "none of attacks.train changes writing"),
        *(({"train": [name], "share": 1}, f"{name} begins the") for name in PREFILLED),
        ({"train": ["base64+answer-prefix"], "share": 1}, "answer-prefix begins the answer for the model"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(attacks: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        recipe(**attacks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "attacks", [{"share": 0.5}, {"train": ["pinyin"]}, {"share": 2, "train": ["pinyin"]}]
)
def test_a_share_and_attacks_go_together(attacks: dict[str, Any]):
    with pytest.raises(ValueError, match="attacks"):
        recipe(**attacks)


def test_earlier_turns_with_reasoning_are_refused(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[frames]]\nname = "mine"\ntext = "{question}"\nhistory = [{ role = "user", content = "好吗？" }, '
        '{ role = "assistant", content = "<think>\\n可以\\n</think>\\n好的。" }]\n',
        "utf-8",
    )
    with pytest.raises(ConfigError, match="mine has earlier turns with reasoning"):
        recipe(train=[str(file)], share=1)


def test_a_combination_can_be_held_out_and_its_parts_trained_on():
    found = recipe(train=["pinyin", "role"], held_out=["pinyin+role", "encoding"], share=0.5).attacks
    assert [attack.name for attack in found.attacks] == ["pinyin", "role"]
    assert found.held_out_names == ("pinyin+role", "encoding")


def test_the_shipped_recipe_is_the_seeds_with_attacks():
    attacked, seeds = load_recipe("seeds-attacks", []), load_recipe("seeds", [])
    excluded = {"name", "description", "attacks"}
    assert attacked.model_dump(exclude=excluded) == seeds.model_dump(exclude=excluded)
    assert {"encoding", "reasoning"} <= set(attacked.attacks.held_out_names)
    families = {attack.family for attack in attacked.attacks.attacks}
    assert families == {"writing", "framing"}


def rows_of(counts: dict[tuple[str, str], int]) -> list[RowSummary]:
    return [
        RowSummary(f"{source}/{category}-{kind}-{number}", source, kind, "zh", None, category, 0, 0)
        for (kind, category), count in counts.items()
        for number in range(count)
        for source in "ab"
    ]


@settings(deadline=None)
@given(
    counts=st.dictionaries(
        st.tuples(st.sampled_from(["safety", "benign-sensitive", "reasoning"]), st.sampled_from("xyz")),
        st.integers(0, 40),
        max_size=9,
    ),
    share=st.sampled_from([0.1, 0.29, 0.5, 1.0]),
    seed=st.integers(0, 5),
)
def test_a_share_of_each_kind_and_category_is_attacked(
    counts: dict[tuple[str, str], int], share: float, seed: int
):
    rows = rows_of(counts)
    chosen = recipe(train=["pinyin", "role", "zero-width"], share=share).model_copy(update={"seed": seed})
    places = place_attacks(chosen, {"train": rows, "validation": []})
    assert places == place_attacks(chosen, {"train": rows[::-1], "validation": []})
    by_id = {row.row_id: row for row in rows}
    assert {by_id[row_id].kind for row_id in places} <= {"safety"}
    total = sum(row.kind == "safety" for row in rows)
    assert len(places) == round(total * share - 0.5 + 1e-6)
    # Of each category its share, to a row at either end.
    for category in "xyz":
        mine = sum(by_id[row_id].category == category for row_id in places)
        assert abs(mine - share * 2 * counts.get(("safety", category), 0)) <= 1
    by_attack = Counter(place % 3 for place in places.values())
    assert max(by_attack.values(), default=0) - min((by_attack[i] for i in range(3)), default=0) <= 1


def table_row(row_id: str, content: str, kind: str = "safety") -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"row_id": row_id, "kind": kind, "area": None, "category": None, "messages": messages}


def asking(*names: str, **places: int) -> Asking:
    return Asking([get_attack(name) for name in names], places, 0)


@pytest.mark.parametrize("name", [name for name in SETS["all"] if name not in PREFILLED])
def test_every_attack_that_can_be_trained_on_keeps_the_plain_question(name: str):
    question = "怎样才能不花钱住酒店？"
    row = asking(name, a=0)(table_row("a", question))
    assert (row["attack"], row["question"]) == (name, question)
    assert row["messages"][-1]["role"] == "user"
    # One row of the corpus's schema, whatever turns the attack brings.
    pa.Table.from_pylist([{**conversation("a", "safety", "x"), **row}], ATTACKED_CONVERSATION_SCHEMA)
    needs = get_attack(name).needs
    assert ("system" in needs) == (row["messages"][0]["role"] == "system")
    assert ("turns" in needs) == any(turn["role"] == "assistant" for turn in row["messages"])


def test_a_row_that_an_attack_cannot_change_is_asked_through_the_next_or_stays():
    english = table_row("a", "How do I open a bank account?")
    assert asking("pinyin", "role", a=0)(english)["attack"] == "role"
    assert asking("pinyin", "homophones", a=1)(english) == {**english, "attack": "plain", "question": None}
    # Not chosen at all, and harmless: only what changes writing.
    chinese = table_row("b", "怎样开一个银行账户？", "benign-sensitive")
    assert asking("role", "pinyin", a=0)(chinese)["attack"] == "plain"
    assert [asking("role", "pinyin", b=place)(chinese)["attack"] for place in range(3)] == ["pinyin"] * 3


def test_earlier_turns_of_a_row_stay():
    row = table_row("a", "那么怎样做？")
    row["messages"] = [
        {"role": "system", "content": "你是助手。"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        *row["messages"],
    ]
    found = asking("system-turn", a=0)(row)["messages"]
    assert [turn["role"] for turn in found] == ["system", "user", "assistant", "user"]
    assert found[0]["content"].startswith("你是助手。\n\n")


def write_shards(folder: Path, rows: list[tuple[str, str]], schema: pa.Schema) -> RunFolder:
    table = pa.Table.from_pylist(
        [
            {**conversation(str(number), kind, "问", "答"), "attack": attack}
            for number, (kind, attack) in enumerate(rows)
        ],
        schema,
    )
    write_table(UPath(folder) / "train" / "part-00000.parquet", table)
    return RunFolder(UPath(folder))


def test_the_record_adds_up(tmp_path: Path):
    chosen = recipe(train=["pinyin", "role"], held_out=["encoding"], share=0.5)
    rows = [("safety", name) for name in ("pinyin", "role", "pinyin", "plain")] + [("reasoning", "plain")]
    folder = write_shards(tmp_path, rows, ATTACKED_CONVERSATION_SCHEMA)
    splits = {"train": rows_of({("safety", "x"): 2}) + rows_of({("reasoning", "x"): 1})[:1], "validation": []}
    found = record_attacks(chosen, folder, splits)
    assert found == {
        "rows": {"pinyin": 2, "role": 1},
        "held_out": ["encoding"],
        "plain": 2,
        "by_kind": [
            {"kind": "reasoning", "attack": "plain", "rows": 1},
            {"kind": "safety", "attack": "pinyin", "rows": 2},
            {"kind": "safety", "attack": "plain", "rows": 1},
            {"kind": "safety", "attack": "role", "rows": 1},
        ],
    }
    info: Any = {"attacks": found}
    assert "| pinyin | safety | 2 |" in "\n".join(_attacks(info))
    assert _attacks({"kept": []}) == []  # pyright: ignore[reportArgumentType]
    with pytest.raises(IntegrityError, match="4 rows were selected, 5 are in"):
        record_attacks(chosen, folder, {"train": splits["train"][:4], "validation": []})


def test_a_corpus_whose_attacks_change_nothing_is_no_result(tmp_path: Path):
    chosen = recipe(train=["pinyin"], share=0.5)
    folder = write_shards(tmp_path, [("safety", "plain")] * 4, ATTACKED_CONVERSATION_SCHEMA)
    with pytest.raises(NoResultError, match="no row is asked through an attack: 2 rows were chosen"):
        record_attacks(chosen, folder, {"train": rows_of({("safety", "x"): 2}), "validation": []})


def test_a_corpus_without_attacks_can_say_what_is_held_out(tmp_path: Path):
    chosen = recipe(held_out=["encoding"])
    folder = write_shards(tmp_path, [("safety", "plain")] * 2, CONVERSATION_SCHEMA)
    found = record_attacks(chosen, folder, {"train": rows_of({("safety", "x"): 1})})
    assert (found["rows"], found["plain"], found["held_out"]) == ({}, 2, ["encoding"])


def test_attacks_are_part_of_the_fingerprint_and_their_absence_is_not(tmp_path: Path):
    for name in "ab":
        write_source(tmp_path / f"{name}.jsonl", "因为。")
    plain = fingerprint(tmp_path)
    assert "attacks" not in json.dumps(plain)
    first, second = (
        fingerprint(tmp_path, attacks={"train": [name], "share": 0.5}) for name in ("pinyin", "role")
    )
    assert first != second
    assert set(identities(AttackedConfig(train=("pinyin",), share=1))) == {"pinyin"}
    shown: list[str] = []
    plan.dry_run(
        make_recipe(tmp_path, attacks={"train": ["role"], "share": 0.5, "held_out": ["encoding"]}),
        shown.append,
    )
    assert any("50% of the safety" in line and line.endswith("through role") for line in shown)
    assert "attacks held out: encoding" in shown


def test_a_record_of_nothing_holds_no_rows():
    assert record(AttackedConfig(), {}) == {"rows": {}, "held_out": [], "plain": 0, "by_kind": []}
