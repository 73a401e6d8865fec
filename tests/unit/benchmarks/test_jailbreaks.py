"""HarmBench and JailbreakBench, from made-up rows with the columns of the published files."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.attacks.apply import ATTACKED_TASKS
from safe_r1.benchmarks import evaluate_schema, get_benchmark, get_benchmarks
from safe_r1.benchmarks.harmbench import HARMBENCH, HarmBench
from safe_r1.benchmarks.jailbreakbench import JAILBREAKBENCH
from safe_r1.errors import DataError
from safe_r1.settings import load_config

HARMBENCH_COLUMNS = (
    "Behavior",
    "FunctionalCategory",
    "SemanticCategory",
    "Tags",
    "ContextString",
    "BehaviorID",
)
JAILBREAKBENCH_COLUMNS = ("Index", "Goal", "Target", "Behavior", "Category", "Source")
SUBJECTS = (
    "Harassment/Discrimination",
    "Malware/Hacking",
    "Physical harm",
    "Economic harm",
    "Fraud/Deception",
    "Disinformation",
    "Sexual/Adult content",
    "Privacy",
    "Expert advice",
    "Government decision-making",
)
SEMANTICS = (
    "chemical_biological",
    "copyright",
    "cybercrime_intrusion",
    "harassment_bullying",
    "harmful",
    "illegal",
    "misinformation_disinformation",
)


def write(file: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerows([columns, *rows])


def write_harmbench(folder: Path, rows: list[tuple[str, ...]]) -> str:
    write(folder / HARMBENCH.file, HARMBENCH_COLUMNS, rows)
    return str(folder)


@pytest.fixture
def harmbench(tmp_path: Path) -> str:
    rows = [
        (f"Do bad thing {number}", "standard", semantic, "", "", f"bad_{number}")
        for number, semantic in enumerate(SEMANTICS)
    ]
    rows += [("Go on with it", "contextual", "illegal", "context", 'A text, "quoted"\nin two lines', "go_on")]
    rows += [("Print the lyrics", "copyright", "copyright", "lyrics, hash_check", "", "lyrics")]
    return write_harmbench(tmp_path, rows)


@pytest.fixture
def jailbreakbench(tmp_path: Path) -> str:
    for name, verb in (("harmful", "Misuse"), ("benign", "Describe")):
        rows = [
            (str(number), f"{verb} {subject}", "Sure", f"{subject} {name}", subject, "Original")
            for number, subject in enumerate(SUBJECTS)
        ]
        write(tmp_path / f"{name}-behaviors.csv", JAILBREAKBENCH_COLUMNS, rows)
    return str(tmp_path)


def test_harmbench_asks_what_a_judge_of_harm_can_judge(harmbench: str):
    samples = HARMBENCH.load(harmbench)
    assert {sample.task for sample in samples} == {"refusal"}
    assert Counter(sample.metadata["kind"] for sample in samples) == {"standard": 7, "contextual": 1}
    [contextual] = [sample for sample in samples if sample.metadata["kind"] == "contextual"]
    assert contextual.messages == [
        {"role": "user", "content": 'A text, "quoted"\nin two lines\n\n---\n\nGo on with it'}
    ]
    assert contextual.sample_id == "harmbench/refusal/go_on"
    assert {key for sample in samples for key in (sample.area, sample.category)} <= set(HARMBENCH.labels)


def test_harmbench_with_its_questions_for_protected_texts(harmbench: str):
    config = load_config(evaluate_schema(), None, ["harmbench.copyright=true"], variant="demo")
    benchmark = get_benchmark("harmbench", config)
    assert isinstance(benchmark, HarmBench)
    assert benchmark.copyright
    assert benchmark.workload.num_questions == HARMBENCH.workload.num_questions + 100
    assert len(benchmark.load(harmbench)) == len(HARMBENCH.load(harmbench)) + 1
    assert benchmark.data_hash(harmbench) != HARMBENCH.data_hash(harmbench)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("Do", "standart", "illegal", "", "", "x"), "row 1: FunctionalCategory is 'standart', expected"),
        (("Do", "contextual", "illegal", "", "", "x"), "row 1: field 'ContextString' is empty"),
        (("", "standard", "illegal", "", "", "x"), "row 1: field 'Behavior' is empty"),
        (("Do", "standard", "illegal"), "row 1: field 'BehaviorID' is NoneType"),
        (("Do", "copyright", "copyright", "", "", "x"), "holds copyright questions alone"),
    ],
)
def test_a_row_of_harmbench_that_cannot_be_read_is_named(tmp_path: Path, row: tuple[str, ...], message: str):
    with pytest.raises(DataError, match=message):
        HARMBENCH.load(write_harmbench(tmp_path, [row]))


def test_jailbreakbench_has_harmful_and_harmless_behaviours(jailbreakbench: str):
    samples = JAILBREAKBENCH.load(jailbreakbench)
    assert Counter((sample.task, sample.area) for sample in samples) == {
        ("refusal", "harmful"): 10,
        ("over_refusal", "harmless"): 10,
    }
    assert len({sample.sample_id for sample in samples}) == 20
    assert samples[0].messages == [{"role": "user", "content": "Misuse Harassment/Discrimination"}]
    assert {sample.category for sample in samples} | {"harmful", "harmless"} == set(JAILBREAKBENCH.labels)


def test_each_file_of_jailbreakbench_is_needed_and_hashed(jailbreakbench: str):
    before = JAILBREAKBENCH.data_hash(jailbreakbench)
    for name in ("harmful", "benign"):
        file = Path(jailbreakbench) / f"{name}-behaviors.csv"
        content = file.read_bytes()
        file.write_bytes(content + b"10,One more,Sure,More,Privacy,Original\n")
        assert JAILBREAKBENCH.data_hash(jailbreakbench) != before
        assert len(JAILBREAKBENCH.load(jailbreakbench)) == 21
        file.write_bytes(content + b"x,One more,Sure,More,Privacy,Original\n")
        with pytest.raises(DataError, match=rf"{name}-behaviors.csv, row 11: Index is 'x'"):
            JAILBREAKBENCH.load(jailbreakbench)
        file.unlink()
        with pytest.raises(DataError, match=rf"{name}-behaviors.csv.*safe-r1 fetch jailbreakbench"):
            JAILBREAKBENCH.load(jailbreakbench)
        file.write_bytes(content)


def test_both_are_asked_through_attacks(harmbench: str, jailbreakbench: str):
    config = load_config(
        evaluate_schema(), None, [], variant="demo", benchmarks=("harmbench",), attacks=("base64", "role")
    )
    for chosen in ("harmbench", "jailbreakbench"):
        found = get_benchmarks([chosen], config)
        assert list(found) == [f"{chosen}@{attack}" for attack in ("plain", "base64", "role")]
        plain, encoded, role = (benchmark.load(harmbench) for benchmark in found.values())
        assert {sample.task for sample in plain} <= set(ATTACKED_TASKS)
        assert len(encoded) == len(plain)
        # A harmless question in a role is another question.
        assert len(role) == sum(sample.task == "refusal" for sample in plain)


texts: Any = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@given(rows=st.lists(st.tuples(texts, texts, st.sampled_from(SEMANTICS)), min_size=1, max_size=5))
def test_any_text_of_a_row_is_asked_as_it_is(
    rows: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("harmbench")
    asked = [
        (text, kind, semantic, "", context, f"{kind}-{number}")
        for number, (text, context, semantic) in enumerate(rows)
        for kind in ("standard", "contextual")
    ]
    samples = HARMBENCH.load(write_harmbench(folder, asked))
    expected = [each for text, context, _ in rows for each in (text, f"{context}\n\n---\n\n{text}")]
    assert [sample.messages[0]["content"] for sample in samples] == expected
