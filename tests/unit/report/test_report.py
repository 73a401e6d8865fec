"""What a report says, and that nothing in a text of a model can act on the page."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from safe_r1.benchmarks import names
from safe_r1.errors import IntegrityError
from safe_r1.metrics.rates import compute_metrics, find_rate, read_rates
from safe_r1.metrics.strata import Population, stratum_of
from safe_r1.report import labels as report_labels
from safe_r1.report import references
from safe_r1.report.html import render_html
from safe_r1.report.labels import METRICS, REASONS
from safe_r1.report.markdown import render_markdown
from safe_r1.report.references import published_figures
from safe_r1.report.text import markdown_text, printable, script_json
from safe_r1.schema import Unscored
from tests.unit.report.report_rows import NASTY, Rows, make_rows

pytestmark = pytest.mark.slow

RUN_INFO = {
    "variant": "r1-distill-qwen-7b",
    "benchmark": "chisafetybench",
    "judge": {
        "name": "lexicon-1",
        "agreement": {"accuracy": 0.8123, "kappa_refusal": 0.77, "num_scored": 300},
    },
    "answer_key": {"name": "our-key.jsonl", "sha256": "0123456789abcdef" * 4},
    "finished_at": "2026-01-02T03:04:05Z",
}


class Page(HTMLParser):
    """Elements, attributes and texts as a browser's tokenizer sees them."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag != "script" else f"script:{dict(attrs).get('id') or 'code'}"

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        self.texts.setdefault(self._open, []).append(data)

    def script(self, name: str) -> str:
        return "".join(self.texts[f"script:{name}"])

    def unpack(self, name: str):
        return json.loads(gzip.decompress(base64.b64decode(self.script(name))))


def html_of(rows: Rows, run_info: Mapping[str, object] = RUN_INFO) -> str:
    return render_html(*rows, compute_metrics(*rows), run_info)


@pytest.fixture(scope="module")
def nasty_page() -> Page:
    rows = make_rows(44, 22, repeats=2, swapped=True, nasty=True)
    info = {f"entry{place}": text for place, text in enumerate(NASTY)} | {
        text: {"nested": text} for text in NASTY
    }
    info |= {
        "variant": NASTY[0],
        "benchmark": "chisafetybench" + NASTY[4],
        "judge": NASTY[1],
        "answer_key": {"name": NASTY[5]},
    }
    html = html_of(rows, info)
    html.encode("utf-8")  # a lone surrogate would raise
    return Page(html)


def test_markdown_names_key_judge_and_shows_every_rate_of_the_headline():
    rows = make_rows(62, 34, repeats=2, swapped=True)
    metrics = compute_metrics(*rows)
    text = render_markdown(rows[0], metrics, RUN_INFO)
    assert "our-key.jsonl (sha256 `0123456789abcdef`)" in text
    assert "not the ACC of the paper" in text
    assert (
        "lexicon-1. Agreement with labelled answers: accuracy 0.81, kappa refusal 0.77, num scored 300"
        in text
    )
    for metric, words in [
        ("accuracy", "Accuracy"),
        ("harm_rate", "Harm rate HR"),
        ("option_consistency", "Option consistency"),
    ]:
        rate = find_rate(read_rates(metrics), metric)
        assert rate is not None
        interval = f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        ends = f"{100 * rate.bound_low:.1f} – {100 * rate.bound_high:.1f}"
        bounds = f"{ends} [{100 * rate.bounds_low:.1f}, {100 * rate.bounds_high:.1f}]"
        counts = f"{rate.numerator} / {rate.denominator} | {rate.num_missing} | {rate.num_samples}"
        assert rate.num_missing > 0
        assert f"| {words} | {interval} | {bounds} | {counts} |" in text
    assert "clustered by question" in text
    assert "DeepSeek-R1 | 71.14 | – | – | – | arXiv 2502.11137" in text
    assert "Measured by others" in text
    assert "Ethnic discrimination 民族歧视" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert all(
        a == b for a, b, line in zip(columns, columns[1:], lines[1:], strict=False) if line.startswith("|--")
    )


def test_reports_tolerate_an_empty_run_info_and_a_run_without_one_task():
    for num_mcq, num_refusal in ((6, 0), (0, 6)):
        rows = make_rows(num_mcq, num_refusal)
        metrics = compute_metrics(*rows)
        text = render_markdown(rows[0], metrics, {})
        page = html_of(rows, {})
        assert "r1-distill-qwen-7b on unknown" in text
        assert "Published figures" not in text
        assert "没有运行信息" in page
    (sample,), (completion,), (verdict,) = make_rows(1, 0)
    failed = replace(completion, answer=None, error="boom", finish_reason=None)
    unscored = replace(verdict, label=None, degree=None, choice=None, unscored_reason="failed")
    metrics = compute_metrics([sample], [failed], [unscored])
    assert "| 1 | 1 | 0 | 0 | 0 | 1 | 0 | 0 |" in render_markdown([sample], metrics, {})
    assert "失败" in render_html([sample], [failed], [unscored], metrics, {})


