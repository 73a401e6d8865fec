"""The simulation of batch inference: closed forms, a reference that goes step by step, and conservation."""

import math
import random
import statistics
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_r1.errors import ConfigError
from safe_r1.inference.simulate import EngineLoss, lognormal_lengths, simulate_batch
from safe_r1.inference.simulated_engine import BatchRow, EngineRoom
from safe_r1.inference.throughput import EngineSpeed

SPEED = EngineSpeed(
    step_s=2e-3,
    sequence_s=1e-5,
    weights_s=6e-3,
    token_s=4e-5,
    context_s=5e-8,
    prompt_pair_s=1e-9,
)
# A step takes a second, whatever is in it.
SECONDS = EngineSpeed(step_s=1.0)


def reference(rows: Sequence[BatchRow], speed: EngineSpeed, room: EngineRoom) -> tuple[list[float], int]:
    """Ends of the rows and number of preemptions on one engine, token by token."""
    waiting = [(number, 0) for number in range(len(rows))]
    running: list[tuple[int, int]] = []
    ends = [math.nan] * len(rows)
    now, preemptions = 0.0, 0

    def own(sequence: tuple[int, int]) -> int:
        return rows[sequence[0]].prompt_tokens - rows[sequence[0]].cached_tokens + sequence[1]

    while waiting or running:
        old, new = list(running), []
        while waiting and len(running) < room.slots:
            if sum(map(own, running)) + own(waiting[0]) + len(running) + 1 > room.kv_tokens:
                break
            new.append(waiting.pop(0))
            running.append(new[-1])
        while not new and sum(map(own, running)) + len(running) > room.kv_tokens:
            waiting.insert(0, running.pop())
            preemptions += 1
        old = [each for each in old if each in running]
        prompt_tokens = sum(map(own, new))
        read = max(speed.weights_s, (len(old) + prompt_tokens) * speed.token_s)
        context = sum(own(each) + rows[each[0]].cached_tokens for each in old)
        pairs = sum(rows[each[0]].cached_tokens + place for each in new for place in range(1, own(each) + 1))
        now += speed.step_s + len(running) * speed.sequence_s + read
        now += speed.context_s * context + speed.prompt_pair_s * pairs
        running = [(number, written + 1) for number, written in running]
        for number, written in running:
            if written == rows[number].completion_tokens:
                ends[number] = now
        running = [each for each in running if math.isnan(ends[each[0]])]
    return ends, preemptions


batch_rows = st.builds(
    lambda own, cached, completion: BatchRow(own + cached, completion, cached),
    st.integers(1, 30),
    st.integers(0, 20),
    st.integers(1, 40),
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(batch_rows, min_size=1, max_size=25), st.integers(1, 8), st.integers(70, 300))
def test_as_a_simulation_that_goes_token_by_token(rows: list[BatchRow], slots: int, kv_tokens: int):
    room = EngineRoom(slots, kv_tokens)
    run = simulate_batch(rows, SPEED, room)
    ends, preemptions = reference(rows, SPEED, room)
    assert list(run.ended_s) == pytest.approx(ends)
    assert run.preemptions == preemptions


def test_one_row():
    run = simulate_batch([BatchRow(100, 50)], SPEED, EngineRoom(8), start_s=30)
    prompt = 2e-3 + 1e-5 + 6e-3 + 1e-9 * 100 * 101 / 2
    steps = sum(2e-3 + 1e-5 + 6e-3 + 5e-8 * context for context in range(101, 150))
    assert run.seconds == pytest.approx(30 + prompt + steps)
    assert run.tokens_per_s == pytest.approx(50 / (prompt + steps))
    assert run.slots_filled == pytest.approx(1 / 8)
    assert run.tail_s == pytest.approx(prompt + steps)


