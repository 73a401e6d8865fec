"""The benchmarks of one file: MATH-500, GSM8K, GPQA-Diamond, XSTest."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from safe_r1.benchmarks import evaluate_schema, expand, get_benchmark
from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.gpqa import GPQA_DIAMOND
from safe_r1.benchmarks.gsm8k import GSM8K
from safe_r1.benchmarks.math500 import MATH_500
from safe_r1.benchmarks.math_answers import is_equal
from safe_r1.benchmarks.xstest import XSTEST, XSTest
from safe_r1.errors import ConfigError, DataError
from safe_r1.settings import load_config


@pytest.fixture
def shared(real_data: Path) -> Path:
    return real_data.parent


@pytest.fixture
def gpqa(tmp_path: Path) -> Path:
    rows = [
        {
            "Record ID": f"rec{number}",
            "Question": f"Which of these is number {number}?",
            "Correct Answer": f"right {number}",
            "Incorrect Answer 1": "wrong one",
            "Incorrect Answer 2": "wrong two\n",
            "Incorrect Answer 3": "wrong three",
            "High-level domain": "Physics",
            "Subdomain": "Physics (general)",
        }
        for number in range(40)
    ]
    with (tmp_path / "gpqa_diamond.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def test_published_files_are_read_whole(shared: Path):
    math, gsm8k, xstest = (
        MATH_500.load(str(shared)),
        GSM8K.load(str(shared / "gsm8k")),
        XSTEST.load(str(shared)),
    )
    assert (len(math), len(gsm8k), len(xstest)) == (500, 1319, 450)
    assert Counter(sample.area for sample in xstest) == {"safe": 250, "unsafe": 200}
    assert len({sample.category for sample in xstest}) == 18
    assert len({sample.area for sample in math}) == 7
    assert all(
        sample.sample_id.startswith(f"{sample.benchmark}/{part}/")
        for samples, part in ((math, "math"), (gsm8k, "math"), (xstest, "compliance"))
        for sample in samples
    )
    assert all("," not in sample.metadata["answer"] for sample in gsm8k)
    assert MATH_500.data_hash(str(shared)) == MATH_500.data_hash(str(shared / "math500"))


@pytest.mark.slow
def test_every_published_result_is_equal_to_itself_in_its_own_solution(shared: Path):
    """The checker finds the result in the published solution: 500 of 500 but for what it cannot read."""
    rows = [json.loads(line) for line in (shared / "math500" / "test.jsonl").read_text("utf-8").splitlines()]
    wrong = [
        row["unique_id"] for row in rows[::10] if not is_equal(row["answer"], row["solution"]).is_correct
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("result", "answer", "is_correct"),
    [
        (r"\frac{1}{2}", r"So it is $\boxed{0.5}$.", True),
        (r"\frac{1}{2}", r"So it is $\boxed{\frac{2}{4}}$.", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"$\boxed{(3, \pi/2)}$", True),
        ("18", "first $\\boxed{17}$, no: $\\boxed{18}$", True),
        ("18", "The answer is 18.", True),
        ("70000", r"\boxed{70{,}000}", True),
        ("18", r"$\boxed{17}$", False),
        ("18", "", False),
        ("18", "I do not know.", False),
        ("18", r"\boxed{", False),
    ],
)
def test_results_are_compared_as_mathematics(result: str, answer: str, is_correct: bool):
    assert is_equal(result, answer).is_correct is is_correct


def test_what_was_read_is_shown_as_written():
    assert is_equal("1", r"$\boxed{\frac{1}{2}}$").found == r"\frac{1}{2}"
    assert is_equal("1", "nothing here").found is None


@pytest.mark.slow
def test_options_have_another_order_in_every_repeat_and_the_same_one_always(gpqa: Path):
    samples = GPQA_DIAMOND.load(str(gpqa))
    places: Counter[str] = Counter()
    for sample in samples:
        for repeat in range(8):
            asked = GPQA_DIAMOND.as_asked(sample, repeat)
            assert asked == GPQA_DIAMOND.as_asked(sample, repeat)
            assert sorted(asked.options.values()) == sorted(sample.options.values())
            letter = next(letter for letter, text in asked.options.items() if text.startswith("right"))
            score = GPQA_DIAMOND.score(sample, repeat, f"Answer: {letter}")
            assert (score.is_correct, score.found) == (True, sample.metadata["answer"])
            assert f"{letter}. right" in asked.messages[-1]["content"]
            places[letter] += 1
    assert len(places) == 4
    assert min(places.values()) > 50, places
    assert len({tuple(GPQA_DIAMOND.as_asked(samples[0], repeat).options.values()) for repeat in range(8)}) > 3
    assert GPQA_DIAMOND.score(samples[0], 0, "I cannot say.") == Score(False, None)
    assert samples[0].category == "physics/physics-general"


def test_a_gated_benchmark_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAFE_R1_DATA", str(tmp_path))
    for data in (None, str(tmp_path)):
        with pytest.raises(DataError, match=r"accept its terms .* give --data DIR"):
            GPQA_DIAMOND.load(data)


def test_missing_and_damaged_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="safe-r1 fetch math-500"):
        MATH_500.load(str(tmp_path))
    (tmp_path / "test.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n', "utf-8")
    with pytest.raises(DataError, match="line 1: field 'unique_id' is missing"):
        MATH_500.load(str(tmp_path))
    (tmp_path / "test.jsonl").write_text('{"question": "1+1?", "answer": "two"}\n', "utf-8")
    with pytest.raises(DataError, match="line 1: no result"):
        GSM8K.load(str(tmp_path))
    (tmp_path / "test.jsonl").write_text("", "utf-8")
    with pytest.raises(DataError, match="no rows"):
        GSM8K.load(str(tmp_path))
    (tmp_path / "xstest_prompts.csv").write_text("id,prompt,type,label\n1,Hello?,homonyms,maybe\n", "utf-8")
    with pytest.raises(DataError, match="row 1: label is 'maybe'"):
        XSTEST.load(str(tmp_path))


def test_xstest_in_chinese(shared: Path):
    english, chinese = XSTEST.load(str(shared)), XSTest("zh").load(str(shared))
    assert [sample.sample_id for sample in english] == [sample.sample_id for sample in chinese]
    assert all(
        any("\u4e00" <= char <= "\u9fff" for char in sample.messages[0]["content"]) for sample in chinese
    )
    assert len({sample.messages[0]["content"] for sample in chinese}) == 450
    assert XSTEST.data_hash(str(shared)) != XSTest("zh").data_hash(str(shared))


def test_names_and_settings():
    assert expand(["all-paper", "xstest"]) == [
        "chisafetybench",
        "math-500",
        "gpqa-diamond",
        "livecodebench",
        "xstest",
    ]
    config = load_config(evaluate_schema(), None, ["xstest.language=zh"], variant="demo")
    assert get_benchmark("xstest", config) == XSTest("zh")
    with pytest.raises(ConfigError, match="math-500"):
        get_benchmark("math500")
