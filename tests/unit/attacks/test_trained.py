"""What a model's folder says of the attacks that it was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from safe_r1.attacks.adaptive.augment import POOL
from safe_r1.attacks.trained import FAMILIES, TrainedAttacks, families, held_out_by, read_trained
from safe_r1.models.files import ORIGIN_FILE

TRAINED = TrainedAttacks({"pinyin": 5, "zero-width+role": 2}, ("encoding", "few-shot", "pinyin+fiction"))


@pytest.mark.parametrize(
    ("attack", "use"),
    [
        ("plain", ""),
        ("pinyin", "trained on"),
        ("zero-width+role", "trained on"),
        ("base64", "held out"),
        ("pinyin+base64", "held out"),
        ("few-shot", "held out"),
        ("pinyin+fiction", "held out"),
        ("fiction", "not trained on"),
        ("role", "parts trained on"),
        ("pinyin+code", "parts trained on"),
        ("translation-thai", "not trained on"),
        ("grandma", "not trained on"),
    ],
)
def test_each_attack_is_trained_on_held_out_or_neither(attack: str, use: str):
    assert TRAINED.use_of(attack) == use


@pytest.mark.parametrize("held_out", [(), *((each,) for each in FAMILIES), FAMILIES])
@pytest.mark.parametrize("rows", [{}, {"pinyin": 3}, {"spaces": 3}, {"emoji+role": 2}])
def test_of_attacks_that_adapt_best_of_n_alone_draws_from_known_ones(
    held_out: tuple[str, ...], rows: dict[str, int]
):
    record = TrainedAttacks(rows, held_out)
    for method in ("pair", "tap", "crescendo"):
        assert families(method) == set()
        assert record.use_of(method) == "not trained on"
    drawn = {part for name in rows for part in name.split("+")} & set(POOL)
    expected = "parts trained on" if drawn else "not trained on"
    assert record.use_of("bon") == ("held out" if "writing" in held_out else expected)


def test_families_are_those_of_the_parts():
    assert families("pinyin+base64+role") == {"writing", "encoding", "framing"}
    assert families("translation-thai+grandma") == {"writing", "framing"}
    assert held_out_by("translation-thai", ["writing"]) == "writing"
    assert held_out_by("grandma", ["framing"]) == "framing"
    assert held_out_by("grandma", ["writing", "gran"]) is None


def test_a_second_corpus_adds_to_the_first():
    second = TrainedAttacks({"pinyin": 1, "base64": 3}, ("reasoning",))
    found = second.after(TRAINED)
    assert found.rows == {"pinyin": 6, "zero-width+role": 2, "base64": 3}
    # Of the encodings one is trained on now.
    assert found.held_out == ("few-shot", "pinyin+fiction", "reasoning")
    assert second.after(None) is second


def test_the_record_is_read_from_the_folder_of_the_model(tmp_path: Path):
    assert read_trained(str(tmp_path)) is None
    (tmp_path / ORIGIN_FILE).write_text(json.dumps({"base": "demo", "attacks": TRAINED.to_json()}), "utf-8")
    assert read_trained(str(tmp_path)) == TRAINED
    assert read_trained(tmp_path.as_uri()) == TRAINED


@pytest.mark.parametrize("model", ["", "demo", "owner/model", "endpoint:https://x.org/v1#m", "nowhere://x"])
def test_of_other_models_nothing_is_known(model: str):
    assert read_trained(model) is None


@pytest.mark.parametrize(
    "record",
    [None, [], {}, {"rows": []}, {"rows": {}, "held_out": "x"}, {"rows": {"a": "1"}, "held_out": []}],
)
def test_another_record_is_none(tmp_path: Path, record: Any):
    (tmp_path / ORIGIN_FILE).write_text(json.dumps({"attacks": record}), "utf-8")
    assert read_trained(str(tmp_path)) is None


def test_a_damaged_file_says_nothing(tmp_path: Path):
    (tmp_path / ORIGIN_FILE).write_text("{", "utf-8")
    assert read_trained(str(tmp_path)) is None
