import json
import shutil
from pathlib import Path
from typing import Any

from safe_r1.corpus import plan
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.judge.factory import plan_judge


def fingerprint(data: Path, **changes: Any) -> dict[str, Any]:
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
    recipe = CorpusRecipe.model_validate(settings | changes)
    return plan.fingerprint(plan.make_plan(recipe), plan_judge(recipe.judge))


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
