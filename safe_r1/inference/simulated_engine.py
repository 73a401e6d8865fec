"""One engine of a simulated job (``simulate``): its slots, its room for keys and values, its next steps.

As vLLM's scheduler does: rows are admitted first come, first served, as soon as a slot and room for their
tokens are free. Where the room is full, the sequence that was admitted last is preempted: it waits in front
of all others, and its tokens are computed again. Tokens of a prompt that are cached (a system prompt, further
completions of the same question) take no room and are not computed.

Source: vLLM 0.32, ``v1/core/sched/scheduler.py``.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from safe_r1.inference.throughput import EngineSpeed


@dataclass(frozen=True)
class BatchRow:
    """One row of a job.

    Attributes:
        prompt_tokens: Length of its prompt, at least 1.
        completion_tokens: Length of its completion, at least 1.
        cached_tokens: Those of the prompt that are in the cache; fewer than all.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def own_tokens(self) -> int:
        """Tokens of the prompt that take room and have to be computed."""
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True)
class EngineRoom:
    """What one engine holds.

    Attributes:
        slots: Sequences at once (``max_num_seqs``).
        kv_tokens: Tokens whose keys and values fit.
        rows_under_way: Rows that the engine has at the same time, with those that wait for a slot.
    """

    slots: int
    kv_tokens: float = math.inf
    rows_under_way: int = 1_000_000


@dataclass
class RunningRow:
    """A row on an engine.

    Attributes:
        row: Its number in the job.
        generated: Tokens of its completion before it was admitted.
        admitted_at: Steps of the engine before it was admitted.
        serial: Tells apart the admissions of one row.
    """

    row: int
    generated: int = 0
    admitted_at: int = 0
    serial: int = 0


@dataclass
class Advance:
    """What an engine does until its next event: some steps with the same sequences.

    Attributes:
        begun_s: When it begins.
        steps: Number of steps.
        context: Tokens of the sequences before the first one.
        seconds: How long it takes.
        has_prompts: Whether it is one step, in which prompts are computed.
    """

    begun_s: float
    steps: int
    context: int
    seconds: float
    has_prompts: bool


