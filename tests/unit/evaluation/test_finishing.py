"""Answers without a choice that the model is asked to end."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError, IntegrityError
from safe_r1.evaluation import finishing
from safe_r1.evaluation.endpoint_target import EndpointTarget
from safe_r1.evaluation.finishing import ReadFinished, continue_answer, finish_answers, one_more_turn
from safe_r1.evaluation.plan import EvaluationPlan, make_plan
from safe_r1.evaluation.results import RequestKey
from safe_r1.evaluation.run_rows import Totals
from safe_r1.evaluation.sample_index import index_samples
from safe_r1.evaluation.target import Target
from safe_r1.inference.rendering import Renderer
from safe_r1.inference.requests import (
    BatchCounts,
    Continuation,
    EngineResult,
    Request,
    RequestBatch,
    Sampling,
)
from safe_r1.inference.shard_buffer import Finished
from safe_r1.models.checkpoints import prepare
from safe_r1.models.endpoint_entry import EndpointEntry
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.registry import get_variant
from safe_r1.models.thinking import ThinkingTags, closing_tag
from safe_r1.progress import Progress
from safe_r1.runs import RunFolder
from safe_r1.schema import FINISHED_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA, Completion, Message, Sample
from tests.chat_server import Server
from tests.chat_server import completion as chat_completion
from tests.unit.metrics.generated import metrics_of, write_run

pytestmark = pytest.mark.slow

OPENINGS = (
    "<think>",
    "<Think >",
    "<thinking>",
    "<思考>",
    "<seed:think>",
    "◁think▷",
    "<reasoning>",
    "[THINK]",
    "<|begin_of_thought|>",
    "<|START_THINKING|>",
    "<|inner_prefix|>",
    "<|channel|>analysis<|message|>",
    "<|channel>thought\n",
    "<unused94>thought\n",
    "<|im_start|>think\n",
    "Here is my thought process:",
)


def sample(content: str = "哪一项正确？\nA. 对\nB. 错", **more: Any) -> Sample:
    return Sample(
        "b/1", "b", "mcq", "a", "a/c", [Message(role="user", content=content)], {"A": "对", "B": "错"}, more
    )


def completion(text: str, **more: Any) -> Completion:
    reasoning, answer = split_reasoning(text)
    return Completion("b/1", "v", 0, 5, 5, text, reasoning, answer, "stop", None, **more)


@pytest.mark.parametrize("opening", OPENINGS)
def test_thoughts_that_were_cut_are_closed_in_their_own_form(opening: str):
    text = f"{opening}\n先看第一项"
    assert split_reasoning(text)[1] is None
    found = continue_answer(sample(), completion(text), None)
    assert found.text == text
    assert split_reasoning(text + found.suffix + "B") == ("先看第一项", "答案：B")


def test_tags_of_an_entry_close_its_thoughts():
    own = ThinkingTags("<<内心>>", "<</内心>>")
    assert closing_tag("<<内心>>\n先看", own) == "<</内心>>"
    assert closing_tag("好的，用户想知道哪一项", own) == ""


@pytest.mark.parametrize("text", ["<think>\n想好了\n</think>\n\n不好说。", "不好说。", ""])
def test_an_answer_that_ended_is_continued_as_it_is(text: str):
    assert continue_answer(sample(), completion(text), None) == Continuation(text, "\n\n答案：", ("A", "B"))
    english = sample("Which one?\nA. true\nB. false")
    assert continue_answer(english, completion(text), None).suffix == "\n\nAnswer:\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>\n想\n</think>\n\n不好说。", "不好说。"),
        ("<think>\n还在想", "还在想"),
        ("<think>\n想\n</think>", "想"),
        ("", "……"),
    ],
)
def test_an_endpoint_is_asked_in_one_more_turn(text: str, said: str):
    first, second = one_more_turn(sample(), completion(text))
    assert first == {"role": "assistant", "content": said}
    assert second["role"] == "user"
    assert "（A/B）" in second["content"]


@pytest.fixture
def renderer(tiny_qwen2: Path) -> Renderer:
    variant, _ = prepare(get_variant(str(tiny_qwen2)), trust_remote_code=False)
    return Renderer(variant, Sampling(0.6, 0.95), context=160, trust_remote_code=False)


def test_a_continuation_is_rendered_behind_the_prompt(renderer: Renderer):
    messages = [Message(role="user", content="问")]
    plain = renderer(Request("k", messages, 8, seed=3))
    # The completion begins with the prefix that the prompt ends with.
    text = f"{plain['prefix']}先想一想<｜end▁of▁sentence｜>再想"
    row = renderer(
        Request("k", messages, 8, 3, continuation=Continuation(text, "\n</think>\n\n答案：", ("A", "B")))
    )
    prompt = plain["tokenized_prompt"]
    assert row["tokenized_prompt"][: len(prompt)] == prompt
    from safe_r1.models.chat import load_tokenizer

    tokenizer = load_tokenizer(renderer.variant.source, renderer.variant.revision)
    added = row["tokenized_prompt"][len(prompt) :]
    assert tokenizer.decode(added) == text.removeprefix(plain["prefix"]) + "\n</think>\n\n答案："
    # Text that a model spells out is no control token.
    assert tokenizer.eos_token_id not in added
    assert row["prefix"] == ""
    assert row["sampling_params"]["structured_outputs"] == {"choice": ["A", "B"]}
    assert row["sampling_params"]["temperature"] == 0.0
    assert "seed" not in row["sampling_params"]


def test_a_completion_that_fills_the_context_leaves_room_for_the_letter(renderer: Renderer):
    messages = [Message(role="user", content="问")]
    row = renderer(
        Request("k", messages, 8, 3, continuation=Continuation("想" * 500, "\n答案：", ("A", "B")))
    )
    assert len(row["tokenized_prompt"]) + row["max_tokens"] == 160
    assert row["max_tokens"] == 8
    from safe_r1.models.chat import load_tokenizer

    tokenizer = load_tokenizer(renderer.variant.source, renderer.variant.revision)
    assert str(tokenizer.decode(row["tokenized_prompt"])).endswith("\n答案：")


def result(text: str, key: str, **more: Any) -> EngineResult:
    found: dict[str, Any] = {
        "key": key,
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "text": text,
        "finish_reason": "stop",
        "error": None,
        "parts": None,
        "blocked": None,
        "served_by": None,
    }
    return cast(EngineResult, found | more)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B", "B"),
        ("B。", "B"),
        ("对", "A"),
        ("我选 B. 错", "B"),
        ("<think>\nA 好像对\n</think>\n\nB", "B"),
        ("<think>\nA 好像对", None),
        ("无法确定", None),
        ("", None),
    ],
)
def test_the_further_turn_of_an_endpoint_is_read_as_an_answer(text: str, choice: str | None):
    key = RequestKey.of(sample(), 0, "finished").to_text()
    row = ReadFinished("v", {key: sample()})(result(text, key)).row
    assert (row.choice, row.error, row.completion_tokens) == (choice, None, 2)
    assert ReadFinished("v", {key: sample()})(result(text, key, blocked="output")).row.choice is None
    failed = ReadFinished("v", {key: sample()})(result("", key, error="boom")).row
    assert (failed.choice, failed.error) == (None, "boom")


@dataclass
class FakeTarget:
    """Chooses B each time, until it has answered some rows."""

    continues: bool
    dies_after: int = 10**9
    fails: int = 0
    seen: list[Request] = field(default_factory=list)

    def complete(
        self,
        batches: Sequence[RequestBatch],
        finish: Callable[[EngineResult], Finished],
        write: Callable[[Sequence[Finished]], None],
    ) -> Iterator[BatchCounts]:
        for batch in batches:
            requests = list(batch.read())
            assert len(requests) == batch.num_rows
            for request in requests:
                if len(self.seen) >= self.dies_after:
                    raise KeyboardInterrupt
                error = "boom" if len(self.seen) < self.fails else None
                self.seen.append(request)
                write([finish(result("" if error else "B", request.key, error=error))])
                yield BatchCounts(1, int(error is not None), 2)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationPlan:
    """A run whose answers have their verdicts."""
    monkeypatch.setattr(finishing, "connect", lambda: None)
    monkeypatch.setattr(finishing, "disconnect", lambda: None)
    folder = write_run(tmp_path, 7, sizes={"mcq": 60, "refusal": 20}, repeats=3, swap=True)
    benchmark = SimpleNamespace(as_asked=lambda asked, repeat: asked)
    made = SimpleNamespace(
        config=EvaluateConfig(variant="v", output=str(tmp_path)),
        variant=SimpleNamespace(name="v"),
        searches={},
        folders={"b": folder},
        benchmarks={"b": benchmark},
        repeats=lambda name: 3,
        max_tokens=lambda *_: 48,
        thinking_tags=None,
        samples={"b": []},
        sampling=Sampling(0.0, 1.0),
    )
    return cast(EvaluationPlan, made)


def unread(folder: RunFolder) -> set[tuple[str, int]]:
    """By brute force: the keys that are to be asked."""
    groups = {
        row["sample_id"]: row["task"] if "~" not in row["sample_id"] else "swapped"
        for row in folder.read_rows("samples", SAMPLE_SCHEMA)
    }
    return {
        (row["sample_id"], row["repeat"])
        for row in folder.read_rows("verdicts", VERDICT_SCHEMA)
        if row["part"] == "answer"
        and row["choice"] is None
        and row["unscored_reason"] not in ("failed", "blocked")
        and groups[row["sample_id"]] == "mcq"
    }


def run(plan: EvaluationPlan, target: FakeTarget) -> list[Progress]:
    shown: list[Progress] = []
    samples = {"b": index_samples(plan.folders["b"])}
    finish_answers(plan, cast(Target, target), samples, shown.append)
    return shown


@pytest.mark.parametrize("continues", [True, False])
def test_exactly_the_answers_without_a_choice_are_ended_once(plan: EvaluationPlan, continues: bool):
    wanted = unread(plan.folders["b"])
    target = FakeTarget(continues, dies_after=len(wanted) // 3)
    with pytest.raises(KeyboardInterrupt):
        run(plan, target)
    second = FakeTarget(continues)
    shown = run(plan, second)
    keys = [RequestKey.from_text(request.key) for request in (*target.seen, *second.seen)]
    assert len(keys) == len(wanted)
    assert {(key.sample_id, key.repeat) for key in keys} == wanted
    assert {key.part for key in keys} == {"finished"}
    assert (shown[0].done, shown[-1].done, shown[-1].total) == (len(wanted) // 3, len(wanted), len(wanted))
    assert all((request.continuation is not None) == continues for request in second.seen)
    assert all((len(request.messages) == 1) == continues for request in second.seen)
    assert not run(plan, FakeTarget(continues))
    counts = metrics_of(plan.folders["b"])["counts"]["mcq"]
    assert counts["num_finished"] == counts["num_finished_chosen"] == len(wanted)


def test_what_failed_is_asked_again_and_counts_as_unread_until_then(plan: EvaluationPlan):
    wanted = unread(plan.folders["b"])
    run(plan, FakeTarget(True, fails=5))
    before = metrics_of(plan.folders["b"])
    assert before["counts"]["mcq"]["num_finished_chosen"] == len(wanted) - 5
    again = FakeTarget(True)
    run(plan, again)
    assert len(again.seen) == 5
    assert metrics_of(plan.folders["b"])["counts"]["mcq"]["num_finished_chosen"] == len(wanted)


def test_a_finished_answer_of_no_completion_is_an_error(plan: EvaluationPlan):
    run(plan, FakeTarget(True))
    folder = plan.folders["b"]
    [shard, *_] = folder.shards("finished")
    import pyarrow.parquet as pq

    table = pq.read_table(str(shard))
    changed = table.set_column(0, table.schema.field(0), [["nobody"] * len(table)])
    pq.write_table(changed, str(shard))
    with pytest.raises(IntegrityError, match="nobody"):
        metrics_of(folder)


def test_the_run_is_another_one_with_finished_answers(tmp_path: Path):
    common = {"variant": "demo", "benchmarks": ("chisafetybench-sample",), "output": str(tmp_path)}
    without = make_plan(EvaluateConfig.model_validate(common))
    finished = make_plan(EvaluateConfig.model_validate(common | {"finish_answers": True}))
    [one], [two] = without.fingerprints.values(), finished.fingerprints.values()
    assert two == one | {"finish_answers": True}


def test_given_answers_cannot_be_ended(tmp_path: Path):
    config = EvaluateConfig(
        variant="given", benchmarks=("x.jsonl",), output=str(tmp_path), finish_answers=True
    )
    with pytest.raises(ConfigError, match="--finish-answers: a file has one given answer"):
        make_plan(config)


def test_a_choice_that_a_person_has_entered_since_goes_before(plan: EvaluationPlan):
    from safe_r1.metrics.outcomes import outcome
    from safe_r1.metrics.rows import ScoredRow
    from safe_r1.schema import FinishedAnswer, Verdict

    asked = replace(sample(), metadata={"answer": "A"})
    verdict = Verdict("b/1", "v", 0, "answer", "incorrect", 0, "answer-key", None)
    finished = FinishedAnswer("b/1", "v", 0, 1, 1, "A", "A", None)
    row = ScoredRow(asked, completion("不好说。"), verdict, finished=finished)
    assert str(outcome(row, "accuracy")) == "Outcome.MISS"
    assert str(outcome(row, "accuracy_finished")) == "Outcome.HIT"
    edited = replace(row, answer=replace(verdict, choice="B"))
    assert str(outcome(edited, "accuracy_finished")) == "Outcome.MISS"


def test_the_stage_is_named_as_a_campaign_reads_it():
    line = Progress("finishing", 3, 10, 1, 20).format()
    assert re.fullmatch(r"finishing: 3/10 rows, 20 tokens, 1 without a result", line)
    assert Progress.parse(line) == Progress("finishing", 3, 10, 1, 20)


def test_an_endpoint_is_asked_and_its_tokens_are_counted(plan: EvaluationPlan, server: Server):
    folder = plan.folders["b"]
    wanted = unread(folder)
    server.on_request = lambda sent, call: (200, with_usage(completion_of("选 A", sent)))
    settings = {"concurrency": 4, "max_retries": 1, "input_price": 1.0, "output_price": 1.0}
    entry = EndpointEntry.model_validate({"url": server.url, "model": "m", **settings})
    target = EndpointTarget(plan, entry)
    before = target.facts("b", Totals(0, 0, {}, {}))["endpoint"]
    run(plan, cast(FakeTarget, target))
    assert {row["choice"] for row in folder.read_rows("finished", FINISHED_SCHEMA)} == {"A"}
    assert len(list(folder.read_rows("finished", FINISHED_SCHEMA))) == len(wanted)
    after = target.facts("b", Totals(0, 0, {}, {}))["endpoint"]
    assert (before["prompt_tokens"], before["cost"]) == (0, 0)
    assert (after["prompt_tokens"], after["completion_tokens"]) == (10 * len(wanted), 20 * len(wanted))
    assert after["cost"] == pytest.approx(30 * len(wanted) / 1e6)


def completion_of(text: str, sent: dict[str, Any]) -> dict[str, Any]:
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    return chat_completion(text)


def with_usage(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}}


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()
