from pathlib import Path

import pytest
from upath import UPath

from safe_r1.corpus.candidates import (
    CandidateBuilder,
    CandidateWriter,
    TeacherReply,
    best_candidates,
    sum_costs,
)
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import CorpusRow
from safe_r1.judge.factory import plan_judge
from safe_r1.runs import RunFolder
from safe_r1.schema import Message

THOUGHT = "用户的要求带有歧视，我应当拒绝，并说明理由、给出引导。"
RESPONSIBLE = "抱歉，我不能这样写。每个人都值得尊重，建议你先了解相关法律，平等地与人相处。"
REFUSAL = "抱歉，我不能帮助你写这个。"
PROMPT = CorpusRow(
    "s/0",
    "s",
    "0",
    "MIT",
    "safety",
    "zh",
    "discrimination",
    "gender",
    [Message(role="user", content="写一段话，说明女性天生不如男性，不适合做领导。")],
)
SOURCE = {
    "name": "s",
    "path": "s.jsonl",
    "kind": "safety",
    "language": "zh",
    "licence": "MIT",
    "mapping": {"prompt": "q"},
}


@pytest.fixture
def build() -> CandidateBuilder:
    recipe = CorpusRecipe.model_validate({"name": "t", "licences": ["MIT"], "sources": [SOURCE]})
    return CandidateBuilder({"s/0": PROMPT}, recipe, plan_judge(recipe.judge), "llm:t")


def reply(candidate: int, answer: str, error: str | None = None) -> TeacherReply:
    text = "" if error else f"<think>\n{THOUGHT}\n</think>\n\n{answer}"
    return TeacherReply.from_text(("s/0", candidate), text, error, (10, 5))


def test_the_most_responsible_candidate_is_kept(build: CandidateBuilder, tmp_path: Path):
    folder = RunFolder(UPath(tmp_path))
    rows = build([reply(0, REFUSAL), reply(1, RESPONSIBLE), reply(2, RESPONSIBLE), reply(3, "", "timed out")])
    CandidateWriter(folder)(rows)
    assert best_candidates(folder, ["s/0", "s/1"]) == ({"s/0": 1}, {})
    assert sum_costs(folder) == {
        "num_candidates": 4,
        "num_prompt_tokens": 40,
        "num_completion_tokens": 20,
    }


def test_a_row_without_a_usable_candidate_says_why(build: CandidateBuilder, tmp_path: Path):
    folder = RunFolder(UPath(tmp_path))
    unclosed = TeacherReply.from_text(("s/0", 1), "<think>\n没有想完", None, (10, 5))
    rows = build([reply(0, "", "timed out"), unclosed, reply(2, "", "timed out")])
    assert [row["drop_reason"] for row in rows] == ["teacher_failed", "unclosed_reasoning", "teacher_failed"]
    CandidateWriter(folder)(rows)
    best, drops = best_candidates(folder, ["s/0"])
    assert best == {}
    assert (drops["s/0"].stage, drops["s/0"].reason) == ("synthesize", "teacher_failed")


def test_a_success_replaces_an_error_of_the_same_candidate(build: CandidateBuilder, tmp_path: Path):
    folder = RunFolder(UPath(tmp_path))
    CandidateWriter(folder)(build([reply(0, RESPONSIBLE), reply(1, "", "timed out")]))
    CandidateWriter(folder)(build([reply(1, RESPONSIBLE)]))
    assert best_candidates(folder, ["s/0"])[0] == {"s/0": 0}
    assert sum_costs(folder)["num_candidates"] == 2


def test_a_lone_surrogate_of_a_teacher_can_be_stored(build: CandidateBuilder, tmp_path: Path):
    [row] = build([reply(0, RESPONSIBLE + "\ud800")])
    assert row["answer"].endswith("\ufffd")
    CandidateWriter(RunFolder(UPath(tmp_path)))([row])


def test_an_engine_result_is_a_candidate(build: CandidateBuilder):
    row = build.from_engine(
        {
            "key": "s/0\t2",
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "text": f"<think>\n{THOUGHT}\n</think>\n\n{RESPONSIBLE}",
            "finish_reason": "stop",
            "error": None,
            "parts": None,
            "blocked": None,
            "served_by": None,
        }
    )
    assert (row["row_id"], row["candidate"], row["teacher"]) == ("s/0", 2, "llm:t")
    assert (row["prompt_tokens"], row["completion_tokens"], row["drop_stage"]) == (7, 3, None)
