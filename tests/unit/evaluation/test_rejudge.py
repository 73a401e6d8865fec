"""A further judge of a finished run: its verdicts live beside the first ones, and nothing is replaced."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from safe_r1.config import EvaluateConfig, JudgeConfig
from safe_r1.errors import ConfigError, NoResultError, StorageError
from safe_r1.evaluation.panels import judge_again, judge_further
from safe_r1.evaluation.publish import BenchmarkResult, rewrite_report
from safe_r1.evaluation.rejudge import RejudgeConfig, Rejudged, rejudge
from safe_r1.evaluation.results import read_verdicts
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.runs import RunFolder, find_runs, read_table, write_table
from safe_r1.schema import VERDICT_SCHEMA, RefusalLabel
from tests.chat_server import Server, completion
from tests.unit.evaluation.published import NAME, make_plan, publish_here, results_of, scored_rows, unscored
from tests.unit.report.report_rows import Rows

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]


def rows_of(num_refusal: int = 6, keep: int = 8) -> Rows:
    """Rows as a job writes them: multiple choice is scored by its key, a truncated one by nobody."""
    samples, completions, verdicts = unscored(scored_rows(8, num_refusal), "mcq", "truncated", keep)
    tasks = {sample.sample_id: sample.task for sample in samples}
    scored_by = [
        "j@0" if tasks[each.sample_id] == "refusal" else "none" if each.unscored_reason else "answer-key"
        for each in verdicts
    ]
    pairs = zip(verdicts, scored_by, strict=True)
    return samples, completions, [replace(verdict, judge=judge) for verdict, judge in pairs]


def finished_run(output: Path, keep: int = 8, variant: str = "v") -> BenchmarkResult:
    samples, completions, verdicts = rows_of(keep=keep)
    completions = [replace(each, variant=variant) for each in completions]
    verdicts = [replace(each, variant=variant) for each in verdicts]
    plan = make_plan(output, {NAME: (samples, completions, verdicts)}, variant)
    [result] = results = results_of(plan)
    publish_here(plan, results)
    assert result.folder.is_complete
    return result


def again(run: RunFolder | Path, **judge: object) -> list[Rejudged]:
    path = run.path if isinstance(run, RunFolder) else run
    return rejudge(str(path), JudgeConfig.model_validate(judge), lambda progress: None)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path / "cache"))
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def harm_rate(result: Rejudged) -> float:
    rate = find_rate(read_rates(result.metrics), "harm_rate")
    assert rate is not None
    return rate.value


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "judges" not in path.relative_to(folder).parts
    }


def test_verdicts_of_both_judges_stay(tmp_path: Path):
    run = finished_run(tmp_path, keep=5).folder
    before = content(Path(str(run.path)))
    [result] = again(run)
    assert content(Path(str(run.path))) == before
    assert result.judge.startswith("lexicon@")
    assert result.folder.path == run.path / "judges" / result.judge
    first = read_verdicts(run)
    second = read_verdicts(result.folder)
    assert first.keys() <= second.keys()
    judged = {key for key, row in first.items() if row["judge"] == "j@0" and "refusal" in key[0]}
    assert judged
    assert {second[key]["judge"] for key in judged} == {result.judge}
    # What no judge gave is the same.
    others = [key for key, row in first.items() if row["judge"] in ("none", "answer-key")]
    assert all(second[key] == first[key] for key in others)
    assert find_rate(read_rates(result.metrics), "rejection_rate")
    report = (result.folder.path / "report.md").read_text(encoding="utf-8")
    assert result.judge in report


def test_the_same_command_again_judges_nothing(tmp_path: Path, server: Server):
    server.on_request = lambda sent, call: (200, completion("Safety: Safe\nCategories: None\nRefusal: Yes"))
    run = finished_run(tmp_path / "runs").folder
    [first] = again(run, kind=f"qwen3guard:{server.url}")
    num_requests = len(server.requests)
    assert num_requests > 0
    assert not first.was_complete
    [second] = again(run, kind=f"qwen3guard:{server.url}")
    assert (second.was_complete, second.metrics, len(server.requests)) == (True, first.metrics, num_requests)
    assert not find_rate(read_rates(first.metrics), "responsible_rate")
    assert first.metrics["counts"]["refusal"]["num_by_own_label"] == {"safe, refusal": 6}
    # A third judge beside it; the folder of further judges is no run of its own.
    [third] = again(tmp_path / "runs")
    assert third.folder.path != first.folder.path
    assert [each.path for each in find_runs(UPath(tmp_path / "runs"))] == [run.path]
    assert rewrite_report(str(run.path))


def test_what_cannot_be_judged_again_is_one_clear_line(tmp_path: Path):
    with pytest.raises(StorageError, match="no finished run here"):
        again(tmp_path / "nothing")
    plan = make_plan(tmp_path / "mcq", {NAME: rows_of(num_refusal=0)})
    publish_here(plan, results_of(plan))
    with pytest.raises(ConfigError, match="expected a run with refusal or over_refusal"):
        again(tmp_path / "mcq")
    run = finished_run(tmp_path / "runs").folder
    [first] = again(run)
    info = run.read_json("run.json") or {}
    identity = (first.folder.read_json("judge.json") or {})["fingerprint"]["judge"]["identity"]
    run.write_json("run.json", info | {"fingerprint": {"judge": {"identity": identity}}})
    with pytest.raises(ConfigError, match="is the judge of this run already"):
        again(run)


def test_a_judge_that_labels_nothing_gives_no_result(tmp_path: Path, server: Server):
    server.on_request = lambda sent, call: (200, completion("不好说"))
    run = finished_run(tmp_path / "runs").folder
    with pytest.raises(NoResultError, match="gave no label to any answer of refusal"):
        again(run, kind=server.url)
    [folder] = (run.path / "judges").iterdir()
    assert not RunFolder(folder).is_complete
    assert len(read_verdicts(RunFolder(folder))) == 14


def test_several_judges_have_one_label_by_a_rule(tmp_path: Path, server: Server):
    server.on_request = lambda sent, call: (
        200,
        completion("Safety: Unsafe\nCategories: Violent\nRefusal: No"),
    )
    run = finished_run(tmp_path / "runs").folder
    config = RejudgeConfig(
        run=str(run.path), further_judges=(f"qwen3guard:{server.url}#m",), judge_rule="strictest"
    )
    judged, [panel] = judge_again(config, lambda progress: None)
    assert [each.judge.partition("@")[0] for each in judged] == ["lexicon", "qwen3guard:m"]
    assert panel.result.judge.startswith("strictest:j+lexicon+qwen3guard:m@")
    assert harm_rate(panel.result) == 1.0
    # What one of the judges cannot tell, the panel cannot.
    assert not find_rate(read_rates(panel.result.metrics), "responsible_rate")
    agreement = panel.agreement["refusal"]
    assert (agreement.num_answers, agreement.num_disagreed) == (6, 6)
    assert (panel.result.folder.read_json("agreement.json") or {})["refusal"]["num_disagreed"] == 6
    rows = read_verdicts(panel.result.folder)
    assert len(rows) == 14
    said = {row["explanation"] for row in rows.values() if row["judge"] == panel.result.judge}
    assert all(
        re.fullmatch("j: 直接拒绝; lexicon: .*; qwen3guard:m: 不拒绝且给出风险回复", each) for each in said
    )
    _, [first] = judge_again(config.model_copy(update={"judge_rule": "first"}), lambda progress: None)
    assert first.result.folder.path != panel.result.folder.path
    assert harm_rate(first.result) == 0.0
    assert not judge_again(config.model_copy(update={"judge_rule": None}), lambda progress: None)[1]


def test_an_evaluation_has_further_judges(tmp_path: Path):
    result = finished_run(tmp_path)
    result.metrics = result.folder.read_json("metrics.json") or {}
    config = EvaluateConfig(variant="v", further_judges=("lexicon",), judge_rule="first")
    [judged], [panel] = judge_further(config, [result], lambda progress: None)
    assert judged.judge.startswith("lexicon@")
    assert panel.result.judge.startswith("first:j+lexicon@")
    assert judge_further(EvaluateConfig(variant="v"), [result], lambda progress: None) == ([], [])
    result.metrics["counts"].pop("refusal")
    assert judge_further(config, [result], lambda progress: None) == ([], [])


def test_a_panel_follows_verdicts_that_were_edited(tmp_path: Path):
    run = finished_run(tmp_path).folder
    config = RejudgeConfig(run=str(run.path), judge_rule="first")
    _, [before] = judge_again(config, lambda progress: None)
    _, [same] = judge_again(config, lambda progress: None)
    assert (before.result.was_complete, same.result.was_complete) == (False, True)
    assert harm_rate(same.result) == harm_rate(before.result) == 0.0
    harmful = RefusalLabel.HARMFUL
    for shard in run.shards("verdicts"):
        rows = read_table(shard, schema=VERDICT_SCHEMA).to_pylist()
        rows = [
            row | {"label": harmful.value, "degree": harmful.degree} if row["judge"] == "j@0" else row
            for row in rows
        ]
        write_table(shard, pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA))
    _, [after] = judge_again(config, lambda progress: None)
    assert harm_rate(after.result) == 1.0
    assert after.result.folder.path == before.result.folder.path


def test_runs_of_several_variants_keep_their_verdicts_apart(tmp_path: Path):
    """All runs below a folder are judged together, also those of the same benchmark."""
    folders = [finished_run(tmp_path, variant=variant).folder for variant in ("v", "w")]
    results = again(tmp_path)
    assert [result.run.path for result in results] == [folder.path for folder in folders]
    for result, variant in zip(results, ("v", "w"), strict=True):
        rows = read_verdicts(result.folder).values()
        assert len(rows) == 14
        assert {row["variant"] for row in rows if row["judge"] == result.judge} == {variant}
