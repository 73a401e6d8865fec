"""A user's own files as ``--corpus``: forms told, every row accounted for, what is learned shown."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]
TOPICS = ["炒菜", "围棋", "书法", "钢琴", "长跑", "摄影", "木工", "插花", "速写", "登山", "游泳", "养花"]


@pytest.mark.very_long
def test_a_folder_of_mixed_forms_is_shown_before_it_is_learned(tiny_qwen2: Path, tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    alpaca = [
        {
            "instruction": f"请介绍{topic}的入门方法",
            "output": f"学{topic}要先准备工具，再多练习。",
            "score": 5,
        }
        for topic in TOPICS
    ]
    messages = [
        {
            "messages": [
                {"role": "user", "content": f"How does one begin with {number} tools"},
                {"role": "user", "content": "and little time?"},
                {
                    "role": "assistant",
                    "content": f"Start with {number}.",
                    "reasoning_content": "Short is best here.",
                },
            ]
        }
        for number in range(3)
    ]
    tools = [{"messages": [{"role": "user", "content": "算"}, {"role": "tool", "content": "3"}]}]
    for name, rows in (("a.jsonl", alpaca), ("b.jsonl", messages + tools)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / name).write_text(text, "utf-8")
    command = [sys.executable, "ray_jobs/finetune.py", "--variant", str(tiny_qwen2), "--corpus", str(data)]
    command += ["--output", str(tmp_path / "runs"), "--set", "pack.seq_len=1024"]
    command += ["--set", "global_batch_size=1", "--dry-run"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recognised 12 × Alpaca, 4 × messages among 16 records" in done.stdout
    assert "fields that are not read: score" in done.stdout
    num_kept = 15 - sum(
        int(line.rsplit(maxsplit=1)[1]) for line in done.stdout.splitlines() if "dropped, dedup" in line
    )
    assert f"16 rows read = {num_kept} kept" in done.stdout
    assert "read: tool_turns" in done.stdout
    assert "repaired, joined_user_turns" in done.stdout
    # An answer without reasoning stands behind an empty thought, and the mark of what is learned before it.
    assert "【\\n\n    </think>\\n" in done.stdout
    assert not (tmp_path / "runs" / "corpora").exists()
