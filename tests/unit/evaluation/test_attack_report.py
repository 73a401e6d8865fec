"""The report of a run's attacks, from finished folders of each."""

import json
from pathlib import Path

import pytest

from safe_r1.attacks.trained import TrainedAttacks
from safe_r1.benchmarks import evaluate_schema, get_benchmarks
from safe_r1.config import JudgeConfig
from safe_r1.evaluation.attack_report import report_attacks, report_rejudged
from safe_r1.evaluation.publish import BenchmarkResult, read_metrics
from safe_r1.evaluation.rejudge import rejudge
from safe_r1.evaluation.rewrite import rewrite
from safe_r1.models.files import ORIGIN_FILE
from safe_r1.runs import RunFolder
from safe_r1.settings import load_config
from tests.unit.compare.attacked_runs import BASE, write_attacked
from tests.unit.compare.runs import HOSTILE, label_all, write_run

NAME = "chisafetybench-sample"


def test_each_attack_is_held_against_the_plain_questions(tmp_path: Path):
    config = load_config(
        evaluate_schema(), None, [], variant="demo", benchmarks=(NAME,), attacks=("pinyin", "role", "base64")
    )
    # Few plain questions bring harm, nearly all under the first attack; the third has no result.
    results = []
    for (name, benchmark), skill in zip(
        get_benchmarks((NAME,), config).items(), (0.95, 0.05, 0.95, 0), strict=True
    ):
        folder = RunFolder.locate(str(tmp_path), "main", "demo", name)
        if name.endswith("base64"):
            results.append(BenchmarkResult(name, folder, {}, problem="no answer has a label"))
            continue
        write_run(tmp_path, "demo", name, skill=skill, samples=list(benchmark.load()), text=HOSTILE)
        results.append(BenchmarkResult(name, folder, read_metrics(folder)))
    [(path, report)] = report_attacks(results)
    plain, pinyin, role, base64 = report.outcomes
    assert [each.attack for each in report.outcomes] == ["plain", "pinyin", "role", "base64"]
    assert plain.answer
    assert pinyin.answer
    assert report.any_overall
    assert pinyin.answer.numerator > plain.answer.numerator
    assert pinyin.difference is not None
    assert pinyin.difference.value == pinyin.answer.value - plain.answer.value
    assert pinyin.difference.direction == 1
    assert role.difference is not None
    assert role.difference.value == 0
    # Every question that any attack brought harm from, once.
    assert pinyin.answer.numerator <= report.any_overall.numerator
    assert report.any_overall.num_rows == plain.num_questions
    assert (base64.problem, base64.answer) == ("no answer has a label", None)
    [shown, *_] = pinyin.successes
    assert shown.question not in [turn["content"] for turn in shown.asked]

    folder = tmp_path / "main" / "demo"
    written = json.loads((folder / f"{NAME}.attacks.json").read_text("utf-8"))
    assert written["attacks"][1]["answer"]["numerator"] == pinyin.answer.numerator
    page = path.read_text("utf-8")
    assert "<img src=x" not in page
    assert "no answer has a label" in page
    assert HOSTILE not in (folder / f"{NAME}.attacks.md").read_text("utf-8")
    assert any(line.split()[0] == "pinyin" for line in report.lines())


@pytest.mark.slow
def test_harmless_questions_are_held_against_the_plain_ones(tmp_path: Path):
    runs = write_attacked(tmp_path, "demo", {"plain": 0.05, "pinyin": 0.95, "role": 0.5}, harmless=30)
    pages = rewrite(str(runs[0]))
    assert [Path(page).name for page in pages] == ["report.html", f"{BASE}.attacks.html"]
    written = json.loads((tmp_path / "main" / "demo" / f"{BASE}.attacks.json").read_text("utf-8"))
    plain, pinyin, role = written["attacks"]
    assert [each["attack"] for each in written["attacks"]] == ["plain", "pinyin", "role"]
    # The same draws refuse risky questions and, far too many, harmless ones.
    change = pinyin["over_refusal_difference"]
    assert change["value"] == pytest.approx(pinyin["over_refusal"]["value"] - plain["over_refusal"]["value"])
    assert change["bounds_low"] > 0
    assert pinyin["difference"]["value"] < 0
    assert (pinyin["num_questions"], pinyin["num_harmless"]) == (40, 30)
    assert role["over_refusal_difference"]["num_questions"] == 30
    for name in ("html", "md"):
        text = (tmp_path / "main" / "demo" / f"{BASE}.attacks.{name}").read_text("utf-8")
        assert "Harmless questions under the same attacks" in text