@pytest.mark.parametrize(
    "reason", [each for each in Unscored if each not in ("failed", "truncated", "blocked")]
)
def test_a_reason_without_a_label_is_named_in_the_language_of_the_report(reason: Unscored):
    samples, completions, verdicts = make_rows(0, 4)
    answers = [number for number, verdict in enumerate(verdicts) if verdict.part == "answer"]
    verdicts = list(verdicts)
    verdicts[answers[0]] = replace(
        verdicts[answers[0]], label=None, degree=None, unscored_reason=reason.value
    )
    metrics = compute_metrics(samples, completions, verdicts)
    name = REASONS[reason.value]
    assert f"({name.en} 1)" in render_markdown(samples, metrics, {})
    assert f"{name.zh} 1" in html_of((samples, completions, verdicts), {})


def test_areas_and_categories_of_another_benchmark_are_their_own_names():
    samples, completions, verdicts = make_rows(4, 0)
    samples = [
        replace(sample, area="x<y", category=f"c\ud800{place}") for place, sample in enumerate(samples)
    ]
    metrics = compute_metrics(samples, completions, verdicts)
    assert r"x\<y" in render_markdown(samples, metrics, {})
    html = render_html(samples, completions, verdicts, metrics, {})
    html.encode("utf-8")
    assert "x&lt;y" in html
    assert "x<y" not in html


def test_a_benchmark_of_another_package_brings_its_labels_and_published_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    published = tmp_path / "published.toml"
    published.write_text(
        'comparability = { zh = "另一评判器", en = "with another judge" }\n'
        'columns = { accuracy = { zh = "ACC", en = "ACC" } }\n'
        'references = { paper = { title = "A paper", url = "https://example.org/paper" } }\n'
        'results = [{ model = "m", reference = "paper", figures = { accuracy = 12.5 } }]\n',
        "utf-8",
    )
    labels = {"b": ("乙", "Area B"), "a": ("甲", "Area A"), "c1": ("丙", "Category C"), "mcq": ("题", "Quiz")}
    benchmark = SimpleNamespace(labels=labels, published=published)
    monkeypatch.setattr(report_labels, "find_benchmark", {"quiz": benchmark}.get)
    samples, completions, verdicts = make_rows(20, 0)
    # The category says nothing about its area; the samples do.
    places = [("a", "c1"), ("b", "z"), ("b", "y"), ("a", "c1")] * 5
    samples = [
        replace(sample, area=area, category=category)
        for sample, (area, category) in zip(samples, places, strict=True)
    ]
    metrics = compute_metrics(samples, completions, verdicts)
    text = render_markdown(samples, metrics, {"benchmark": "quiz"})
    chart = text.split("## Quiz: areas and categories")[1].split("##")[0]
    rows = [line.split("|")[1].strip() for line in chart.splitlines() if line.startswith("|")]
    assert rows[3:] == ["**Area B** 乙", "y", "z", "**Area A** 甲", "Category C 丙"]
    assert "| m | 12.50 | A paper |" in text
    assert "Measured by others, not by this run: with another judge. Not directly comparable." in text
    assert "not the ACC of the paper" not in text
    published.write_text("results = 1", "utf-8")
    references.published_figures.cache_clear()
    assert "Published figures" not in render_markdown(samples, metrics, {"benchmark": "quiz"})
    references.published_figures.cache_clear()
    report_labels.installed_benchmark.cache_clear()


def test_report_and_comparison_know_no_benchmark_by_name():
    root = Path(report_labels.__file__).parents[1]
    files = [file for part in ("report", "compare") for file in (root / part).rglob("*.*") if file.is_file()]
    texts = {file.name: file.read_text("utf-8") for file in files if file.suffix != ".pyc"}
    assert len(texts) > 20
    assert not [(file, name) for file, text in texts.items() for name in names() if name in text]


def test_html_refuses_rows_that_do_not_add_up():
    samples, completions, verdicts = make_rows(3, 0)
    metrics = compute_metrics(samples, completions, verdicts)
    with pytest.raises(IntegrityError, match="chisafetybench/mcq/2"):
        render_html(samples, completions[:2], verdicts, metrics, {})


def test_html_is_the_same_for_the_same_rows():
    rows = make_rows(10, 5)
    assert html_of(rows) == html_of(rows)


def test_html_holds_every_row_with_its_texts():
    samples, completions, verdicts = make_rows(150, 30, swapped=True)
    page = Page(html_of((samples, completions, verdicts)))
    index = page.unpack("index")
    assert [sample["id"] for sample in index["samples"]] == [sample.sample_id for sample in samples]
    assert index["rows"]["answer"] == [row.answer for row in completions]
    details = [row for number in range(4) for row in page.unpack(f"details-{number}")]
    assert [row["reasoning"] for row in details] == [row.reasoning for row in completions]
    first = index["samples"][0]
    assert index["samples"][first["twin"]]["id"] == f"{first['id']}~swapped"
    assert index["samples"][index["samples"][first["twin"]]["twin"]]["id"] == first["id"]


