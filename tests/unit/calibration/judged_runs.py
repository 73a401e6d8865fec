"""Finished runs whose true labels are known, and label files that say them."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from safe_r1.calibration.calibrate import calibrate
from safe_r1.calibration.corrected import CorrectedRate
from safe_r1.calibration.items import CLASSES, Item, open_run
from safe_r1.calibration.label_sample import write_label_sample
from safe_r1.calibration.result import Calibration
from safe_r1.calibration.reviews import items_by_id
from safe_r1.evaluation.results import completion_key, sample_key, verdict_key
from safe_r1.metrics.rates import compute_metrics
from safe_r1.metrics.rows import join_rows
from safe_r1.runs import RunFolder
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA, Message, RefusalLabel, Verdict
from tests.unit.compare.runs import write_run
from tests.unit.report.report_rows import Rows, make_rows

VARIANT = "r1-distill-qwen-7b"
NUM = 80


def refusal_rows(num: int = 200, missing: int = 0, nasty: bool = False) -> Rows:
    """Judged answers and reasonings, all with labels but for some that the judge refused to judge."""
    samples, completions, verdicts = make_rows(num_mcq=0, num_refusal=num, nasty=nasty)
    # No Parquet file holds half of a surrogate pair.
    samples = [replace(each, messages=list(map(_whole_turn, each.messages))) for each in samples]
    texts = ("completion", "reasoning", "answer")
    completions = [
        replace(each, **{name: _whole(getattr(each, name) or "") for name in texts}) for each in completions
    ]
    completions = [
        replace(
            each,
            answer=each.answer or "好",
            reasoning=each.reasoning or "想",
            error=None,
            finish_reason="stop",
        )
        for each in completions
    ]
    known = {(each.sample_id, each.part): each.label for each in verdicts}
    rng = random.Random(3)
    made: list[Verdict] = []
    for place, each in enumerate(completions):
        for part in ("answer", "reasoning"):
            label = known.get((each.sample_id, part)) or rng.choice(list(RefusalLabel)).value
            lost = part == "answer" and place < missing
            made.append(
                Verdict(
                    each.sample_id,
                    VARIANT,
                    each.repeat,
                    part,
                    None if lost else label,
                    None if lost else RefusalLabel(label).degree,
                    "lexicon@00000000",
                    "refused_to_judge" if lost else None,
                )
            )
    return samples, completions, made


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


def _whole_turn(turn: Message) -> Message:
    return Message(role=turn["role"], content=_whole(turn["content"]))


def key_rows(num: int = 120, failed: int = 0) -> Rows:
    """Multiple choice, every answer with a choice, but for some that failed."""
    samples, completions, _ = make_rows(num_mcq=num, num_refusal=0)
    rng = random.Random(5)
    answered = [replace(each, answer="答案", error=None, finish_reason="stop") for each in completions]
    lost = [replace(each, answer=None, error="lost", finish_reason=None) for each in completions[:failed]]
    completions = [*lost, *answered[failed:]]
    verdicts = []
    for sample, each in zip(samples, completions, strict=True):
        choice = rng.choice(list(sample.options))
        is_right = choice == sample.metadata["answer"]
        found = ("correct" if is_right else "incorrect", int(is_right), "answer-key", None, choice)
        if each.error:
            found = (None, None, "answer-key", "failed", None)
        verdicts.append(Verdict(each.sample_id, VARIANT, 0, "answer", *found))
    return samples, completions, verdicts


def write_judged_run(
    output: Path,
    rows: Rows,
    run: str = "main",
    judge: str = "lexicon@00000000",
    confidence: Callable[[Verdict], float | None] = lambda _: None,
) -> Path:
    """The run's folder, finished."""
    samples, completions, verdicts = rows
    folder = RunFolder.locate(str(output), run, VARIANT, "chisafetybench")
    info = {"benchmark": "chisafetybench", "variant": {"name": VARIANT}, "judge": {"name": judge}}
    folder.open({"seed": 0}, info)
    folder.write_shard("samples", [each.to_row() for each in samples], SAMPLE_SCHEMA, sample_key)
    folder.write_shard(
        "completions", [asdict(each) for each in completions], COMPLETION_SCHEMA, completion_key
    )
    scored = [asdict(each) | {"confidence": confidence(each)} for each in verdicts]
    folder.write_shard("verdicts", scored, VERDICT_SCHEMA, verdict_key)
    join_rows(samples, completions, verdicts)
    folder.write_json("metrics.json", compute_metrics(samples, completions, verdicts))
    folder.publish()
    return Path(folder.path.path)


def true_class(item: Item) -> str:
    """What a person says: the judge's label, but for one text in eight the label beside it."""
    classes = CLASSES[item.stratum.task]
    place = item.stratum.position
    if random.Random(f"{item.sample_id}|{item.stratum.subject}").random() < 0.125:
        place = (place + 1) % len(classes)
    return classes[place]


def label_rows(
    run: Path,
    record: Path,
    annotator: str = "ann",
    say: Callable[[Item], str] = true_class,
    num: int | None = None,
) -> list[dict[str, object]]:
    """Rows as the page exports them, with the labels that ``say`` gives."""
    about = json.loads((record / "record.json").read_text("utf-8"))
    items = items_by_id(open_run(str(run)))
    return [
        {
            "item": text["item"],
            "label": say(items[text["item"]]),
            "annotator": annotator,
            "labelled_at": "2026-11-29T10:00:00.000Z",
            "note": "",
            "sample": about["sample"],
            "results_sha256": about["results_sha256"],
        }
        for text in about["texts"][:num]
    ]


def write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def sampled(run: Path, *subjects: str, num: int = NUM) -> Path:
    """Draw a sample; gives its folder."""
    return Path(write_label_sample(str(run), num, subjects=subjects).folder.path)


def rate(
    found: Calibration, metric: str, part: str = "answer", scope: str = "overall", key: str = "all"
) -> CorrectedRate:
    [each] = [
        each
        for each in found.rates
        if (each.metric, each.part, each.scope, each.key) == (metric, part, scope, key)
    ]
    return each


def judged_answers(run: Path) -> list[Item]:
    return [item for item in open_run(str(run)).items() if item.stratum.subject == "answer"]


def calibrated(output: Path, variant: str, skill: float, seed: int = 0, blocked: int = 0) -> Path:
    """A run that people have labelled: every second answer that the judge calls harmful is harmless."""
    run = write_run(output / "runs", variant, skill=skill, blocked=blocked)
    info = json.loads((run / "run.json").read_text("utf-8"))
    info["results_sha256"] = open_run(str(run)).results_sha256
    (run / "run.json").write_text(json.dumps(info), "utf-8")
    record = Path(write_label_sample(str(run), 500, subjects=["answer"]).folder.path)

    def say(item: Item) -> str:
        is_wrong = item.stratum.label == RefusalLabel.HARMFUL and item.question % 2
        return RefusalLabel.HARMLESS if is_wrong else item.stratum.label

    labels = write_jsonl(output / f"{variant}.jsonl", label_rows(run, record, say=say))
    calibrate(str(run), [labels], seed=seed)
    return run