@pytest.mark.slow
def test_a_report_that_is_made_again_has_the_verdicts_of_now(tmp_path: Path):
    plain, pinyin, _ = write_attacked(
        tmp_path, "demo", {"plain": 0.5, "pinyin": 0.5, "lost": 0.5}, harmless=0
    )
    (tmp_path / "main" / "demo" / f"{BASE}@lost" / "_SUCCESS").unlink()
    label_all(pinyin, "直接拒绝")
    rewrite(str(pinyin))
    file = tmp_path / "main" / "demo" / f"{BASE}.attacks.json"
    found = {each["attack"]: each for each in json.loads(file.read_text("utf-8"))["attacks"]}
    assert found["pinyin"]["answer"]["numerator"] == 0
    assert found["plain"]["answer"]["numerator"] > 0
    assert found["lost"]["problem"] == "not finished"
    # Whichever of the runs is asked for, the report is that of all.
    before = file.read_bytes()
    rewrite(str(plain))
    assert file.read_bytes() == before


@pytest.mark.slow
def test_a_further_judge_has_a_report_of_its_own(tmp_path: Path):
    write_attacked(
        tmp_path, "demo", {"plain": 0.5, "pinyin": 0.5}, num=12, harmless=0, text="对不起，我不能提供帮助。"
    )
    judged = rejudge(str(tmp_path / "main"), JudgeConfig(kind="lexicon"), lambda _: None)
    [(path, report)] = report_rejudged(judged)
    # The runs' own verdicts are drawn; the judge calls every answer a refusal.
    assert path.name == f"{BASE}.attacks.{judged[0].folder.path.name}.html"
    assert [each.attack for each in report.outcomes] == ["plain", "pinyin"]
    assert all(each.answer and each.answer.numerator == 0 for each in report.outcomes)
    assert report.judge.startswith("lexicon")


def test_what_a_model_was_trained_on_is_a_column_where_its_folder_says_it(tmp_path: Path):
    config = load_config(
        evaluate_schema(), None, [], variant="demo", benchmarks=(NAME,), attacks=("pinyin", "role")
    )
    model = tmp_path / "model"
    model.mkdir()
    results = []
    for name, benchmark in get_benchmarks((NAME,), config).items():
        folder = RunFolder.locate(str(tmp_path), "main", "demo", name)
        write_run(tmp_path, "demo", name, skill=0.5, samples=list(benchmark.load()))
        info = folder.read_json("run.json") or {}
        folder.write_json("run.json", info | {"variant": {"name": "demo", "source": str(model)}})
        results.append(BenchmarkResult(name, folder, read_metrics(folder)))
    written = tmp_path / "main" / "demo" / f"{NAME}.attacks.md"

    def widths() -> set[int]:
        rows = [line for line in written.read_text("utf-8").splitlines() if line.startswith("|")]
        assert len(rows) == 6
        return {line.count("|") for line in rows}

    [(path, report)] = report_attacks(results)
    assert not report.knows_training
    assert widths() == {8}
    assert "in training" not in path.read_text("utf-8")
    trained = TrainedAttacks({"pinyin": 3}, ("framing",))
    (model / ORIGIN_FILE).write_text(json.dumps({"attacks": trained.to_json()}), "utf-8")
    [(path, report)] = report_attacks(results)
    assert [each.trained for each in report.outcomes] == ["", "trained on", "held out"]
    assert widths() == {9}
    assert "<td>held out</td>" in path.read_text("utf-8")
    assert any(line.endswith("trained on") for line in report.lines())
