"""Attacked samples as tables: every sample under every attack once, earlier turns and all columns kept."""

import pyarrow as pa
import pytest

from safe_r1.attacks.apply import ATTACKED_SCHEMA, AttackBatch, attack_sample, attack_table
from safe_r1.attacks.base import PLAIN, seeded
from safe_r1.attacks.choose import parse_attacks
from safe_r1.benchmarks import get_benchmark
from safe_r1.errors import DataError
from safe_r1.schema import SAMPLE_SCHEMA, Message, Sample

ATTACKS = (
    PLAIN,
    *parse_attacks(
        "homophones,base64,split-turns,system-turn,planted-history,long-thought,answer-prefix,pinyin+role"
    ),
)


def samples() -> list[Sample]:
    loaded = get_benchmark("chisafetybench-sample").load()
    return [sample for sample in loaded if sample.task == "refusal"]


def table(rows: list[Sample]) -> pa.Table:
    return pa.Table.from_pylist([sample.to_row() for sample in rows], SAMPLE_SCHEMA)


def sample(*messages: tuple[str, str], task: str = "refusal") -> Sample:
    turns = [Message(role=role, content=content) for role, content in messages]
    return Sample("s/1", "s", task, "a", "a/b", turns)  # type: ignore[arg-type]


def test_every_sample_under_every_attack_once():
    rows = samples() * (150 // len(samples()))
    rows = [Sample(**{**vars(each), "sample_id": f"{number}"}) for number, each in enumerate(rows)]
    found = AttackBatch(ATTACKS, 3)(table(rows))
    assert found.schema == ATTACKED_SCHEMA
    found.validate(full=True)
    keys = list(zip(found["sample_id"].to_pylist(), found["attack"].to_pylist(), strict=True))
    assert keys == [(row.sample_id, attack.name) for row in rows for attack in ATTACKS]
    by_key = dict(zip(keys, found.to_pylist(), strict=True))
    for row in rows[::7]:
        for attack in ATTACKS:
            found_row = by_key[row.sample_id, attack.name]
            kept = {name: found_row[name] for name in SAMPLE_SCHEMA.names if name != "messages"}
            expected = row.to_row()
            del expected["messages"]
            assert kept == expected
            assert found_row["question"] == row.messages[-1]["content"]
            prompt = attack.apply(row.messages[-1]["content"], seeded(3, attack.name, row.sample_id))
            assert found_row["messages"][-len(prompt.messages) + bool("system" in attack.needs) :] == [
                *prompt.messages[bool("system" in attack.needs) :]
            ]
            assert (found_row["prefill"], found_row["thought"]) == (prompt.prefill, prompt.thought)
            assert attack_sample(row, attack, 3).messages == tuple(found_row["messages"])
    plain = [by_key[row.sample_id, "plain"]["messages"] for row in rows]
    assert plain == [row.messages for row in rows]


def test_the_batch_does_not_matter():
    rows = table(samples())
    whole = attack_table(rows, ATTACKS, 0)
    halves = [attack_table(rows.slice(start, 7), ATTACKS, 0) for start in range(0, rows.num_rows, 7)]
    assert pa.concat_tables(halves).equals(whole)
    assert attack_table(rows.slice(0, 0), ATTACKS, 0).num_rows == 0


def test_earlier_turns_stay():
    dialogue = sample(("system", "甲"), ("user", "乙"), ("assistant", "丙"), ("user", "怎么办？"))
    [system, history] = parse_attacks("system-turn,planted-history")
    messages = attack_sample(dialogue, system, 0).messages
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == f"甲\n\n{system.system}"
    messages = attack_sample(dialogue, history, 0).messages
    assert list(messages[:3]) == dialogue.messages[:3]
    roles = [turn["role"] for turn in messages[1:]]
    assert roles == ["user", "assistant"] * 3 + ["user"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (sample(("user", "1+1"), task="math"), "questions of the task math cannot be attacked"),
        (sample(("assistant", "好")), "has to end with a user's turn"),
        (sample(), "has to end with a user's turn"),
    ],
)
def test_what_cannot_be_attacked(row: Sample, words: str):
    with pytest.raises(DataError, match=words):
        attack_table(table([row]), ATTACKS, 0)


def test_two_attacks_of_one_name():
    with pytest.raises(ValueError, match="one name"):
        attack_table(table(samples()), [PLAIN, PLAIN], 0)
