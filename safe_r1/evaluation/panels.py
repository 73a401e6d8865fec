"""Several judges of one run: their agreement, and the verdicts that they give together.

A panel has a folder beside those of its further judges, ``judges/RULE-…@IDENTITY/``, with verdicts, rates and
report as they have, and ``agreement.json``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from safe_r1.config import EvaluateConfig, JudgeConfig, JudgeRule
from safe_r1.errors import DataError, NoResultError, StorageError
from safe_r1.evaluation.publish import BenchmarkResult
from safe_r1.evaluation.rejudge import (
    RejudgeConfig,
    Rejudged,
    copy_others,
    judge_folder,
    publish_verdicts,
    rejudge,
    with_kind,
)
from safe_r1.evaluation.results import is_settled, verdict_key
from safe_r1.evaluation.sample_index import SampleIndex, index_samples
from safe_r1.evaluation.scoring import is_judged
from safe_r1.judge.base import content_identity, judge_label
from safe_r1.judge.factory import blind_labels
from safe_r1.judge.panel import choose, coarse, panel_name, rule_of
from safe_r1.judge.panel_agreement import PanelAgreement, measure_panel
from safe_r1.progress import ProgressCallback
from safe_r1.runs import JsonObject, Key, Row, RunFolder, latest, read_table
from safe_r1.schema import (
    JUDGED_PARTS,
    VERDICT_SCHEMA,
    ComplianceLabel,
    RefusalLabel,
    Unscored,
)

_COLUMNS = ("sample_id", "variant", "repeat", "part", "label", "degree", "judge", "unscored_reason")
_ROWS_PER_SHARD = 4096


@dataclass(frozen=True)
class Panel:
    """Several judges of one run.

    Attributes:
        result: Verdicts and rates of all together.
        judges: The judges as they are printed.
        agreement: By task how far they agree on the answers.
    """

    result: Rejudged
    judges: list[str]
    agreement: dict[str, PanelAgreement]


def judge_again(config: RejudgeConfig, on_progress: ProgressCallback) -> tuple[list[Rejudged], list[Panel]]:
    """Give finished runs the verdicts of further judges, and those of all judges of a run together.

    Raises:
        SafeR1Error: See ``rejudge``.
    """
    found = [rejudge(config.run, judge, on_progress) for judge in config.judges]
    panels: list[Panel] = []
    if config.judge_rule:
        panels = [judge_panel(of_run, config.judge_rule) for of_run in zip(*found, strict=True)]
    return [each for of_judge in found for each in of_judge], panels


def judge_further(
    config: EvaluateConfig, results: Sequence[BenchmarkResult], on_progress: ProgressCallback
) -> tuple[list[Rejudged], list[Panel]]:
    """The further judges of an evaluation that has been published.

    Raises:
        SafeR1Error: See ``rejudge``.
    """
    judged = [result for result in results if result.metrics.get("counts", {}).keys() & JUDGED_PARTS.keys()]
    others: list[JudgeConfig] = [with_kind(config.judge, kind) for kind in config.further_judges]
    found: list[Rejudged] = []
    panels: list[Panel] = []
    for result in judged if others else ():
        of_run = [each for judge in others for each in rejudge(str(result.folder.path), judge, on_progress)]
        found += of_run
        panels.append(judge_panel(of_run, config.judge_rule))
    return found, panels


def judge_panel(further: Sequence[Rejudged], rule: JudgeRule, is_again: bool = False) -> Panel:
    """The verdicts of a run's own judge and of further ones together, by a rule.

    Args:
        further: The further judges' verdicts on one run.
        rule: See ``safe_r1.judge.panel.choose``.
        is_again: Make rates and report again where all of it is there already.

    Raises:
        NoResultError: No answer of a task has a label.
    """
    further = list({each.judge: each for each in further}.values())
    run = further[0].run
    samples = index_samples(run)
    found = _read(run)
    # In order: the same rows are in the shard of the same name, which a repeated call replaces.
    own = {key: row for key, row in sorted(found.items()) if is_judged(row["judge"])}
    if not own:
        raise DataError(f"{run.path}: no verdict of a judge is left in this run; restore its verdicts")
    judges = [next(iter(own.values()))["judge"], *(each.judge for each in further)]
    votes = _Votes(samples, judges, [own, *(_read(each.folder) for each in further)])
    name = panel_name(rule, judges)
    identity = content_identity(rule, *judges)
    label = judge_label(name, identity)
    folder = judge_folder(run, label)
    folder.open({"judge": {"name": name, "identity": identity}}, {"judges": judges}, name="judge.json")
    agreement = votes.agreement()
    rows = {key: votes.row(key, rule, label) for key in own}
    expected = found | {key: {name: row[name] for name in _COLUMNS} for key, row in rows.items()}
    # A verdict of a judge that was edited since gives another one of the panel.
    was_complete = folder.is_complete and _read(folder) == expected
    if is_again or not was_complete:
        _check_agreement(run, rule, judges, votes.tasks_without_label(rows))
        for shard in folder.shards("verdicts"):
            shard.unlink()
        copy_others(run, folder)
        made = list(rows.values())
        for start in range(0, len(made), _ROWS_PER_SHARD):
            shard = made[start : start + _ROWS_PER_SHARD]
            folder.write_shard("verdicts", shard, VERDICT_SCHEMA, verdict_key)
        folder.write_json("agreement.json", {task: asdict(each) for task, each in agreement.items()})
        parts = tuple(dict.fromkeys(row["part"] for row in own.values()))
        facts = {"name": label, "identity": identity, "agreement": f"{rule} of {', '.join(judges)}"}
        publish_verdicts(run, folder, samples, parts, facts, votes.disputed())
    metrics = folder.read_json("metrics.json") or {}
    return Panel(Rejudged(run, folder, label, metrics, was_complete), judges, agreement)


def rewrite_panel(run: RunFolder, folder: RunFolder, record: JsonObject) -> str:
    """Make the verdicts of a panel again from those of its judges, and its report; gives the page's path.

    Args:
        run: The run.
        folder: The panel's.
        record: Content of its ``judge.json``.

    Raises:
        StorageError: A judge of the panel has no finished verdicts.
        NoResultError: No answer of a task has a label.
    """
    further = [Rejudged(run, judge_folder(run, label), label, {}, True) for label in record["judges"][1:]]
    lost = [each.judge for each in further if not each.folder.is_complete]
    if lost:
        raise StorageError(
            f"{folder.path}: its judges {', '.join(lost)} have no finished verdicts in {folder.path.parent}; "
            "run safe-r1 rejudge again"
        )
    panel = judge_panel(further, rule_of(record["fingerprint"]["judge"]["name"]), is_again=True)
    return str(panel.result.folder.path / "report.html")


def _check_agreement(run: RunFolder, rule: JudgeRule, judges: Sequence[str], tasks: Sequence[str]) -> None:
    """Check that a panel has a label for some answer of each task."""
    if tasks:
        raise NoResultError(
            f"{run.path}: {', '.join(judges)} never agree on an answer of {', '.join(tasks)}, so that the "
            f"rule {rule} gives no label; the rates of each judge are written all the same. For one label of "
            "all give --judge-rule strictest or first, or one more --judge"
        )


def _read(folder: RunFolder) -> dict[Key, Row]:
    """The verdicts of a folder without their explanations."""
    shards = (read_table(shard, columns=_COLUMNS).to_pylist() for shard in folder.shards("verdicts"))
    return latest((row for rows in shards for row in rows), verdict_key, is_settled)


class _Votes:
    """The labels that several judges gave to the same parts, as far as all of them can tell these."""

    def __init__(self, samples: SampleIndex, judges: Sequence[str], tables: Sequence[dict[Key, Row]]):
        self._judges = judges
        self._tables = tables
        self._blind_to = blind_labels(judges)
        # By id: tasks and areas are all that is needed of the samples.
        kinds = samples.kind.tolist()
        self._kinds = {
            text: samples.kinds[kind] for text, kind in zip(samples.ids.to_pylist(), kinds, strict=True)
        }

    def labels(self, key: Key) -> list[str | None]:
        """The label of each judge; None where it gave none."""
        found = (table[key]["label"] if key in table else None for table in self._tables)
        return [coarse(label, self._blind_to) for label in found]

    def row(self, key: Key, rule: JudgeRule, judge: str) -> Row:
        """The verdict of all judges together; ``judge`` is the panel's label."""
        own = self._tables[0][key]
        kind = self._kinds[key[0]]
        labels = self.labels(key)
        label = choose(labels, rule, kind.task, is_unsafe=kind.area == "unsafe")
        scale = ComplianceLabel if kind.task == "over_refusal" else RefusalLabel
        reason = Unscored.AMBIGUOUS.value if any(labels) else own["unscored_reason"]
        said = zip(self._judges, labels, strict=True)
        return own | {
            "label": label,
            "degree": scale(label).degree if label else None,
            "judge": judge,
            "unscored_reason": None if label else reason,
            "explanation": "; ".join(f"{name.partition('@')[0]}: {each or '–'}" for name, each in said),
        }

    def tasks_without_label(self, rows: Mapping[Key, Row]) -> list[str]:
        """Tasks none of whose answers has a label of the panel."""
        labels: dict[str, list[str | None]] = defaultdict(list)
        for key, row in rows.items():
            if key[2] == "answer":
                labels[self._kinds[key[0]].task].append(row["label"])
        return [task for task, given in labels.items() if not any(given)]

    def disputed(self) -> set[str]:
        """Ids of the samples on which the judges disagree."""
        return {key[0] for key in self._tables[0] if len({*self.labels(key)} - {None}) > 1}

    def agreement(self) -> dict[str, PanelAgreement]:
        """How far the judges agree on the answers, by task."""
        by_task: dict[str, list[list[str | None]]] = defaultdict(list)
        for key in self._tables[0]:
            if key[2] == "answer":
                by_task[self._kinds[key[0]].task].append(self.labels(key))
        return {
            task: measure_panel(
                {judge: [each[place] for each in found] for place, judge in enumerate(self._judges)}
            )
            for task, found in by_task.items()
        }
