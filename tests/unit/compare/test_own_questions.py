"""Reports and comparisons of runs on a user's own questions, after the file is gone."""

import json
from pathlib import Path

import pytest
from upath import UPath

from safe_r1.benchmarks import get_benchmark
from safe_r1.compare.run import compare
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.runs import RunFolder
from tests.unit.benchmarks.own_files import write_records
from tests.unit.compare.runs import write_run

AREA = "谣言\u202e<script>"


def questions(path: Path) -> Path:
    kinds = ((AREA, "应拒答"), ("日常", "非拒答"))
    rows = [{"问题": f"第{n}问？", "类别": kinds[n % 2][0], "期望": kinds[n % 2][1]} for n in range(40)]
    return write_records(path, rows)


@pytest.mark.slow
def test_runs_need_the_file_no_more(tmp_path: Path):
    # The name of a benchmark with published figures and labels of its own.
    path = questions(tmp_path / "chisafetybench.csv")
    benchmark = get_benchmark(str(path))
    samples = benchmark.load()
    facts = benchmark.facts()
    for variant, skill in (("one", 0.3), ("two", 0.8)):
        run = write_run(tmp_path / "out", variant, "chisafetybench", skill=skill, samples=samples)
        folder = RunFolder(UPath(run))
        folder.write_json("run.json", (folder.read_json("run.json") or {}) | {"questions": facts})
    path.unlink()
    report = Path(rewrite_report(str(tmp_path / "out" / "main" / "one" / "chisafetybench")))
    markdown = report.with_suffix(".md").read_text("utf-8")
    assert f"**Questions**: chisafetybench.csv (sha256 `{str(facts['sha256'])[:16]}`)." in markdown
    assert "日常" in markdown
    assert "Over-refusal" in markdown
    assert "Measured by others" not in markdown
    page = report.read_text("utf-8")
    assert "日常" in page
    assert "<script>]" not in page
    assert "\u202e" not in page
    found = compare([str(tmp_path / "out")], "one", str(tmp_path / "comparison"))
    text = Path(str(found.path)).read_text("utf-8")
    assert "谣言⟦U+202E⟧" in text
    assert "\u202e" not in text
    assert "rejection" in found.to_text().lower()
    assert "over-refusal" in found.to_text().lower()


def test_rows_that_were_left_out_are_in_the_report(tmp_path: Path):
    benchmark = get_benchmark(str(questions(tmp_path / "q.csv")))
    run = write_run(tmp_path / "out", "one", "q", samples=benchmark.load())
    folder = RunFolder(UPath(run))
    facts = json.loads(json.dumps(benchmark.facts())) | {
        "num_rows": 43,
        "num_left_out": 3,
        "title": "我的题库",
    }
    folder.write_json("run.json", (folder.read_json("run.json") or {}) | {"questions": facts})
    report = Path(rewrite_report(str(run)))
    assert "我的题库 (q.csv)" in report.with_suffix(".md").read_text("utf-8")
    assert "3 of 43 rows do not fit and were left out" in report.with_suffix(".md").read_text("utf-8")
    assert "3 of 43 rows do not fit and were left out" in report.read_text("utf-8")