def test_hostile_text_adds_no_element_and_stays_readable(nasty_page: Page):
    scripts = [attrs for tag, attrs in nasty_page.elements if tag == "script"]
    assert [attrs.get("id") for attrs in scripts if attrs.get("type") is None] == [
        None
    ]  # one script runs: ours
    assert not {tag for tag, _ in nasty_page.elements} & {"img", "iframe", "object", "embed", "link", "base"}
    assert not [
        name for _, attrs in nasty_page.elements for name in attrs if name.startswith("on") or name == "style"
    ]
    links = [attrs["href"] or "" for tag, attrs in nasty_page.elements if tag == "a"]
    assert all(link.startswith(("#", "https://")) for link in links)
    everything = json.dumps(nasty_page.unpack("index"), ensure_ascii=False)
    assert "<img src=x onerror=alert(1)>" in everything
    assert "{{ 7 * 7 }}" in everything
    assert "⟦U+202E⟧gnp.exe" in everything
    assert "lone \ufffd surrogate" in everything
    assert "nul ␀ and bell ␇" in everything
    assert "line\\nparagraph\\nend" in everything


def test_policy_lets_only_the_reports_own_code_run(nasty_page: Page):
    policy = next(
        attrs["content"]
        for tag, attrs in nasty_page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for text, kind in ((nasty_page.script("code"), "script"), ("".join(nasty_page.texts["style"]), "style")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched(nasty_page: Page):
    for tag, attrs in nasty_page.elements:
        assert "src" not in attrs, tag
        assert "srcset" not in attrs, tag
    assert "@import" not in "".join(nasty_page.texts["style"])
    assert "url(" not in "".join(nasty_page.texts["style"])


def test_markdown_of_hostile_names():
    rows = make_rows(3, 3)
    metrics = compute_metrics(*rows)
    text = render_markdown(
        rows[0],
        metrics,
        {"variant": NASTY[0] + NASTY[10], "judge": NASTY[1], "benchmark": "a\n# b", "x": "```\n# no"},
    )
    text.encode("utf-8")
    title = text.splitlines()[0]
    assert "\\<script\\>" in title
    assert "\\[link\\](" in title
    assert "on a # b" in title
    assert not [line for line in text.splitlines() if line.startswith("# ")][1:]
    assert not re.search(r"(?<!\\)<img", text.split("```json")[0])  # within the fence it is only text


def test_printable_and_escapes():
    assert printable("a\r\nb\rc\td") == "a\nb\nc\td"
    assert printable("\ud83d\ude00") == "\ufffd\ufffd"  # halves that were never joined
    assert printable("😀 \u200d 中文") == "😀 \u200d 中文"
    assert printable("\x1b[31m\x7f\x85") == "␛[31m⟦U+007F⟧⟦U+0085⟧"
    assert markdown_text("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"
    assert script_json(["</script>", "&", "\u2028"]) == r'["\u003c/script\u003e","\u0026","\u2028"]'


def test_published_rows_have_a_source_each():
    published = published_figures("chisafetybench")
    assert published is not None
    assert len(published.results) == 12
    assert {result.reference for result in published.results} == set(published.references)
    assert {metric for result in published.results for metric in result.figures} == set(published.columns)
    assert set(published.columns) < set(METRICS)
    yi = next(result for result in published.results if result.model == "Yi-34B-Chat")
    assert list(yi.figures.values()) == [68.54, 63.06, 63.06, 3.73]


def test_imports_without_the_heavy_libraries():
    modules = "safe_r1.metrics.rates, safe_r1.report.html, safe_r1.report.markdown"
    code = f"import sys, {modules}; print(sorted({{'torch', 'ray', 'vllm'}} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_the_labels_of_a_policy_are_counted_in_their_own_words():
    samples, completions, verdicts = make_rows(0, 4)
    verdicts = [
        replace(each, choice="违规<b>") if each.part == "answer" and each.label else each for each in verdicts
    ]
    metrics = compute_metrics(samples, completions, verdicts)
    number = sum(each.choice is not None for each in verdicts)
    assert metrics["counts"]["refusal"]["num_by_own_label"] == {"违规<b>": number}
    markdown = render_markdown(samples, metrics, {})
    assert "by the labels of the judging policy: 违规" in markdown
    assert "违规<b>" not in markdown
    assert f"违规&lt;b&gt; {number}" in render_html(samples, completions, verdicts, metrics, {})


def test_a_selection_and_cut_answers_stand_in_every_headline_in_both_languages():
    samples, completions, verdicts = make_rows(20, 10)
    completions = [replace(each, finish_reason=each.finish_reason and "length") for each in completions]
    population = Population(Counter(map(stratum_of, samples * 71)))
    metrics = compute_metrics(samples, completions, verdicts, population)
    text = render_markdown(samples, metrics, {})
    page = render_html(samples, completions, verdicts, metrics, {})
    assert "**30 of 2,130 questions; rates are weighted to the shares of the whole benchmark.**" in text
    assert "30 completions were cut by the token limit" in text
    assert "2,130 题中的 30 题" in page
    assert "30 of 2,130 questions" in page
    assert "个达到长度上限而被截断" in page
    assert "nothing is left" in text
    assert "questions like these" in text
    assert "与这些题同类的题目" in page
