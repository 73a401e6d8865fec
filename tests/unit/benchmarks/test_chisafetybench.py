import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from safe_r1.benchmarks import get_benchmark, names
from safe_r1.benchmarks.chisafetybench import HISTORY_FILE, MCQ_FILE, REFUSAL_FILE
from safe_r1.benchmarks.options import MCQ_INSTRUCTION
from safe_r1.errors import ConfigError, DataError
from safe_r1.schema import Sample

Edit = Callable[[str, Callable[[Any], Any]], None]
SAMPLE = get_benchmark("chisafetybench-sample")


def test_the_published_files_give_2130_samples(real_samples: list[Sample]):
    assert len(real_samples) == len({sample.sample_id for sample in real_samples}) == 2130
    assert Counter((sample.task, sample.metadata["has_history"]) for sample in real_samples) == {
        ("mcq", "false"): 1567,
        ("refusal", "false"): 462,
        ("refusal", "true"): 101,
    }


def test_areas_of_the_published_files(real_samples: list[Sample]):
    assert Counter(sample.area for sample in real_samples if sample.task == "mcq") == {
        "discrimination": 460,
        "values": 399,
        "commercial": 254,
        "rights": 355,
        "services": 99,
    }
    assert Counter(sample.area for sample in real_samples if sample.task == "refusal") == {
        "discrimination": 245,
        "values": 318,
    }
    assert len({sample.category for sample in real_samples}) == 31
    assert len({sample.category for sample in real_samples if sample.task == "refusal"}) == 17


def test_two_spellings_of_one_category_are_one(real_samples: list[Sample]):
    counts = Counter(sample.category for sample in real_samples if sample.task == "mcq")
    assert counts["other_rights"] == 50
    assert counts["ethnic"] == 50


def test_the_shipped_key_answers_the_published_questions(real_samples: list[Sample]):
    mcq = [sample for sample in real_samples if sample.task == "mcq"]
    assert Counter(sample.metadata["answer"] for sample in mcq) == {"A": 1025, "B": 342, "C": 123, "D": 77}
    assert Counter(sample.metadata["key_confidence"] for sample in mcq) == {
        "high": 1017,
        "medium": 407,
        "low": 143,
    }


def test_exact_duplicates_are_kept(real_samples: list[Sample]):
    texts = [sample.messages[0]["content"] for sample in real_samples if sample.task == "mcq"]
    assert len(texts) > len(set(texts))


def test_dialogues_begin_with_a_system_turn_and_end_with_the_input(
    real_data: Path, real_samples: list[Sample]
):
    published = json.loads((real_data / "v1" / HISTORY_FILE).read_text("utf-8"))
    dialogues = [sample for sample in real_samples if sample.metadata["has_history"] == "true"]
    for item, sample in zip(published, dialogues, strict=True):
        roles = [message["role"] for message in sample.messages]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]
        assert sample.messages[-1]["content"] == item["input"]
    assert dialogues[0].sample_id == "chisafetybench/refusal-history/0001"
    assert dialogues[-1].sample_id == "chisafetybench/refusal-history/0101"


def test_the_folder_itself_or_the_one_above_may_be_given(real_data: Path, real_samples: list[Sample]):
    benchmark = get_benchmark("chisafetybench")
    assert benchmark.load(str(real_data / "v1")) == real_samples
    assert benchmark.data_hash(real_data / "v1") == benchmark.data_hash(str(real_data))


def test_published_files_load_without_a_warning(real_data: Path, caplog: pytest.LogCaptureFixture):
    get_benchmark("chisafetybench").load(str(real_data))
    assert not caplog.records


def test_files_other_than_the_published_ones_give_a_warning(folder: Path, caplog: pytest.LogCaptureFixture):
    get_benchmark("chisafetybench").load(folder, folder / "answer_key.jsonl")
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [
        MCQ_FILE,
        REFUSAL_FILE,
        HISTORY_FILE,
    ]


def test_a_multiple_choice_sample(own_samples: list[Sample]):
    sample = own_samples[0]
    question = json.loads((SAMPLE_FOLDER / MCQ_FILE).read_text("utf-8"))[0]["infos"][0]["question"]
    assert sample.sample_id == "chisafetybench-sample/mcq/0001"
    assert (sample.area, sample.category) == ("commercial", "intellectual_property")
    assert sample.messages == [{"role": "user", "content": f"{question}\n\n{MCQ_INSTRUCTION}"}]
    assert sample.options == {"A": "算", "B": "不算"}
    assert sample.metadata == {
        "source_id": "1",
        "has_history": "false",
        "answer": "A",
        "key_confidence": "high",
    }


def test_samples_survive_the_way_through_a_row(own_samples: list[Sample]):
    assert [Sample.from_row(sample.to_row()) for sample in own_samples] == own_samples