@pytest.mark.parametrize(("slots", "waves"), [(5, 4), (20, 1), (1, 20)])
def test_equal_rows_go_in_waves(slots: int, waves: int):
    run = simulate_batch([BatchRow(10, 7)] * 20, SECONDS, EngineRoom(slots))
    assert run.seconds == 7 * waves
    assert run.slots_filled == 1
    assert run.tail_s == 0
    assert run.tokens_per_s == 20 / waves


def test_room_for_one_sequence():
    """Others are admitted while it is short, and preempted for it."""
    alone = simulate_batch([BatchRow(10, 30)] * 4, SECONDS, EngineRoom(1))
    run = simulate_batch([BatchRow(10, 30)] * 4, SECONDS, EngineRoom(4, 40))
    assert alone.seconds == 120
    assert run.preemptions > 0
    assert run.recomputed_tokens > 0
    # What a preempted sequence has written is not lost, so that it is faster than one by one.
    assert run.seconds < alone.seconds
    exact = simulate_batch([BatchRow(10, 30)] * 4, SECONDS, EngineRoom(4, 160))
    assert (exact.seconds, exact.preemptions) == (30, 0)
    with pytest.raises(ConfigError, match=r"a sequence of 40 tokens does not fit .* room for 39 tokens"):
        simulate_batch([BatchRow(10, 30)], SECONDS, EngineRoom(4, 39))


def test_cached_prompts_cost_no_room_and_no_time():
    speed = EngineSpeed(step_s=0, token_s=1.0)
    whole = simulate_batch([BatchRow(100, 1)] * 10, speed, EngineRoom(1))
    part = simulate_batch([BatchRow(100, 1, cached_tokens=90)] * 10, speed, EngineRoom(1))
    assert (whole.seconds, part.seconds) == (1000, 100)
    room = EngineRoom(10, 200)
    assert simulate_batch([BatchRow(100, 2)] * 10, SECONDS, room).seconds > 2
    assert simulate_batch([BatchRow(100, 2, cached_tokens=90)] * 10, SECONDS, room).seconds == 2


def test_engines_share_the_rows():
    rows = [BatchRow(10, 7)] * 40
    one, two = (simulate_batch(rows, SECONDS, EngineRoom(5, rows_under_way=5), number) for number in (1, 2))
    assert one.seconds == 2 * two.seconds
    # Also where each could have them all.
    assert simulate_batch(rows, SECONDS, EngineRoom(5), 2).seconds == two.seconds
    # What an engine has is not taken from it: the one whose rows are longer ends later.
    lengths = [40, 1] * 10
    uneven = [BatchRow(10, length) for length in lengths]
    early, late = (simulate_batch(uneven, SECONDS, EngineRoom(1, math.inf, most), 2) for most in (20, 1))
    assert (early.seconds, early.tail_s) == (400, 0)
    assert late.seconds < 230


def test_a_lost_engines_rows_start_again():
    rows = [BatchRow(10, 10)] * 4
    room = EngineRoom(2, rows_under_way=2)
    assert simulate_batch(rows, SECONDS, room, 2).seconds == 10
    # Five steps of two rows are lost; the other engine takes them when it is free, at 10 s.
    gone = simulate_batch(rows, SECONDS, room, 2, losses=[EngineLoss(0, 5.5)])
    assert (gone.seconds, gone.lost_tokens, gone.output_tokens) == (20, 10, 40)
    back = simulate_batch(rows, SECONDS, room, 2, losses=[EngineLoss(0, 5.5, back_after_s=2)])
    assert (back.seconds, back.lost_tokens) == (17.5, 10)
    # An idle engine takes them at once.
    idle = simulate_batch(rows[:1], SECONDS, room, 2, losses=[EngineLoss(0, 5.5)])
    assert idle.seconds == 15.5
    with pytest.raises(ConfigError, match="2 rows are left and every engine was lost"):
        simulate_batch(rows[:2], SECONDS, room, 1, losses=[EngineLoss(0, 5.5)])
    # A loss after the end, and one before the start, which starts again.
    assert simulate_batch(rows, SECONDS, room, 2, losses=[EngineLoss(0, 99)]).seconds == 10
    late = simulate_batch(rows[:2], SECONDS, room, 1, start_s=3, losses=[EngineLoss(0, 1, back_after_s=3)])
    assert late.seconds == 14