@dataclass
class SimulatedEngine:
    """An engine between two events.

    Attributes:
        rows: Of the job.
        room: What it holds.
        speed: Times of its steps.
        running: Sequences with a slot, by their serials: in the order of their admission.
        waiting: Rows that it was given and that have no slot.
        advance: What it does now; None: nothing.
        is_up: Whether it takes rows: not after a loss, until it is back.
        is_parked: Whether it waits for rows.
        epoch: How often it was lost, by which events of an earlier life are known.
        generated: Output tokens so far.
        preemptions: How often a sequence was preempted.
        recomputed: Tokens that were computed again after preemptions.
    """

    rows: Sequence[BatchRow]
    room: EngineRoom
    speed: EngineSpeed
    running: dict[int, RunningRow] = field(default_factory=dict)
    waiting: deque[RunningRow] = field(default_factory=deque)
    advance: Advance | None = None
    is_up: bool = True
    is_parked: bool = False
    epoch: int = 0
    generated: int = 0
    preemptions: int = 0
    recomputed: int = 0
    _ends: list[tuple[int, int]] = field(default_factory=list)
    _steps: int = 0
    # Tokens in its room, and cached ones that its sequences read besides.
    _held: int = 0
    _cached: int = 0
    _serials: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def num_rows(self) -> int:
        """Rows that it was given and that have not ended."""
        return len(self.running) + len(self.waiting)

    def give(self, row: int) -> None:
        """Let a row wait here, by its number in the job."""
        self.waiting.append(RunningRow(row))

    def finish_advance(self) -> list[int]:
        """Complete what it was doing; gives the numbers of the rows that ended with it."""
        if self.advance is None:
            return []
        self._complete(self.advance.steps)
        self.advance = None
        ended: list[int] = []
        while self.running and self._next_end() == self._steps:
            _, serial = heapq.heappop(self._ends)
            ended.append(self._remove(serial).row)
        return ended

    def begin_advance(self, now: float) -> Advance | None:
        """Admit rows and begin what comes next; None where there are no rows."""
        num_before = len(self.running)
        context = self._held + self._cached
        if admitted := self._admit():
            tokens, pairs = self._prompt_work(admitted)
            seconds = self.speed.prefill(num_before, context, len(admitted), tokens, pairs)
            self.advance = Advance(now, 1, context, seconds, has_prompts=True)
        elif self.running:
            steps = self._make_room()
            context = self._held + self._cached
            seconds = self.speed.decode(steps, len(self.running), context)
            self.advance = Advance(now, steps, context, seconds, has_prompts=False)
        return self.advance

    def lose(self, now: float) -> list[RunningRow]:
        """Forget everything; gives the rows that it had, with the tokens that are lost with them."""
        if self.advance:
            self._complete(self._steps_done(self.advance, now))
            self.advance = None
        lost = [self._remove(serial) for serial in list(self.running)]
        lost += self.waiting
        self.waiting.clear()
        self._ends.clear()
        self.is_up = False
        self.is_parked = False
        self.epoch += 1
        return lost

    def _complete(self, steps: int) -> None:
        """Give each running sequence that many tokens."""
        tokens = steps * len(self.running)
        self._steps += steps
        self._held += tokens
        self.generated += tokens

    def _next_end(self) -> int:
        """The step after which the next sequence ends."""
        # Preempted ones are still in the heap.
        while self._ends[0][1] not in self.running:
            heapq.heappop(self._ends)
        return self._ends[0][0]

    def _remove(self, serial: int) -> RunningRow:
        """Take a sequence from its slot, with what it holds."""
        sequence = self.running.pop(serial)
        row = self.rows[sequence.row]
        sequence.generated += self._steps - sequence.admitted_at
        self._held -= row.own_tokens + sequence.generated
        self._cached -= row.cached_tokens
        return sequence

    def _admit(self) -> list[RunningRow]:
        """Give waiting rows their slots, in order, while there is room for them and for the next step."""
        admitted: list[RunningRow] = []
        while self.waiting and len(self.running) < self.room.slots:
            sequence = self.waiting[0]
            row = self.rows[sequence.row]
            tokens = row.own_tokens + sequence.generated
            if self._held + tokens + len(self.running) + 1 > self.room.kv_tokens:
                break
            self.waiting.popleft()
            sequence.serial = next(self._serials)
            sequence.admitted_at = self._steps
            self.running[sequence.serial] = sequence
            self._held += tokens
            self._cached += row.cached_tokens
            end = self._steps + row.completion_tokens - sequence.generated
            heapq.heappush(self._ends, (end, sequence.serial))
            admitted.append(sequence)
        return admitted

    def _prompt_work(self, admitted: Sequence[RunningRow]) -> tuple[int, float]:
        """Tokens that are computed before the first new one, and their pairs with tokens before them."""
        tokens = 0
        pairs = 0.0
        for sequence in admitted:
            row = self.rows[sequence.row]
            own = row.own_tokens + sequence.generated
            tokens += own
            pairs += own * row.cached_tokens + own * (own + 1) / 2
            self.recomputed += own if sequence.generated else 0
        return tokens, pairs

    def _make_room(self) -> int:
        """Steps until the next event, of which at least one fits: sequences are preempted until it does."""
        while self._held + len(self.running) > self.room.kv_tokens:
            self.waiting.appendleft(self._remove(next(reversed(self.running))))
            self.preemptions += 1
        steps = self._next_end() - self._steps
        if self.room.kv_tokens == math.inf:
            return steps
        return min(steps, int(self.room.kv_tokens - self._held) // len(self.running))

    def _steps_done(self, advance: Advance, now: float) -> int:
        """Steps that have ended by now, of those that it is doing."""
        if advance.has_prompts:
            return 0
        low, high = 0, advance.steps
        while low < high:
            middle = (low + high + 1) // 2
            is_done = self.speed.decode(middle, len(self.running), advance.context) <= now - advance.begun_s
            low, high = (middle, high) if is_done else (low, middle - 1)
        return low
