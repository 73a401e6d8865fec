import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_r1.corpus import plan
from safe_r1.corpus.accounting import CorpusInfo
from safe_r1.corpus.card import render_card
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.judge.factory import plan_judge
from safe_r1.settings import public_settings


def make_recipe(data: Path, **changes: Any) -> CorpusRecipe:
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
    return CorpusRecipe.model_validate(settings | changes)


def fingerprint(data: Path, **changes: Any) -> dict[str, object]:
    recipe = make_recipe(data, **changes)
    return plan.fingerprint(plan.make_plan(recipe), plan_judge(recipe.judge))


def write_source(file: Path, answer: str) -> None:
    file.write_text(json.dumps({"q": "为什么？", "r": answer}, ensure_ascii=False) + "\n", "utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "ab":
        write_source(folder / f"{name}.jsonl", "因为。")
    return folder


def test_the_same_files_in_another_folder_are_the_same_and_others_are_not(data: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    assert fingerprint(data) == fingerprint(copy)
    write_source(copy / "b.jsonl", "不知道。")
    assert fingerprint(data) != fingerprint(copy)


def test_another_judge_is_another_corpus_and_its_port_is_not(data: Path):
    recipe = make_recipe(data)
    found = plan.make_plan(recipe)
    judge = plan_judge(recipe.judge)
    assert plan.fingerprint(found, judge) == fingerprint(data)
    assert plan.fingerprint(found, replace(judge, identity="0" * 64)) != fingerprint(data)
    first, second = (
        fingerprint(data, judge={"kind": f"http://127.0.0.1:{port}/v1", "model": "m"}) for port in (8, 9)
    )
    assert first == second != fingerprint(data)


def test_a_password_in_a_url_is_shown_nowhere(data: Path):
    url = "http://user:hunter2@127.0.0.1:9/v1"
    changes = {"teacher": url, "judge": {"kind": url, "model": "m"}, "synthesis": {"model": "m"}}
    recipe = make_recipe(data, **changes)
    shown: list[str] = []
    plan.dry_run(recipe, shown.append)
    info = CorpusInfo(
        recipe=public_settings(recipe),
        fingerprint=fingerprint(data, **changes),
        num_read=0,
        num_kept=0,
        num_dropped=0,
        read={"a": 0, "b": 0},
        kept=[],
        dropped=[],
        repaired=[],
        splits={"train": 0, "validation": 0},
        shards={},
        lengths={},
        histogram={},
        teacher_costs={},
        versions={},
        hardware={},
        started_at="",
        finished_at="",
        sessions=[],
    )
    everything = "\n".join([*shown, render_card(recipe, info), json.dumps(info)])
    assert "http://127.0.0.1:9/v1" in everything
    assert "hunter2" not in everything
    assert "user:" not in everything
