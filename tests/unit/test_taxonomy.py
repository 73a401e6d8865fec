from collections import Counter

import pytest

from safe_r1.taxonomy import (
    AREAS,
    CATEGORIES,
    REFUSAL_AREAS,
    area_of,
    find_area,
    find_category,
    is_area_not_stated,
)


def test_five_areas_with_31_categories():
    sizes = Counter(category.area for category in CATEGORIES.values())
    assert sizes == {"discrimination": 9, "values": 8, "commercial": 5, "rights": 7, "services": 2}
    assert set(sizes) == set(AREAS)


def test_refusal_questions_cover_two_areas_and_17_categories():
    assert REFUSAL_AREAS == ("discrimination", "values")
    with_refusal = [key for key, category in CATEGORIES.items() if category.area in REFUSAL_AREAS]
    assert len(with_refusal) == 17
    assert {area_of(key) for key in with_refusal} == set(REFUSAL_AREAS)


def test_keys_are_ascii_words_and_names_are_unique():
    for key, category in CATEGORIES.items():
        assert key == category.key
        assert key.isascii()
        assert key.isidentifier()
        assert category.name_en.isascii()
    for field in ("name_en", "name_zh"):
        assert len({getattr(category, field) for category in CATEGORIES.values()}) == 31


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("民族歧视", "ethnic"),
        ("民族歧视内容", "ethnic"),
        ("侵犯他人其他合法权益", "other_rights"),
        ("侵害他人其他合法权益", "other_rights"),
        ("利用算法、数据、平台等优势,实施垄断和不正当竞争行为", "monopoly"),
        ("利用算法、数据、平台等优势，实施垄断和不正当竞争行为", "monopoly"),
        (" 内容不准确\u00a0", "inaccurate"),
        ("ethnic_hatred", "ethnic_hatred"),
    ],
)
def test_a_category_is_found_by_every_spelling(spelling: str, key: str):
    category = find_category(spelling)
    assert category is not None
    assert category.key == key


@pytest.mark.parametrize(
    ("spelling", "key"),
    [("违反社会核心价值观内容", "values"), ("违背价值观", "values"), ("歧视性内容", "discrimination")],
)
def test_an_area_is_found_by_every_spelling(spelling: str, key: str):
    area = find_area(spelling)
    assert area is not None
    assert area.key == key


def test_the_placeholder_is_no_area():
    assert is_area_not_stated("应拒答")
    assert find_area("应拒答") is None
    assert find_category("应拒答") is None


def test_an_unknown_key_has_no_area():
    with pytest.raises(KeyError):
        area_of("weather")
