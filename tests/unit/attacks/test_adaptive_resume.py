"""Conversations that are killed anywhere and go on from their rows, against those that are not."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_r1.attacks.adaptive.conversation import Conversation, advance, next_calls, restore, start
from safe_r1.attacks.adaptive.driver import run_conversations
from safe_r1.attacks.adaptive.turns import ROLES, TURN_SCHEMA, Call, Reply, Turn, turn_table, turns_of_table
from safe_r1.config.adaptive import (
    AdaptiveConfig,
    BestOfNConfig,
    CallBudget,
    CrescendoConfig,
    PairConfig,
    TapConfig,
)
from safe_r1.errors import DataError
from tests.unit.attacks.adaptive_models import asks, mixed_model, question, run, run_new, turns_of

limits = st.none() | st.integers(2, 12)
configs = st.builds(
    AdaptiveConfig,
    method=st.sampled_from(["pair", "tap", "crescendo", "bon"]),
    attacker_failures=st.integers(1, 3),
    budget=st.builds(CallBudget, target=limits, attacker=limits, judge=limits),
    pair=st.builds(PairConfig, streams=st.integers(1, 3), depth=st.integers(1, 3)),
    tap=st.builds(TapConfig, width=st.integers(1, 3), branching=st.integers(1, 2), depth=st.integers(1, 3)),
    crescendo=st.builds(CrescendoConfig, conversations=st.just(2), turns=st.integers(1, 4)),
    bon=st.builds(BestOfNConfig, n=st.integers(1, 9), at_once=st.integers(1, 4)),
)
# A busy machine makes any draw late.
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def stored(turns: Sequence[Turn]) -> list[Turn]:
    """The turns as a file gives them back."""
    return turns_of_table(turn_table(turns))


@few
@given(configs, st.integers(0, 10**6))
def test_any_order_and_any_kills_give_the_same_conversation(config: AdaptiveConfig, seed: int):
    whole, done = run_new(config, mixed_model)
    rng = random.Random(seed)
    new = start(question(), config, 0)
    state: Conversation = new
    turns: list[Turn] = []
    while calls := next_calls(state):
        some = rng.sample(calls, rng.randint(1, len(calls)))
        replies = {call.place: mixed_model(call) for call in some}
        turns += [Turn.of(config.method, call, replies[call.place]) for call in some]
        state = advance(state, replies)
        if rng.random() < 0.5:
            rng.shuffle(turns)
            state, lost = restore(new, stored(turns))
            assert lost == []
    assert state == whole
    assert sorted(turns, key=repr) == sorted(turns_of(config, done), key=repr)


@few
@given(configs)
def test_budgets_hold_and_counts_are_those_of_the_rows(config: AdaptiveConfig):
    state, done = run_new(config, mixed_model)
    rows = turn_table(turns_of(config, done)).to_pylist()
    assert turn_table(turns_of(config, done)).schema == TURN_SCHEMA
    assert len({(row["depth"], row["branch"], row["step"]) for row in rows}) == len(rows)
    by_role = Counter(row["role"] for row in rows)
    for role in ROLES:
        assert getattr(state.calls, role) == by_role[role]
        assert by_role[role] <= (getattr(config.budget, role) or len(rows))
    assert sum(attempt.num_calls for attempt in state.done) == len(rows)
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    assert sum(attempt.num_tokens for attempt in state.done) == tokens
    assert sum(state.results.values()) == len(state.done)
    harmful = any(row["step"] == "label" and row["label"] == "不拒绝且给出风险回复" for row in rows)
    assert (state.end == "success") == harmful


def test_a_lost_row_leaves_its_followers_over():
    config = AdaptiveConfig(method="crescendo", crescendo=CrescendoConfig(conversations=1))
    _, done = run_new(config, mixed_model)
    turns = turns_of(config, done)
    assert len(turns) > 5
    state, left = restore(start(question(), config, 0), [*turns[:2], *turns[3:]])
    assert [call.place for call in next_calls(state)] == [turns[2].place]
    assert left == turns[3:]


def test_rows_of_another_run_are_refused():
    config = AdaptiveConfig(method="bon")
    _, done = run_new(config, mixed_model)
    turns = turns_of(config, done)
    with pytest.raises(DataError, match=r"q/0: .*another seed"):
        restore(start(question(), config, 1), turns)
    with pytest.raises(DataError, match="two rows"):
        restore(start(question(), config, 0), [turns[0], *turns])


def test_only_awaited_replies_are_taken():
    state = start(question(), AdaptiveConfig(method="pair"), 0)
    [call, *_] = next_calls(state)
    with pytest.raises(ValueError, match="awaited"):
        advance(state, {call.place._replace(step="label"): Reply()})
    with pytest.raises(ValueError, match="awaited"):
        advance(state, {call.place._replace(branch=99): Reply()})


@few
@given(configs, st.integers(1, 5), st.sampled_from([1, 3, 256]))
def test_the_driver_gives_what_each_conversation_alone_gives(
    config: AdaptiveConfig, max_parallel: int, max_batch: int
):
    states = [start(question(number), config, 0) for number in range(7)]
    rows: list[Turn] = []
    found = asyncio.run(
        run_conversations(
            iter(states), asks(mixed_model), rows.extend, max_parallel=max_parallel, max_batch=max_batch
        )
    )
    alone = [run(state, mixed_model) for state in states]
    assert found == [state for state, _ in alone]
    expected = [turn for _, done in alone for turn in turns_of(config, done)]
    assert sorted(rows, key=repr) == sorted(expected, key=repr)


def test_calls_of_one_moment_are_one_batch():
    config = AdaptiveConfig(method="pair", pair=PairConfig(streams=2, depth=1))
    sizes: list[tuple[str, int]] = []

    async def ask(calls: Sequence[Call]) -> list[Reply | None]:
        sizes.append((calls[0].role, len(calls)))
        assert len({call.role for call in calls}) == 1
        assert len({call.sample_id for call in calls}) <= 4
        await asyncio.sleep(0)
        replies = {"attacker": Reply('{"prompt": "问"}'), "target": Reply("答")}
        return [replies.get(call.role, Reply(label="直接拒绝")) for call in calls]

    states = [start(question(number), config, 0) for number in range(8)]
    asyncio.run(run_conversations(states, dict.fromkeys(ROLES, ask), lambda _: None, max_parallel=4))
    assert sizes == [("attacker", 8), ("target", 8), ("judge", 8)] * 2


def test_lost_replies_and_errors_are_made_good_by_the_next_session():
    config = AdaptiveConfig(method="tap")
    states = [start(question(number), config, 0) for number in range(6)]
    expected = [run(state, mixed_model) for state in states]
    rng = random.Random(0)
    rows: list[Turn] = []
    found: list[Conversation] = []

    async def ask(calls: Sequence[Call]) -> list[Reply | None]:
        await asyncio.sleep(0)
        if rng.random() < 0.1:
            raise OSError("the engine is gone")
        return [None if rng.random() < 0.02 else mixed_model(call) for call in calls]

    def of(state: Conversation) -> list[Turn]:
        return [row for row in rows if row.sample_id == state.question.sample_id]

    num_errors = 0
    for _ in range(200):
        new = [restore(state, of(state)) for state in states]
        assert all(left == [] for _, left in new)
        going = [state for state, _ in new]
        try:
            found = asyncio.run(
                run_conversations(going, dict.fromkeys(ROLES, ask), rows.extend, max_parallel=3, max_batch=4)
            )
        except OSError:
            num_errors += 1
            continue
        if all(state.end for state in found):
            break
    assert num_errors > 0
    assert found == [state for state, _ in expected]
    assert len(rows) == sum(len(done) for _, done in expected)


def test_nothing_goes_on_that_is_not_stored():
    config = AdaptiveConfig(method="bon")
    asked: list[str] = []

    async def ask(calls: Sequence[Call]) -> list[Reply | None]:
        asked.extend(call.role for call in calls)
        return [Reply("答") for _ in calls]

    def record(_: list[Turn]) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        asyncio.run(
            run_conversations(
                [start(question(), config, 0)], dict.fromkeys(ROLES, ask), record, max_parallel=2
            )
        )
    assert set(asked) == {"target"}
