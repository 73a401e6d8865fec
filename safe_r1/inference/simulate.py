"""A simulation of batch inference: rows on engines with slots and room for keys and values.

It goes from event to event (a row ends, rows are admitted, the room is full, an engine is lost), not from
step to step: between two events the same sequences get a token in each step, whose times are a closed form.
So 10,000 rows take about as many events, whatever their length.

Ray Data hands rows over in small batches; ``batch.dispatch`` has so many of them under way that slots do not
wait for a batch, which is why rows are handed over one by one here.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from safe_r1.errors import ConfigError
from safe_r1.inference.simulated_engine import BatchRow, EngineRoom, SimulatedEngine
from safe_r1.inference.throughput import EngineSpeed

# Standard deviation of the logarithm of completions' lengths: the longest tenth are 3.6 times the median.
_SPREAD = 1.0


@dataclass(frozen=True)
class EngineLoss:
    """An engine that is lost with all its rows under way, which start again from nothing.

    Attributes:
        engine: Its number, from 0.
        at_s: When.
        back_after_s: Seconds until it takes rows again, its start included; None: never.
    """

    engine: int
    at_s: float
    back_after_s: float | None = None


@dataclass(frozen=True)
class BatchRun:
    """Result of a simulated job.

    Attributes:
        seconds: From the start of the engines to the end of the last row.
        ended_s: When each row ended.
        output_tokens: Of all completions.
        tokens_per_s: Output tokens a second from the time when the engines had started.
        slots_filled: Share of all engines' slots that were filled from then on, averaged over time.
        tail_s: Seconds at the end in which fewer than half of the slots were filled.
        preemptions: How often a sequence was preempted.
        recomputed_tokens: Tokens that were computed again after preemptions.
        lost_tokens: Output tokens of rows that started again because their engine was lost.
    """

    seconds: float
    ended_s: tuple[float, ...]
    output_tokens: int
    tokens_per_s: float
    slots_filled: float
    tail_s: float
    preemptions: int
    recomputed_tokens: int
    lost_tokens: int


def lognormal_lengths(number: int, mean: float, longest: int, seed: int = 0) -> list[int]:
    """Lengths of completions with a long tail, which the token limit cuts.

    They are the quantiles of the distribution in random order, so that their mean hardly depends on the seed.

    Args:
        number: How many.
        mean: Their mean, in tokens, after the limit.
        longest: The token limit.
        seed: Of the order.
    """
    location = _location(min(mean, longest), longest)
    normal = NormalDist(location, _SPREAD)
    quantiles = (normal.inv_cdf((place + 0.5) / number) for place in range(number))
    limit = math.log(longest)
    lengths = [max(1, round(math.exp(min(quantile, limit)))) for quantile in quantiles]
    random.Random(seed).shuffle(lengths)
    return lengths


def _location(mean: float, longest: int) -> float:
    """Mean of the logarithm with which the lengths have that mean after the limit, by bisection."""
    normal = NormalDist()
    limit = math.log(longest)

    def mean_at(location: float) -> float:
        below = normal.cdf((limit - location) / _SPREAD - _SPREAD)
        above = 1 - normal.cdf((limit - location) / _SPREAD)
        return math.exp(location + _SPREAD**2 / 2) * below + longest * above

    low, high = -10.0, limit + 6 * _SPREAD
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_at(middle) < mean else (low, middle)
    return low


def simulate_batch(
    rows: Sequence[BatchRow],
    speed: EngineSpeed,
    room: EngineRoom,
    num_engines: int = 1,
    start_s: float = 0.0,
    losses: Sequence[EngineLoss] = (),
) -> BatchRun:
    """Simulate one job.

    Args:
        rows: In the order in which engines take them.
        speed: Times of an engine's steps.
        room: Of each engine.
        num_engines: Engines, all alike.
        start_s: Seconds that an engine takes to start.
        losses: Engines that are lost.

    Raises:
        ConfigError: A row does not fit into an engine, or no engine is left for the rows.
    """
    _check(rows, room)
    return _Simulation(rows, speed, room, num_engines, start_s).run(losses)


def _check(rows: Sequence[BatchRow], room: EngineRoom) -> None:
    longest = max((row.own_tokens + row.completion_tokens for row in rows), default=0)
    if longest > room.kv_tokens:
        raise ConfigError(
            f"a sequence of {longest:,} tokens does not fit into an engine with room for "
            f"{room.kv_tokens:,.0f} tokens of keys and values: use more GPUs for each engine or a lower "
            "token limit"
        )
    if any(not 0 <= row.cached_tokens < row.prompt_tokens or row.completion_tokens < 1 for row in rows):
        raise ConfigError("a row needs a token of its prompt that is not cached, and one of its completion")


class _Simulation:
    """The state of a simulated job."""

    def __init__(
        self, rows: Sequence[BatchRow], speed: EngineSpeed, room: EngineRoom, num_engines: int, start_s: float
    ):
        self.room = room
        self.start_s = start_s
        self.engines = [SimulatedEngine(rows, room, speed) for _ in range(num_engines)]
        self.queue = deque(range(len(rows)))
        self.ended_s = [math.nan] * len(rows)
        self.num_left = len(rows)
        # Of an engine: time, True, its number, its epoch. Of a loss: time, False, its place in the list, 0;
        # so it comes before what an engine does at the same time.
        self.events: list[tuple[float, bool, int, int]] = []
        # Changes of the number of slots that are filled.
        self.changes: list[tuple[float, int]] = []
        self.lost_tokens = 0

    def run(self, losses: Sequence[EngineLoss]) -> BatchRun:
        """Go through all events.

        Raises:
            ConfigError: No engine is left for the rows.
        """
        self.events += [(self.start_s, True, number, 0) for number in range(len(self.engines))]
        self.events += [(loss.at_s, False, place, 0) for place, loss in enumerate(losses)]
        heapq.heapify(self.events)
        now = self.start_s
        while self.num_left:
            if not self.events:
                raise ConfigError(
                    f"{self.num_left} rows are left and every engine was lost: let one come back"
                )
            now, is_engine, number, epoch = heapq.heappop(self.events)
            if not is_engine:
                self._lose(losses[number], now)
            elif epoch == self.engines[number].epoch:
                self._proceed(number, now)
        return self._result(now)

    def _proceed(self, number: int, now: float) -> None:
        """End what an engine was doing, and begin what it does next."""
        engine = self.engines[number]
        num_before = len(engine.running)
        for row in engine.finish_advance():
            assert math.isnan(self.ended_s[row]), f"row {row} ended twice"
            self.ended_s[row] = now
            self.num_left -= 1
        engine.is_up = True
        self._hand_over(now)
        advance = engine.begin_advance(now)
        engine.is_parked = advance is None
        self.changes.append((now, len(engine.running) - num_before))
        if advance:
            heapq.heappush(self.events, (now + advance.seconds, True, number, engine.epoch))

    def _hand_over(self, now: float) -> None:
        """Give waiting rows to the engines that have the fewest, as Ray Data does."""
        while self.queue:
            number = min(range(len(self.engines)), key=self._load)
            engine = self.engines[number]
            if not engine.is_up or engine.num_rows >= self.room.rows_under_way:
                return
            engine.give(self.queue.popleft())
            if engine.is_parked:
                engine.is_parked = False
                heapq.heappush(self.events, (now, True, number, engine.epoch))

    def _load(self, number: int) -> tuple[bool, int]:
        engine = self.engines[number]
        return not engine.is_up, engine.num_rows

    def _lose(self, loss: EngineLoss, now: float) -> None:
        """Put the rows of an engine back in front of the queue, for those that have room."""
        engine = self.engines[loss.engine]
        self.changes.append((now, -len(engine.running)))
        lost = engine.lose(now)
        self.lost_tokens += sum(sequence.generated for sequence in lost)
        self.queue.extendleft(reversed([sequence.row for sequence in lost]))
        if loss.back_after_s is not None:
            back_s = max(now + loss.back_after_s, self.start_s)
            heapq.heappush(self.events, (back_s, True, loss.engine, engine.epoch))
        self._hand_over(now)

    def _result(self, now: float) -> BatchRun:
        slots = self.room.slots * len(self.engines)
        filled_s, half_until = _occupancy(self.changes, slots, self.start_s)
        output_tokens = sum(engine.generated for engine in self.engines) - self.lost_tokens
        working_s = now - self.start_s
        return BatchRun(
            seconds=now,
            ended_s=tuple(self.ended_s),
            output_tokens=output_tokens,
            tokens_per_s=output_tokens / working_s if working_s else 0.0,
            slots_filled=filled_s / (slots * working_s) if working_s else 0.0,
            tail_s=now - half_until,
            preemptions=sum(engine.preemptions for engine in self.engines),
            recomputed_tokens=sum(engine.recomputed for engine in self.engines),
            lost_tokens=self.lost_tokens,
        )


def _occupancy(changes: Sequence[tuple[float, int]], slots: int, start_s: float) -> tuple[float, float]:
    """Slot-seconds that were filled, and the last time at which at least half of the slots were."""
    total = 0.0
    half_until = start_s
    filled = 0
    last_s = start_s
    for now, change in sorted(changes, key=lambda each: each[0]):
        total += filled * (now - last_s)
        if 2 * filled >= slots and now > last_s:
            half_until = now
        filled += change
        last_s = now
    return total, half_until
