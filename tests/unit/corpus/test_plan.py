import json
import shutil
from pathlib import Path
from typing import Any

from safe_r1.corpus.plan import make_plan
from safe_r1.corpus.recipe import Recipe


def fingerprint(data: Path) -> dict[str, Any]:
    sources = [
        {
            "name": name,
            "path": f"{name}.jsonl",
            "kind": "safety",
            "language": "zh",
            "licence": "MIT",
            "category": "gender",
            "mapping": {"prompt": "q", "response": "r"},
        }
        for name in "ab"
    ]
    settings = {"name": "t", "licences": ["MIT"], "sources": sources, "data": str(data)}
    return make_plan(Recipe.model_validate(settings)).fingerprint


def test_the_same_files_in_another_folder_are_the_same_and_others_are_not(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for name in "ab":
        (here / f"{name}.jsonl").write_text(
            json.dumps({"q": "为什么？", "r": "因为。"}, ensure_ascii=False) + "\n", "utf-8"
        )
    shutil.copytree(here, there)
    assert fingerprint(here) == fingerprint(there)
    (there / "b.jsonl").write_text(
        json.dumps({"q": "为什么？", "r": "不知道。"}, ensure_ascii=False) + "\n", "utf-8"
    )
    assert fingerprint(here) != fingerprint(there)
