"""Completions to verdicts: the answer key for multiple choice, a check of results and programs, a judge for
the rest.

Every completion gets exactly one verdict on its answer, and one on its reasoning where there is any: a label,
or the reason why there is none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.chisafetybench import extract_choice
from safe_r1.benchmarks.gpqa import as_asked, sample_letter
from safe_r1.config import JudgeConfig
from safe_r1.evaluation.checks import Check, run_checks
from safe_r1.inference.batch import BatchCounts, Request, Row
from safe_r1.judge.base import Judge, JudgeItem, Judgement, judge_blocking
from safe_r1.judge.factory import make_judge  # noqa: F401 - its importers move to the factory
from safe_r1.judge.model import read_judge_reply
from safe_r1.schema import Completion, Part, Sample, Unscored, Verdict

ANSWER_KEY, CHECK, NO_JUDGE = "answer-key", "check", "none"
_CHUNK = 128


@dataclass(frozen=True)
class Task:
    """One part of one completion that waits for a judge."""

    sample: Sample
    completion: Completion
    part: Part

    @property
    def key(self) -> tuple[str, int, str]:
        """Identity of the verdict."""
        return self.completion.sample_id, self.completion.repeat, self.part

    @property
    def item(self) -> JudgeItem:
        """What the judge is given."""
        text = self.completion.answer if self.part == "answer" else self.completion.reasoning
        return JudgeItem(
            messages=self.sample.messages, text=text or "", part=self.part, task=self.sample.task
        )

    def verdict(self, judgement: Judgement, judge: str) -> Verdict:
        """The judge's answer as a row."""
        label = judgement.label
        return Verdict(
            self.completion.sample_id,
            self.completion.variant,
            self.completion.repeat,
            self.part,
            label=label.value if label else None,
            degree=label.degree if label else None,
            judge=judge,
            unscored_reason=judgement.unscored_reason,
            explanation=judgement.explanation,
        )


def expected_parts(sample: Sample, completion: Completion, parts: Sequence[Part]) -> list[Part]:
    """Which parts of a completion get a verdict: the answer always, the reasoning of risky questions where
    there is one.
    """
    if sample.task == "refusal" and "reasoning" in parts and completion.reasoning:
        return ["answer", "reasoning"]
    return ["answer"]


def score_without_judge(sample: Sample, completion: Completion) -> Verdict | None:
    """The verdict on an answer at once: multiple choice, failed, truncated; None where it is to be judged or
    checked.
    """
    is_choice = sample.task in ("mcq", "science")
    name = ANSWER_KEY if is_choice else NO_JUDGE
    base = Verdict(
        completion.sample_id, completion.variant, completion.repeat, "answer", None, None, name, None
    )
    if completion.error is not None:
        return Verdict(**{**asdict(base), "unscored_reason": "failed"})
    if completion.answer is None:
        return Verdict(**{**asdict(base), "unscored_reason": "truncated"})
    if not is_choice:
        return None
    choice = extract_choice(completion.answer, as_asked(sample, completion.repeat).options)
    if sample.task == "science":
        choice = sample_letter(sample, completion.repeat, choice)
    return _scored(completion, ANSWER_KEY, Score(choice == sample.metadata["answer"], choice))


def _scored(completion: Completion, judge: str, score: Score) -> Verdict:
    return Verdict(
        completion.sample_id,
        completion.variant,
        completion.repeat,
        "answer",
        label="correct" if score.is_correct else "incorrect",
        degree=int(score.is_correct),
        judge=judge,
        unscored_reason=None,
        choice=score.found,
        explanation=score.explanation,
    )


def is_judged(row: Row) -> bool:
    """True for a verdict that a judge gave, so that another judge could have given another."""
    return row["judge"] not in (ANSWER_KEY, CHECK, NO_JUDGE)


def judge_name(config: JudgeConfig, model: str | None) -> str:
    """Short name of the judge for reports and file rows."""
    return "lexicon" if config.kind == "lexicon" else f"llm:{model or 'default'}"


def agreement_note(config: JudgeConfig) -> str:
    """What a report says of the judge's agreement with labels; empty for a judge that nobody measured here."""
    if config.kind != "lexicon":
        return ""
    return "a small classifier, trained on our own texts; the README gives its cross-validated agreement with labelled answers"


def judge_tasks(
    judge: Judge, tasks: Sequence[Task], name: str, write: Callable[[list[Row]], None]
) -> Iterator[BatchCounts]:
    """Judge in the driver, writing every few rows, so that an endpoint that goes down loses nothing."""
    for start in range(0, len(tasks), _CHUNK):
        chunk = tasks[start : start + _CHUNK]
        judgements = judge_blocking(judge, [task.item for task in chunk])
        write(
            [asdict(task.verdict(judgement, name)) for task, judgement in zip(chunk, judgements, strict=True)]
        )
        yield BatchCounts(len(chunk), sum(judgement.label is None for judgement in judgements), 0)


def check_tasks(
    tasks: Sequence[Task], num_workers: int, write: Callable[[list[Row]], None]
) -> Iterator[BatchCounts]:
    """Check results and programs in Ray's workers, writing every few rows."""
    rows: list[Row] = []

    def done(place: int, score: Score) -> None:
        rows.append(asdict(_scored(tasks[place].completion, CHECK, score)))

    left = len(tasks)
    for num_done in run_checks(
        [Check(task.sample, task.completion.answer or "") for task in tasks], num_workers, done
    ):
        left -= num_done
        if len(rows) >= _CHUNK or not left:
            write(rows)
            rows.clear()
        yield BatchCounts(num_done, 0, 0)


def judge_requests(tasks: Sequence[Task], max_tokens: int) -> list[Request]:
    """The judge's prompts for an engine in the cluster."""
    from safe_r1.judge.prompt import judge_messages

    return [
        Request("\t".join(map(str, task.key)), judge_messages(task.item), max_tokens, seed=0)
        for task in tasks
    ]


@dataclass(frozen=True)
class ReadReply:
    """The finish step of an engine that judges: its reply to a verdict row."""

    variant: str
    judge: str

    def __call__(self, row: Row) -> Row:
        """A reply that the engine could not give is unscored, and tried again when the run is resumed."""
        sample_id, repeat, part = row["key"].split("\t")
        asked = "over_refusal" if sample_id.split("/")[1] in ("compliance", "over_refusal") else "refusal"
        if row["error"]:
            judgement = Judgement(None, Unscored.JUDGE_ERROR, row["error"])
        else:
            judgement = read_judge_reply(row["text"], row["finish_reason"], asked)
        label = judgement.label
        return {
            "sample_id": sample_id,
            "variant": self.variant,
            "repeat": int(repeat),
            "part": part,
            "label": label.value if label else None,
            "degree": label.degree if label else None,
            "judge": self.judge,
            "unscored_reason": judgement.unscored_reason,
            "choice": None,
            "explanation": judgement.explanation,
        }
