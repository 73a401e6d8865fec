"""The report of a run's attacks, from finished folders of each."""

import json
from pathlib import Path

from safe_r1.benchmarks import evaluate_schema, get_benchmarks
from safe_r1.evaluation.attack_report import report_attacks
from safe_r1.evaluation.publish import BenchmarkResult, read_metrics
from safe_r1.runs import RunFolder
from safe_r1.settings import load_config
from tests.unit.compare.runs import HOSTILE, write_run

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
    [(path, report)] = report_attacks(config, results)
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
