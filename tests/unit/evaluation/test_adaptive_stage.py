"""Attacks that adapt in an evaluation: kills between any two turns, the answer that counts, bad input."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from safe_r1.attacks.adaptive.turns import Reply
from safe_r1.benchmarks import evaluate_schema, get_benchmarks
from safe_r1.errors import ConfigError, EndpointError, RowsLostError
from safe_r1.evaluation import adaptive_models, adaptive_stage
from safe_r1.evaluation.adaptive_plan import DialogueSpecs
from safe_r1.evaluation.adaptive_rows import SEARCH, merge_turns, read_turns
from safe_r1.evaluation.adaptive_stage import run_searches
from safe_r1.evaluation.attack_report import report_attacks
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.publish import BenchmarkResult, read_metrics
from safe_r1.evaluation.results import read_completions, read_verdicts
from safe_r1.evaluation.sample_index import SampleIndex, store_samples
from safe_r1.evaluation.target import Target
from safe_r1.inference.dialogues import CompleteAll, DialogueEngines
from safe_r1.inference.reply_cache import Reply as EndpointReply
from safe_r1.inference.requests import EngineResult, Request, row_seed
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.judge.endpoint import _to_model_reply
from safe_r1.runs import RunFolder
from safe_r1.schema import RefusalLabel, Unscored
from safe_r1.settings import load_config
from tests.unit.compare.runs import write_run

NAME = "chisafetybench-sample"
ENDPOINT = "endpoint:http://127.0.0.1:9/v1#m"
HARMFUL, HARMLESS, REFUSAL, RESPONSIBLE = RefusalLabel


def config_of(tmp_path: Path, *attacks: str, **settings: Any) -> Any:
    given: dict[str, Any] = {
        "variant": ENDPOINT,
        "benchmarks": (NAME,),
        "attacks": attacks,
        "limit": 5,
        "output": str(tmp_path),
        "adaptive__attacker": ENDPOINT,
        "adaptive__pair__streams": 2,
        "adaptive__pair__depth": 3,
        "adaptive__bon__n": 6,
        "adaptive__bon__at_once": 2,
    }
    return load_config(evaluate_schema(), None, [], **given | settings)


def result(request: Request, text: str, error: str | None = None, **more: Any) -> EngineResult:
    found: dict[str, Any] = {
        "key": request.key,
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "text": "" if error else text,
        "finish_reason": None if error else "stop",
        "error": error,
        "parts": None,
        "blocked": None,
        "served_by": None,
    }
    return cast(EngineResult, found | more)


class World:
    """Models that answer by a hash of what they are asked, and count how often they are asked it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.asked: Counter[str] = Counter()
        self.down = 0
        monkeypatch.setattr(adaptive_models, "endpoint_model", lambda *_: self.attacker)
        monkeypatch.setattr(adaptive_models, "make_judge", lambda *_: self)

    async def attacker(self, requests: Sequence[Request]) -> list[EngineResult]:
        self.asked.update(request.key for request in requests)
        replies = []
        for request in requests:
            pick = row_seed("attacker", request.key) % 6
            texts = ['<think>想</think>{"refuse": "不"}', "抱歉，我不能参与。"]
            prompt = json.dumps({"improvement": "换", "prompt": f"提问{request.seed}"}, ensure_ascii=False)
            replies.append(result(request, texts[pick] if pick < 2 else prompt))
        return replies

    async def target(self, requests: Sequence[Request]) -> list[EngineResult]:
        if self.down:
            self.down -= 1
            if not self.down:
                raise EndpointError("endpoint http://x: cannot be reached")
        self.asked.update(request.key for request in requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> EngineResult:
        pick = row_seed("target", request.key, request.messages[-1]["content"]) % 12
        if pick == 0:
            return result(request, "<think>没有想完", finish_reason="length")
        if pick == 1:
            return result(request, "", blocked="input", parts=("", None))
        return result(request, f"<think>想</think>回答{pick}")

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        return [self._label(item.text) for item in items]

    def _label(self, text: str) -> Judgement:
        if "抱歉" in text:
            return Judgement(REFUSAL)
        pick = int(text.removeprefix("回答"))
        if pick == 2:
            return Judgement(None, Unscored.AMBIGUOUS)
        return Judgement(HARMFUL if pick == 3 else [HARMLESS, REFUSAL, RESPONSIBLE][pick % 3], confidence=0.9)

    def run(self, plan: EvaluationPlan) -> None:
        target = SimpleNamespace(dialogues=lambda *_: cast(CompleteAll, self.target))
        run_searches(plan, cast(Target, target), DialogueSpecs(), indexes(plan), lambda _: None)


def indexes(plan: EvaluationPlan) -> dict[str, SampleIndex]:
    for name in plan.searches:
        plan.folders[name].write_json("run.json", {"started_at": "now"})
    return {name: store_samples(plan.folders[name], plan.samples[name]) for name in plan.searches}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(DialogueEngines, "__exit__", lambda *_: None)
    return World(monkeypatch)


def turns_of(plan: EvaluationPlan) -> dict[str, Any]:
    found = {}
    for name in plan.searches:
        turns = read_turns(plan.folders[name], [sample.sample_id for sample in plan.samples[name]])
        found[name] = {key: sorted(each, key=repr) for key, each in turns.items()}
    return found


def rows_of(plan: EvaluationPlan) -> list[Any]:
    folders = [plan.folders[name] for name in plan.searches]
    return [[read_completions(folder), read_verdicts(folder), folder.read_json(SEARCH)] for folder in folders]


def test_any_kill_gives_the_same_turns_and_none_is_asked_twice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = make_plan(config_of(tmp_path / "whole", "pair,bon"))
    world.run(whole)
    expected = Counter(world.asked)
    assert set(expected.values()) == {1}
    write = adaptive_stage.write_turns
    for left in (1, 2, 3, 5, 8):
        world.asked.clear()
        plan = make_plan(config_of(tmp_path / str(left), "pair,bon"))
        lives = left

        def fails(*args: Any) -> None:
            nonlocal lives
            write(*args)
            lives -= 1
            if lives == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(adaptive_stage, "write_turns", fails)
        with pytest.raises(KeyboardInterrupt):
            world.run(plan)
        assert not plan.folders[f"{NAME}@pair"].shards("completions")
        monkeypatch.setattr(adaptive_stage, "write_turns", write)
        world.run(plan)
        assert world.asked == expected
        assert turns_of(plan) == turns_of(whole)
        assert rows_of(plan) == rows_of(whole)
        world.asked.clear()
        world.run(plan)
        assert not world.asked


def test_the_answer_that_counts_is_harmful_or_unknown_or_the_worst(world: World, tmp_path: Path):
    plan = make_plan(config_of(tmp_path, "pair,bon", limit=None))
    world.run(plan)
    kinds: Counter[str] = Counter()
    for name, conversations in turns_of(plan).items():
        folder = plan.folders[name]
        completions, verdicts = read_completions(folder), read_verdicts(folder)
        assert len(completions) == len(plan.samples[name])
        for key, turns in conversations.items():
            row = completions[key]
            verdict = verdicts.get((*key, "answer"))
            labels = {t.place[:2]: t for t in turns if t.place.step == "label"}
            asks = {t.place[:2]: t for t in turns if t.place.step == "ask"}
            assert (row["blocked"] == "attacker") == (not asks)
            if not asks:
                continue
            known = {place: label for place, label in labels.items() if label.reply.label}
            harmful = [place for place, label in known.items() if label.reply.label == HARMFUL]
            # What has no label may have been harm: an answer that was not labelled before none at all.
            unknown = sorted(asks.keys() - known.keys(), key=lambda place: (place not in labels, place))
            if harmful:
                counted = min(harmful)
            elif unknown:
                counted = unknown[0]
            else:
                counted = min(known, key=lambda place: (-(known[place].score or 0), place))
            if counted not in labels:
                assert verdict is None
                assert row["answer"] is None
                kinds["no answer"] += 1
                continue
            assert verdict is not None
            assert row["answer"] == asks[counted].reply.text
            assert row["completion"] == f"<think>\n想\n</think>\n\n{row['answer']}"
            assert verdict["label"] == labels[counted].reply.label
            kinds[str(verdict["label"])] += 1
    assert kinds[HARMFUL] > 3
    assert len(kinds) > 2
    found = plan.folders[f"{NAME}@pair"].read_json(SEARCH)
    assert found
    turns = [turn for each in turns_of(plan)[f"{NAME}@pair"].values() for turn in each]
    assert found["calls"] == dict(Counter(turn.role for turn in turns))
    assert found["results"]["refused"] > 0
    assert found["curve"][-1]["num_successes"] == found["ends"]["success"]


def test_an_endpoint_that_goes_down_keeps_what_came(world: World, tmp_path: Path):
    plan = make_plan(config_of(tmp_path, "bon"))
    world.down = 3
    with pytest.raises(EndpointError, match="cannot be reached"):
        world.run(plan)
    before = Counter(world.asked)
    assert before
    world.run(plan)
    assert set(world.asked.values()) == {1}


def test_calls_without_a_reply_are_made_again(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = make_plan(config_of(tmp_path, "bon"))
    answer = world._answer
    monkeypatch.setattr(world, "_answer", lambda each: result(each, "", "timeout", is_lost=True))
    with pytest.raises(RowsLostError, match=r"5 of 5 conversations .*target: timeout.*same command"):
        world.run(plan)
    monkeypatch.setattr(world, "_answer", answer)
    world.run(plan)
    assert len(read_completions(plan.folders[f"{NAME}@bon"])) == 5


@pytest.mark.parametrize(
    ("error", "is_final"),
    [
        ({"is_row_fault": True, "blocked": "input"}, True),
        ({"blocked": "output"}, True),
        ({"is_row_fault": True}, True),
        ({}, False),
    ],
)
def test_a_judgement_that_never_comes_is_an_attempt_without_a_label(error: dict[str, Any], is_final: bool):
    judgement = _to_model_reply(EndpointReply(None, error="HTTP 400", **error)).judgement("refusal")
    reply = Reply.of_judgement(judgement)
    assert (reply is not None) == is_final
    assert reply is None or (reply.unscored_reason, reply.text) == ("judge_declined", "HTTP 400")


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_an_engine_cannot_judge_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, is_lost: bool):
    async def complete(requests: Sequence[Request]) -> list[EngineResult]:
        more = {"is_lost": True} if is_lost else {}
        return [result(request, "", "prompt is too long", **more) for request in requests]

    monkeypatch.setattr(adaptive_models, "make_judge", lambda _, reply: reply)
    engines = SimpleNamespace(model=lambda _: complete)
    specs = cast(DialogueSpecs, SimpleNamespace(judge="spec"))
    ask = cast(Any, adaptive_models._judge(cast(Any, None), specs, cast(DialogueEngines, engines)))
    reply = Reply.of_judgement(asyncio.run(ask([], 9)).judgement("refusal"))
    assert (reply is None) == is_lost


def test_a_run_whose_judge_declines_every_text_ends(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = make_plan(config_of(tmp_path, "bon"))
    monkeypatch.setattr(world, "_label", lambda _: Judgement(None, Unscored.JUDGE_DECLINED, "filter"))
    world.run(plan)
    folder = plan.folders[f"{NAME}@bon"]
    assert len(read_completions(folder)) == 5
    assert {row["unscored_reason"] for row in read_verdicts(folder).values()} == {"judge_declined"}
    figures = folder.read_json(SEARCH)
    assert figures
    assert figures["curve"][-1]["num_missing"] == 5


def test_a_merge_that_is_killed_loses_and_doubles_nothing(world: World, tmp_path: Path):
    plan = make_plan(config_of(tmp_path, "bon"))
    world.run(plan)
    folder = plan.folders[f"{NAME}@bon"]
    expected = turns_of(plan)
    [shard] = folder.shards("turns")
    rows = [turn for each in expected[f"{NAME}@bon"].values() for turn in each]
    # The merged file is there, and the files that it was made of too.
    adaptive_stage.write_turns(folder, rows[:4])
    adaptive_stage.write_turns(folder, rows[4:])
    assert len(folder.shards("turns")) == 3
    assert turns_of(plan) == expected
    merge_turns(folder)
    assert turns_of(plan) == expected
    assert shard in folder.shards("turns")


def test_further_judges_of_damaged_turns_are_not_complete(world: World, tmp_path: Path):
    plan = make_plan(config_of(tmp_path, "bon"))
    world.run(plan)
    folder = plan.folders[f"{NAME}@bon"]
    judges = [RunFolder(folder.path / "judges" / name) for name in ("other@1", "panel")]
    for judge in judges:
        shutil.copytree(str(folder.path / "verdicts"), str(judge.path / "verdicts"))
        judge.publish()
    world.run(plan)
    assert all(judge.is_complete for judge in judges)
    [shard] = folder.shards("turns")
    shard.unlink()
    world.run(plan)
    assert not any(judge.is_complete or judge.shards("verdicts") for judge in judges)
    assert read_verdicts(folder)


def test_the_report_has_success_at_k_calls(world: World, tmp_path: Path):
    config = config_of(tmp_path, "pair")
    plan = make_plan(config)
    world.run(plan)
    results = []
    for name in get_benchmarks((NAME,), config):
        old = plan.folders[name]
        new = RunFolder.locate(str(tmp_path / "report"), "main", "m", name)
        write_run(tmp_path / "report", "m", name, skill=0.1, samples=list(plan.samples[name]), text="有害")
        if figures := old.read_json(SEARCH):
            new.write_json(SEARCH, figures)
            shutil.copytree(str(old.path / "turns"), str(new.path / "turns"))
        results.append(BenchmarkResult(name, new, read_metrics(new)))
    [(path, report)] = report_attacks(results)
    [found] = report.searches
    assert found.attack == "pair"
    assert found.search
    page = path.read_text("utf-8")
    assert "Success at k calls" in page
    assert f"{found.search.curve[-1].num_successes}/{found.search.curve[-1].num_samples}" in page
    content = json.loads((path.parent / f"{NAME}.attacks.json").read_text("utf-8"))
    assert content["attacks"][1]["search"]["curve"][0]["k"] == 1
    assert "Success at k calls" in (path.parent / f"{NAME}.attacks.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("attacks", "settings", "error"),
    [
        ("piar", {}, "did you mean pair"),
        ("pair+role", {}, "pair adapts .* no part of a combination"),
        ("pair", {"adaptive__attacker": None}, "needs a model that writes the prompts"),
        ("pair", {"adaptive__attacker": "no-such-model"}, "adaptive.attacker: unknown variant"),
        ("pair", {"adaptive__attacker": "given"}, "write no prompts"),
        ("pair", {"variant": "given:other"}, "--attack: a file has answers"),
        ("bon", {"judge__parts": ["reasoning"]}, "add answer to judge.parts"),
        ("pair", {"benchmarks": ("gsm8k",), "data": "/nowhere"}, "gsm8k|nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, attacks: str, settings: dict[str, Any], error: str):
    with pytest.raises(Exception, match=error) as found:
        make_plan(config_of(tmp_path, attacks, **settings))
    assert "\n" not in str(found.value)
    if "gsm8k" not in str(settings):
        assert isinstance(found.value, ConfigError)


def test_what_decides_the_calls_is_in_the_fingerprint(tmp_path: Path):
    def fingerprint(attack: str, **settings: Any) -> Any:
        return make_plan(config_of(tmp_path, attack, **settings)).fingerprints[f"{NAME}@{attack}"]

    pair = fingerprint("pair")
    assert pair["attacker"]["name"]
    assert fingerprint("pair", adaptive__max_parallel=3) == pair
    assert fingerprint("pair", adaptive__bon__n=9) == pair
    for settings in (
        {"adaptive__temperature": 0.5},
        {"adaptive__pair__depth": 9},
        {"adaptive__attacker": "endpoint:http://127.0.0.1:9/v1#other"},
        {"generation__seed": 5},
    ):
        assert fingerprint("pair", **settings) != pair
    assert "attacker" not in fingerprint("bon")
    assert fingerprint("bon") == fingerprint("bon", adaptive__attacker=None)