def test_data_from_memory(folder: Path, own_samples: list[Sample]):
    place = UPath("memory://bench/v1")
    for name in (MCQ_FILE, REFUSAL_FILE, HISTORY_FILE):
        (place / name).write_bytes((folder / "v1" / name).read_bytes())
    assert SAMPLE.load("memory://bench") == SAMPLE.load("memory://bench/v1") == own_samples
    assert SAMPLE.data_hash("memory://bench") == SAMPLE.data_hash(None)


def test_the_data_hash_follows_the_content(folder: Path, edit: Edit):
    before = SAMPLE.data_hash(folder)
    edit(HISTORY_FILE, lambda items: items[0].update(input="换一句话"))
    assert SAMPLE.data_hash(folder) != before


def first(items: Any) -> Any:
    return items[0]["infos"][0]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            MCQ_FILE,
            lambda areas: first(areas).pop("question"),
            r"mcq\.json, item 1: field 'question' is missing",
        ),
        (
            MCQ_FILE,
            lambda areas: first(areas).pop("id"),
            r"mcq\.json, area 1, entry 1: field 'id' is missing",
        ),
        (
            MCQ_FILE,
            lambda areas: first(areas).update(id="1"),
            r"mcq\.json, item 1: field 'id' is str, expected int",
        ),
        (MCQ_FILE, lambda areas: first(areas).update(id=2), r"mcq\.json, item 2: id occurs twice"),
        (
            MCQ_FILE,
            lambda areas: first(areas).update(category="天气"),
            r"mcq\.json, item 1: unknown category '天气'",
        ),
        (
            MCQ_FILE,
            lambda areas: first(areas).update(category="性别歧视"),
            r"mcq\.json, item 1: .*does not belong to area",
        ),
        (
            MCQ_FILE,
            lambda areas: first(areas).update(question="甲？\nA. 是"),
            r"mcq\.json, item 1: no options",
        ),
        (
            MCQ_FILE,
            lambda areas: areas[1].update(category="天气"),
            r"mcq\.json, item 14: unknown area '天气'",
        ),
        (MCQ_FILE, lambda areas: areas[1].pop("infos"), r"mcq\.json, area 2: field 'infos' is missing"),
        (
            MCQ_FILE,
            lambda areas: areas[1]["infos"].pop(),
            r"answer key .*, item 33: the data have no such question",
        ),
        (MCQ_FILE, lambda areas: areas.clear(), r"mcq\.json: expected a list of items, got an empty list"),
        (
            REFUSAL_FILE,
            lambda areas: first(areas).update(question=" "),
            r"without.*, item 1: field 'question' is empty",
        ),
        (
            REFUSAL_FILE,
            lambda areas: first(areas).update(category="内容不准确"),
            r"without.*, item 1: .* no refusal questions",
        ),
        (REFUSAL_FILE, lambda areas: first(areas).update(id=2), r"refusal/0002: id occurs twice"),
        (
            HISTORY_FILE,
            lambda items: items[2].pop("input"),
            r"with_dialog.*, item 3: field 'input' is missing",
        ),
        (
            HISTORY_FILE,
            lambda items: items[2].update(history=[]),
            r"with_dialog.*, item 3, history: .* an empty list",
        ),
        (
            HISTORY_FILE,
            lambda items: items[2]["history"][1].update(role="robot"),
            r"item 3, turn 2: role is 'robot'",
        ),
        (HISTORY_FILE, lambda items: items.append("x"), r"item 9: expected an object, got str"),
    ],
)
def test_damage_is_one_line_that_names_file_and_item(
    folder: Path, edit: Edit, name: str, change: Any, message: str
):
    edit(name, change)
    with pytest.raises(DataError, match=message) as caught:
        SAMPLE.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [MCQ_FILE, REFUSAL_FILE, HISTORY_FILE])
def test_half_a_file_is_damaged(folder: Path, name: str):
    path = folder / "v1" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{name}: is damaged"):
        SAMPLE.load(folder)


@pytest.mark.parametrize("name", [MCQ_FILE, REFUSAL_FILE, HISTORY_FILE])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / "v1" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: no such file; give --data"):
        SAMPLE.load(folder)


@pytest.mark.parametrize("place", ["/no/such/folder", "memory://no-such-place", "nosuchscheme://x"])
def test_a_wrong_place_is_one_line(place: str):
    with pytest.raises(DataError) as caught:
        SAMPLE.load(place)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_data_the_message_says_how_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match="safe-r1 fetch chisafetybench"):
        get_benchmark("chisafetybench").load()


def test_registry():
    assert names()[:2] == ["chisafetybench", "chisafetybench-sample"]
    assert [get_benchmark(name).name for name in names()] == names()
    assert all(get_benchmark(name).title for name in names())
    with pytest.raises(
        ConfigError, match=r"unknown benchmark 'chisafetybnch': did you mean chisafetybench\b"
    ):
        get_benchmark("chisafetybnch")
    with pytest.raises(ConfigError, match="known are chisafetybench, chisafetybench-sample"):
        get_benchmark("42")


SAMPLE_FOLDER = Path(__file__).parents[3] / "safe_r1" / "benchmarks" / "data" / "chisafetybench_sample" / "v1"
