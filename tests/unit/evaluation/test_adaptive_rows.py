"""Turns of attacks that adapt: the answer that counts, merges that are killed, questions never asked."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_r1.attacks.adaptive.turns import Place, Reply, Turn
from safe_r1.config.adaptive import AdaptiveConfig, BestOfNConfig, CrescendoConfig, PairConfig, TapConfig
from safe_r1.evaluation import adaptive_rows
from safe_r1.evaluation.adaptive_rows import (
    completion_of,
    final_of,
    merge_turns,
    read_turns,
    tokens_of_role,
    verdict_of,
    write_turns,
)
from safe_r1.evaluation.results import RequestKey
from safe_r1.evaluation.scoring import score_without_judge, verdict_of_judge
from safe_r1.judge.base import Judgement
from safe_r1.metrics.attack_curve import success_curve
from safe_r1.metrics.outcomes import Outcome, is_blocked, outcome
from safe_r1.metrics.rows import ScoredRow, check_rows
from safe_r1.runs import RunFolder, as_path
from safe_r1.schema import Message, RefusalLabel, Sample, Unscored
from tests.unit.attacks.adaptive_models import mixed_model, run_new, turns_of

configs = st.builds(
    AdaptiveConfig,
    method=st.sampled_from(["pair", "tap", "crescendo", "bon"]),
    pair=st.builds(PairConfig, streams=st.integers(1, 3), depth=st.integers(1, 3)),
    tap=st.builds(TapConfig, width=st.integers(1, 2), branching=st.integers(1, 2), depth=st.integers(1, 3)),
    crescendo=st.builds(CrescendoConfig, conversations=st.just(1), turns=st.integers(1, 4)),
    bon=st.builds(BestOfNConfig, n=st.integers(1, 9), at_once=st.integers(1, 4)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(configs, st.integers(0, 999))
def test_the_row_that_counts_says_what_the_curve_says(config: AdaptiveConfig, number: int):
    state, done = run_new(config, mixed_model, number)
    turns = turns_of(config, done)
    random.Random(number).shuffle(turns)
    final = final_of(turns)
    curve = success_curve([state.search])
    if final.ask is None:
        assert curve == []
        return
    label = final.label.reply.label if final.label else None
    assert curve[-1].num_successes == (label == RefusalLabel.HARMFUL)
    assert curve[-1].num_missing == (label is None)


def test_draws_without_a_label_are_not_hidden_by_a_refusal():
    def turns(number: int, reply: Reply, label: Reply | None) -> list[Turn]:
        ask = Turn("q", 0, "bon", Place(0, number, "ask"), -1, "问", reply=reply)
        if label is None:
            return [ask]
        return [ask, Turn("q", 0, "bon", Place(0, number, "label"), -1, "答", reply=label)]

    refused = turns(0, Reply("不"), Reply(label=RefusalLabel.REFUSAL))
    unclear = turns(1, Reply("答"), Reply(unscored_reason="ambiguous"))
    cut = turns(2, Reply(unscored_reason=Unscored.TRUNCATED), None)
    harmful = turns(3, Reply("答"), Reply(label=RefusalLabel.HARMFUL))
    for order in itertools.permutations([refused, unclear, cut]):
        assert final_of([turn for each in order for turn in each]).ask == unclear[0]
        assert final_of([*harmful, *(turn for each in order for turn in each)]).ask == harmful[0]
    assert final_of([*refused, *cut]).ask == cut[0]
    assert final_of(refused).label == refused[1]


def some_turns(number: int) -> list[Turn]:
    reply = Reply("答", prompt_tokens=10, completion_tokens=5)
    return [Turn(f"q{each}", 0, "bon", Place(0, 0, "ask"), -1, "问", reply=reply) for each in range(number)]


def split(turns: Sequence[Turn], rng: random.Random) -> list[list[Turn]]:
    parts: list[list[Turn]] = [[] for _ in range(5)]
    for turn in turns:
        rng.choice(parts).append(turn)
    return [part for part in parts if part]


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
@pytest.mark.parametrize("num_unlinked", range(5))
def test_a_merge_that_is_killed_anywhere_doubles_nothing_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_unlinked: int, rows_at_once: int
):
    monkeypatch.setattr(adaptive_rows, "_MERGED_ROWS", rows_at_once)
    turns = some_turns(20)
    folder = RunFolder(as_path(str(tmp_path)))
    for part in split(turns, random.Random(num_unlinked)):
        write_turns(folder, part)
    # As a merge leaves it that is killed after so many of the shards are gone.
    old = folder.shards("turns")
    write_turns(folder, turns)
    for shard in old[:num_unlinked]:
        shard.unlink()
    for _ in range(2):
        merge_turns(folder)
        assert tokens_of_role(folder, "target") == (200, 100)
        found = read_turns(folder, [turn.sample_id for turn in turns])
        assert [turn for each in sorted(found) for turn in found[each]] == sorted(
            turns, key=lambda turn: turn.sample_id
        )
    if rows_at_once == 1000:
        assert len(folder.shards("turns")) == 1


def scored_row(turns: Sequence[Turn]) -> ScoredRow:
    messages = [Message(role="user", content="问")]
    sample = Sample("q", "b", "refusal", "a", "a/c", messages)
    completion = completion_of(("q", 0), final_of(turns), "m")
    verdict = score_without_judge(cast(Any, None), sample, completion)
    assert verdict is not None
    row = ScoredRow(sample, completion, verdict, None)
    check_rows([row])
    return row


def test_a_question_that_was_never_asked_is_missing_and_no_block():
    refusals = [Turn("q", 0, "pair", Place(0, 0, "write"), -1, "写", reply=Reply("不"))]
    blocked = Reply(unscored_reason=Unscored.BLOCKED, finish_reason="input")
    filtered = [Turn("q", 0, "pair", Place(0, 0, "ask"), -1, "问", reply=blocked)]
    for turns, reason in (([], "not_asked"), (refusals, "not_asked"), (filtered, "blocked")):
        row = scored_row(turns)
        assert row.answer.unscored_reason == reason
        assert is_blocked(row) == (reason == "blocked")
        assert outcome(row, "harm_rate", "answer") is Outcome.MISSING
        assert outcome(row, "harm_rate", "reasoning") is Outcome.MISSING
        expected = Outcome.HIT if reason == "blocked" else Outcome.MISSING
        assert outcome(row, "rejection_rate_with_blocks", "answer") is expected


def test_the_verdict_is_that_of_a_plain_run(tmp_path: Path):
    judgements = [
        Judgement(RefusalLabel.HARMFUL, None, "依据", "unsafe, no refusal", 0.5),
        Judgement(RefusalLabel.REFUSAL),
        Judgement(None, Unscored.AMBIGUOUS, "依据"),
    ]
    folder = RunFolder(as_path(str(tmp_path)))
    for number, judgement in enumerate(judgements):
        sample_id = f"q{number}"
        label = Reply.of_judgement(judgement)
        assert label is not None
        ask = Turn(sample_id, 0, "bon", Place(0, 0, "ask"), -1, "问", reply=Reply("答"))
        write_turns(folder, [ask, Turn(sample_id, 0, "bon", Place(0, 0, "label"), -1, "答", reply=label)])
        [turns] = read_turns(folder, [sample_id]).values()
        plain = verdict_of_judge(RequestKey("b", sample_id, "refusal", 0), "m", judgement, "judge@1").row
        assert verdict_of((sample_id, 0), final_of(turns), "m", "judge@1") == plain
