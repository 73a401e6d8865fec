"""The stage that has the model end its own answers in which no option was found (``--finish-answers``).

What rules cannot read is asked, and not guessed. An engine goes on with the model's own text: its thoughts
are closed where the token limit cut them, and of what follows only the letters of the options are allowed. A
model behind a URL is asked in one more turn of the dialogue. The strict figures stay as they are; what comes
of it is a figure of its own, ``accuracy_finished``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from safe_r1.benchmarks import Benchmark
from safe_r1.benchmarks.choice import extract_choice
from safe_r1.evaluation.follow import follow
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import BenchmarkRow, RequestKey, ShardWriter
from safe_r1.evaluation.sample_index import Ints, SampleIndex, find
from safe_r1.evaluation.stage_index import (
    check_keys,
    index_completions,
    index_finished,
    index_verdicts,
    key_of,
)
from safe_r1.evaluation.target import Target
from safe_r1.evaluation.units import ScoringUnit, units_of
from safe_r1.inference.requests import Continuation, EngineResult, Request, row_seed
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.thinking import ThinkingTags, closing_tag
from safe_r1.progress import ProgressCallback
from safe_r1.resources import connect, disconnect
from safe_r1.runs import read_table
from safe_r1.schema import Completion, FinishedAnswer, Message, Sample, Unscored

_LETTER_TOKENS = 8
_HAN = re.compile(r"[\u4e00-\u9fff]")
# A provider refuses a turn without text.
_NO_TEXT = "……"


def finish_answers(
    plan: EvaluationPlan, target: Target, samples: Mapping[str, SampleIndex], on_progress: ProgressCallback
) -> None:
    """Ask the model to end every answer in which no option was found, doing only what is missing.

    Args:
        plan: The plan.
        target: The evaluated model.
        samples: Samples by benchmark; all their answers have a verdict.
        on_progress: Called with the progress.

    Raises:
        SafeR1Error: See ``Target.complete``.
    """
    unread = {name: _unread(plan, name, index) for name, index in samples.items()}
    units = [unit for name, keys in unread.items() for unit in _open_units(plan, name, samples[name], keys)]
    if not units:
        return
    requests = [
        FinishRequests(
            unit,
            plan.benchmarks[unit.benchmark],
            target.continues,
            _LETTER_TOKENS if target.continues else plan.max_tokens(unit.benchmark, "mcq"),
            plan.config.generation.seed,
            plan.thinking_tags,
        )
        for unit in units
    ]
    if target.continues:
        # Engines before this one keep their placement groups as long as the connection (ray#64035).
        disconnect()
        connect()
    asked = {} if target.continues else dict(_asked(requests))
    read = ReadFinished(plan.variant.name, asked, plan.thinking_tags)
    stream = target.complete(requests, read, ShardWriter(plan.folders, "finished"))
    total = sum(map(len, unread.values()))
    follow("finishing", stream, total - sum(unit.num_rows for unit in units), total, on_progress)
    for name, keys in unread.items():
        finished = key_of(index_finished(plan.folders[name], samples[name]), plan.repeats(name))
        check_keys(f"{name}: finished answers", samples[name], plan.repeats(name), keys, finished)


def _unread(plan: EvaluationPlan, name: str, samples: SampleIndex) -> Ints:
    """Keys of the multiple-choice answers in which no option was found, those of cut thoughts among them.

    Not those of reversed and shuffled options: they have no figure of their own.
    """
    verdicts = index_verdicts(plan.folders[name], samples)
    names = ["choice", "unscored_reason"]
    table = pa.concat_tables([read_table(shard, columns=names) for shard in verdicts.shards])
    table = table.take(pa.array(verdicts.places()))
    has_none = table.column("choice").is_null().to_numpy()
    # Without a completion there is nothing to end.
    has_text = find(table.column("unscored_reason"), pa.array([Unscored.FAILED, Unscored.BLOCKED])) < 0
    is_mcq = np.asarray([kind.group == "mcq" for kind in samples.kinds], bool)
    chosen = (verdicts.part == 0) & has_none & has_text & is_mcq[samples.kind[verdicts.position]]
    return key_of(verdicts, plan.repeats(name))[chosen]


def _open_units(plan: EvaluationPlan, name: str, samples: SampleIndex, unread: Ints) -> list[ScoringUnit]:
    """Those of some answers that the model has not ended yet."""
    folder = plan.folders[name]
    completions = index_completions(folder, samples)
    finished = index_finished(folder, samples)
    num_repeats = plan.repeats(name)
    done = key_of(finished, num_repeats)[finished.is_final]
    is_open = np.isin(key_of(completions, num_repeats), np.setdiff1d(unread, done))
    none = np.zeros(len(completions), bool)
    return units_of(name, samples, completions, is_open, (none, none), ("answer",))


@dataclass(frozen=True)
class FinishRequests:
    """Requests to end the answers of one unit: a ``RequestBatch``.

    Attributes:
        unit: The unit.
        benchmark: Its benchmark.
        continues: Whether the model goes on with its own text; else it is asked in one more turn.
        max_tokens: Maximum length of what it writes.
        seed: Of the run.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """

    unit: ScoringUnit
    benchmark: Benchmark
    continues: bool
    max_tokens: int
    seed: int
    own_tags: ThinkingTags | None = None

    @property
    def num_rows(self) -> int:
        """Number of answers."""
        return self.unit.num_rows

    def read(self) -> Iterator[Request]:
        """The requests."""
        for request, _ in self.read_samples():
            yield request

    def read_samples(self) -> Iterator[tuple[Request, Sample]]:
        """The requests, each with its question as it was asked."""
        for pending in self.unit.read():
            completion = pending.completion
            sample = self.benchmark.as_asked(pending.sample, completion.repeat)
            key = RequestKey.of(sample, completion.repeat, "finished")
            seed = row_seed(self.seed, sample.sample_id, completion.repeat, "finished")
            messages = list(sample.messages)
            continuation = None
            if self.continues:
                continuation = continue_answer(sample, completion, self.own_tags)
            else:
                messages += one_more_turn(sample, completion)
            yield Request(key.to_text(), messages, self.max_tokens, seed, continuation=continuation), sample


def continue_answer(sample: Sample, completion: Completion, own_tags: ThinkingTags | None) -> Continuation:
    """How an engine ends an answer: behind its text the words "答案：", then one letter of the options."""
    parts = ["\n", closing_tag(completion.completion, own_tags)] if completion.answer is None else []
    prompt = "答案：" if _is_chinese(sample) else "Answer:\n"
    return Continuation(completion.completion, "".join([*parts, "\n\n", prompt]), tuple(sample.options))


def one_more_turn(sample: Sample, completion: Completion) -> list[Message]:
    """What the model said, its thoughts where it said nothing else, and the question for the letter alone."""
    letters = "/".join(sample.options)
    asked = (
        f"不要再解释，只回答你最终选择的选项的字母（{letters}）。"
        if _is_chinese(sample)
        else f"Do not explain any further. Answer only with the letter of the option you choose ({letters})."
    )
    said = completion.answer or completion.reasoning or completion.completion.strip() or _NO_TEXT
    return [Message(role="assistant", content=said), Message(role="user", content=asked)]


def _is_chinese(sample: Sample) -> bool:
    return _HAN.search(sample.messages[-1]["content"]) is not None


def _asked(requests: Sequence[FinishRequests]) -> Iterator[tuple[str, Sample]]:
    """Questions by key: the further turn of an endpoint may name an option by its text."""
    for batch in requests:
        for request, sample in batch.read_samples():
            yield request.key, sample


@dataclass(frozen=True)
class ReadFinished:
    """Turns a result of the evaluated model into a finished answer.

    Attributes:
        variant: Name of the evaluated variant.
        asked: The question of each request, where any text may come back; without it, only letters come.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """

    variant: str
    asked: Mapping[str, Sample]
    own_tags: ThinkingTags | None = None

    def __call__(self, result: EngineResult) -> BenchmarkRow[FinishedAnswer]:
        """A result without a text keeps its error, and is asked again when the run is resumed."""
        key = RequestKey.from_text(result["key"])
        choice = None if result["error"] or result["blocked"] else self._choice(result)
        finished = FinishedAnswer(
            key.sample_id,
            self.variant,
            key.repeat,
            result["prompt_tokens"],
            result["completion_tokens"],
            result["text"],
            choice,
            result["error"],
        )
        return BenchmarkRow(key.benchmark, finished)

    def _choice(self, result: EngineResult) -> str | None:
        sample = self.asked.get(result["key"])
        if sample is None:
            return result["text"].strip() or None
        _, answer = result["parts"] or split_reasoning(result["text"], self.own_tags)
        return extract_choice(answer, sample.options, sample.messages[-1]["content"]) if answer else None