losses = st.builds(
    EngineLoss, st.integers(0, 2), st.floats(0, 2, allow_nan=False), st.floats(0.01, 1, allow_nan=False)
)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(batch_rows, max_size=40),
    st.integers(1, 6),
    st.integers(70, 200) | st.just(math.inf),
    st.integers(1, 12),
    st.lists(losses, max_size=6),
)
def test_every_row_ends_once(
    rows: list[BatchRow], slots: int, kv_tokens: float, under_way: int, lost: list[EngineLoss]
):
    room = EngineRoom(slots, kv_tokens, under_way)
    run = simulate_batch(rows, SPEED, room, num_engines=3, start_s=0.2, losses=lost)
    assert len(run.ended_s) == len(rows)
    assert not any(map(math.isnan, run.ended_s))
    # Counted step by step, less what was lost with engines; a row that ended twice would raise an error.
    assert run.output_tokens == sum(row.completion_tokens for row in rows)
    assert run.seconds == max(run.ended_s, default=0.2)
    assert 0 <= run.slots_filled <= 1 + 1e-9
    assert 0 <= run.tail_s <= run.seconds - 0.2 + 1e-9
    assert simulate_batch(rows, SPEED, room, 3, 0.2, lost) == run
    # No engine is faster than its steps, each of which gives a row one token.
    for row, ended_s in zip(rows, run.ended_s, strict=True):
        assert ended_s >= 0.2 + row.completion_tokens * (SPEED.step_s + SPEED.weights_s)


@pytest.mark.slow
@given(st.integers(200, 2000), st.floats(50, 3000), st.integers(100, 40_000), st.integers(0, 9))
def test_lengths_have_their_mean_and_their_limit(number: int, mean: float, longest: int, seed: int):
    lengths = lognormal_lengths(number, mean, longest, seed)
    assert len(lengths) == number
    assert min(lengths) >= 1
    assert max(lengths) <= longest
    assert statistics.mean(lengths) == pytest.approx(min(mean, longest), rel=0.05)
    assert sorted(lengths) == sorted(lognormal_lengths(number, mean, longest, seed + 1))
    assert lengths == lognormal_lengths(number, mean, longest, seed)


def test_a_long_tail_leaves_slots_empty():
    """Longest first is the best order; rows that are all alike fill the slots to the end."""
    lengths = lognormal_lengths(2000, 700, 2048)
    orders = (sorted(lengths, reverse=True), lengths, sorted(lengths))
    room = EngineRoom(64)
    best, *others = (simulate_batch([BatchRow(150, each) for each in order], SPEED, room) for order in orders)
    assert best.tail_s < min(other.tail_s for other in others)
    assert best.seconds < min(other.seconds for other in others)
    assert best.slots_filled > max(other.slots_filled for other in others)
    even = simulate_batch([BatchRow(150, 700)] * 64 * 31, SPEED, room)
    assert even.slots_filled == pytest.approx(1)
    assert even.tail_s == 0


@pytest.mark.slow
def test_ten_thousand_rows_in_a_second():
    lengths = lognormal_lengths(10_000, 8000, 32_768)
    random.Random(0).shuffle(lengths)
    rows = [BatchRow(150, length) for length in lengths]
    # As many slots as the planner gives it.
    room = EngineRoom(48, 400_000, 144)
    seconds: list[float] = []
    for _ in range(3):
        begun = time.process_time()
        simulate_batch(rows, SPEED, room, 2)
        seconds.append(time.process_time() - begun)
    # Other work on the machine disturbs a single one.
    assert min(seconds) < 1
    run = simulate_batch(rows, SPEED, room, 2)
    assert run.preemptions > 100
    assert run.output_tokens == sum(lengths)
