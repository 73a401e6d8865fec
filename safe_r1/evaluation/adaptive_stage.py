"""The stage of attacks that adapt: turn by turn, until each question has the answer that counts.

Turns are written before a conversation goes on. A job that is killed begins again at the turns that are not
there; the completions and verdicts of the questions are made of the turns alone.
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from safe_r1.attacks.adaptive.conversation import Conversation, restore, start
from safe_r1.attacks.adaptive.driver import run_conversations
from safe_r1.attacks.adaptive.methods import most_target_calls
from safe_r1.attacks.adaptive.turns import ROLES, Question, Turn
from safe_r1.errors import RowsLostError
from safe_r1.evaluation.adaptive_models import Missing, make_asks
from safe_r1.evaluation.adaptive_plan import DialogueSpecs
from safe_r1.evaluation.adaptive_rows import (
    SEARCH,
    ConversationKey,
    completion_of,
    drop_turns,
    final_of,
    in_chunks,
    merge_turns,
    read_turns,
    tokens_of_role,
    verdict_of,
    write_turns,
)
from safe_r1.evaluation.journal import journal_folder
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import BenchmarkRow, ShardWriter, read_population
from safe_r1.evaluation.sample_index import SampleIndex
from safe_r1.evaluation.target import Target
from safe_r1.evaluation.units import read_samples
from safe_r1.inference.dialogues import DialogueEngines
from safe_r1.inference.spending import Spending
from safe_r1.metrics.attack_curve import Search, success_curve
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.runs import JsonObject, RunFolder, judge_folders, remove
from safe_r1.schema import Sample

# Conversations whose turns are read together.
_CHUNK = 256


@dataclass
class _Searches:
    """The conversations about one benchmark.

    Attributes:
        name: Name of the benchmark.
        ended: Those that have ended, by sample and repeat.
        left: Positions of samples with the repeats that have not.
    """

    name: str
    ended: dict[ConversationKey, Conversation] = field(default_factory=dict)
    left: list[tuple[int, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All conversations."""
        return len(self.ended) + len(self.left)


def run_searches(
    plan: EvaluationPlan,
    target: Target,
    specs: DialogueSpecs,
    samples: Mapping[str, SampleIndex],
    on_progress: ProgressCallback,
) -> dict[str, float]:
    """Hold the conversations of all attacks that adapt, as far as they are not there; gives the timings.

    Args:
        plan: The plan.
        target: The evaluated model, started.
        specs: What runs on engines.
        samples: The samples of each benchmark that is not complete.
        on_progress: Called with the progress, in conversations.

    Raises:
        RowsLostError: Some calls got no reply; the same command makes them again.
        SafeR1Error: A model cannot be used at all. Every turn until then is kept.
    """
    began = time.monotonic()
    stages = [_restore_all(plan, name, samples[name]) for name in plan.searches if name in samples]
    num_tokens = 0
    if any(stage.left for stage in stages):
        with DialogueEngines() as engines:
            for stage in stages:
                if stage.left:
                    num_tokens += _converse(
                        plan, target, specs, samples[stage.name], stage, engines, on_progress
                    )
    for stage in stages:
        _finish(plan, stage, samples[stage.name])
    if not stages:
        return {}
    return {"turns_s": round(time.monotonic() - began, 2), "turns_tokens": num_tokens}


def _restore_all(plan: EvaluationPlan, name: str, samples: SampleIndex) -> _Searches:
    """How far the conversations are; removes turns after one that is lost."""
    folder = plan.folders[name]
    merge_turns(folder)
    stage = _Searches(name)
    pairs = [(place, repeat) for repeat in range(plan.repeats(name)) for place in range(len(samples))]
    for state, lost, pair in _states(plan, name, samples, pairs):
        drop_turns(folder, lost)
        if state.end is None:
            stage.left.append(pair)
        else:
            stage.ended[state.question.sample_id, state.question.repeat] = state
    if stage.left and folder.shards("completions"):
        # Turns were moved aside as damaged: what was made of them may become something else.
        for each in [folder.path, *judge_folders(folder.path)]:
            # Before its verdicts: what was stopped in between would be complete without them.
            RunFolder(each).unpublish()
            remove(each / "verdicts")
        remove(folder.path / "completions")
    return stage


def _states(
    plan: EvaluationPlan, name: str, samples: SampleIndex, pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[Conversation, list[Turn], tuple[int, int]]]:
    """Conversations from their turns, with turns that cannot be reached; some in memory at a time."""
    config, seed = plan.searches[name], plan.config.generation.seed
    for begin in range(0, len(pairs), _CHUNK):
        chunk = pairs[begin : begin + _CHUNK]
        questions = {sample.sample_id: tuple(sample.messages) for sample in _samples_at(samples, chunk)}
        turns = read_turns(plan.folders[name], questions)
        for place, repeat in chunk:
            sample_id = samples.ids[place].as_py()
            new = start(Question(sample_id, questions[sample_id], repeat), config, seed)
            state, lost = restore(new, turns.get((sample_id, repeat), ()))
            yield state, lost, (place, repeat)


