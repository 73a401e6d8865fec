"""Answers that a model on a real engine ends with one letter of the options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from safe_r1.runs import RunFolder
from safe_r1.schema import COMPLETION_SCHEMA, FINISHED_SCHEMA

pytestmark = [pytest.mark.very_long, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
NUM_QUESTIONS = 12


def test_cut_thoughts_end_with_a_letter(tiny_qwen2: Path, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    rows = [
        {
            "question": f"第 {number} 题：哪一项正确？",
            "A": "甲",
            "B": "乙",
            "C": "丙",
            "answer": "ABC"[number % 3],
        }
        for number in range(NUM_QUESTIONS)
    ]
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "ray_jobs/evaluate.py", "--variant", str(tiny_qwen2)]
    command += ["--benchmark", str(questions), "--output", str(tmp_path / "runs"), "--finish-answers"]
    # The completions end where the context does: the letter needs room all the same.
    command += ["--set", "engine.max_model_len=96", "--set", "generation.max_tokens=96"]
    command += ["--set", "engine.cpu_kv_cache_gib=1", "--set", "engine.max_num_seqs=8"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"finishing: {NUM_QUESTIONS}/{NUM_QUESTIONS} rows" in done.stdout + done.stderr
    assert "ACC  (answers finished)" in done.stdout
    folder = RunFolder.locate(str(tmp_path / "runs"), "main", tiny_qwen2.name, "questions")
    # A random model never ends its thoughts.
    completions = list(folder.read_rows("completions", COMPLETION_SCHEMA))
    assert all(row["answer"] is None for row in completions)
    finished = list(folder.read_rows("finished", FINISHED_SCHEMA))
    assert len({row["sample_id"] for row in finished}) == len(finished) == NUM_QUESTIONS
    assert {row["choice"] for row in finished} <= {"A", "B", "C"}
    assert all(row["completion"] == row["choice"] and row["error"] is None for row in finished)
    counts = (folder.read_json("metrics.json") or {})["counts"]["mcq"]
    assert (counts["num_finished"], counts["num_finished_chosen"]) == (NUM_QUESTIONS, NUM_QUESTIONS)
    assert counts["num_scored"] == 0