def _samples_at(samples: SampleIndex, pairs: Sequence[tuple[int, int]]) -> Iterator[Sample]:
    places = np.unique([place for place, _ in pairs])
    for number in np.unique(samples.shard[places]):
        mine = places[samples.shard[places] == number]
        yield from read_samples(samples.shards[number], samples.row[mine])


def _converse(
    plan: EvaluationPlan,
    target: Target,
    specs: DialogueSpecs,
    samples: SampleIndex,
    stage: _Searches,
    engines: DialogueEngines,
    on_progress: ProgressCallback,
) -> int:
    """Hold the conversations that are left; gives the tokens of their turns.

    Raises:
        RowsLostError: Some calls got no reply.
    """
    missing = Missing()
    folder = plan.folders[stage.name]
    total = stage.total
    num_tokens = 0
    asks = make_asks(plan, target, specs, engines, stage.name, missing)
    engines.wait()

    def show() -> None:
        on_progress(Progress("conversations", len(stage.ended), total, tokens=num_tokens))

    def record(turns: list[Turn]) -> None:
        nonlocal num_tokens
        write_turns(folder, turns)
        num_tokens += sum(turn.reply.prompt_tokens + turn.reply.completion_tokens for turn in turns)
        show()

    def ended(state: Conversation) -> None:
        if state.end is not None:
            stage.ended[state.question.sample_id, state.question.repeat] = state

    show()
    states = (state for state, _, _ in _states(plan, stage.name, samples, stage.left))
    limit = plan.searches[stage.name].max_parallel
    asyncio.run(run_conversations(states, asks, record, max_parallel=limit, on_end=ended))
    show()
    if num_left := total - len(stage.ended):
        reasons = "; ".join(f"{role}: {reason[:200]}" for role, reason in missing.reasons.items())
        raise RowsLostError(
            f"{stage.name}: {num_left} of {total} conversations are not finished, as calls got no reply "
            f"({reasons}); all turns are kept, the same command makes these calls again"
        )
    return num_tokens


def _finish(plan: EvaluationPlan, stage: _Searches, samples: SampleIndex) -> None:
    """Write what came of the conversations: the answer that counts, its verdict, and the figures."""
    assert plan.judge is not None
    folder, variant = plan.folders[stage.name], plan.variant.name
    merge_turns(folder)
    never_asked = 0
    write_completions = ShardWriter(plan.folders, "completions")
    write_verdicts = ShardWriter(plan.folders, "verdicts")
    for keys in in_chunks(stage.ended):
        turns = read_turns(folder, [sample_id for sample_id, _ in keys])
        finals = {key: final_of(turns.get(key, ())) for key in keys}
        never_asked += sum(final.ask is None for final in finals.values())
        # Verdicts of answers that the judge labelled; the others get theirs with all other completions.
        verdicts = [verdict_of(key, final, variant, plan.judge.label) for key, final in finals.items()]
        write_verdicts([BenchmarkRow(stage.name, each) for each in verdicts if each is not None])
        write_completions(
            [BenchmarkRow(stage.name, completion_of(key, final, variant)) for key, final in finals.items()]
        )
    folder.write_json(SEARCH, _figures(plan, stage, samples, never_asked))
    # What an attacker's endpoint answered is in the turns.
    shutil.rmtree(journal_folder(folder), ignore_errors=True)


def _figures(plan: EvaluationPlan, stage: _Searches, samples: SampleIndex, never_asked: int) -> JsonObject:
    folder = plan.folders[stage.name]
    states = list(stage.ended.values())
    results: Counter[str] = Counter()
    for state in states:
        results.update(state.results)
    tokens = {role: tokens_of_role(folder, role) for role in ROLES}
    attacker = plan.attacker if plan.searches[stage.name].needs_attacker else None
    entry = attacker.variant.endpoint if attacker else None
    return {
        "attack": plan.searches[stage.name].method,
        "attacker": attacker.variant.name if attacker else None,
        "attacker_cost": Spending(entry, *tokens["attacker"]).cost if entry else None,
        "num_conversations": len(states),
        "never_asked": never_asked,
        "most_target_calls": most_target_calls(plan.searches[stage.name]),
        "calls": {role: sum(getattr(state.calls, role) for state in states) for role in ROLES},
        "tokens": {role: sum(counts) for role, counts in tokens.items()},
        "ends": dict(Counter(state.end for state in states)),
        "results": dict(results),
        "curve": [point._asdict() for point in success_curve(_weighted(folder, states, samples))],
    }


def _weighted(folder: RunFolder, states: Sequence[Conversation], samples: SampleIndex) -> list[Search]:
    """The searches with the weights of their questions, where the run asks a selection."""
    searches = [state.search for state in states]
    population = read_population(folder)
    if population is None:
        return searches
    weigh = samples.selection(population).weight
    weights = {samples.ids[place].as_py(): weigh(samples.sample(place)) for place in range(len(samples))}
    return [search._replace(weight=weights[search.question]) for search in searches]
