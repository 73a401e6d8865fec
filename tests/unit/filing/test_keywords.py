"""Keywords: lists as teams write them, and words in texts, against a plain search."""

import csv
import unicodedata
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_r1.errors import DataError
from safe_r1.filing.automaton import Automaton
from safe_r1.filing.keyword_files import MAX_WORD_CHARS, read_keywords
from safe_r1.filing.keywords import Keyword, KeywordFinder, KeywordList, check_list
from safe_r1.filing.policy import load_policy
from safe_r1.taxonomy import CATEGORIES

FEW = st.text("ab法轮", min_size=1, max_size=4)
WORDS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8)


def finder(*words: str) -> KeywordFinder:
    return KeywordFinder(KeywordList("list", tuple(Keyword(word, ()) for word in words)))


@given(st.sets(FEW, max_size=12), st.text("ab法轮", max_size=60))
def test_the_automaton_finds_what_a_plain_search_finds(words: set[str], text: str):
    expected = {
        (start, start + len(word))
        for word in words
        for start in range(len(text))
        if text.startswith(word, start)
    }
    found = list(Automaton(words).find(text))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert found == sorted(found, key=lambda each: (each[1], each[0]))


@settings(deadline=None)
@given(WORDS, st.text(max_size=20), st.text(max_size=20), st.data())
def test_a_word_that_stands_in_a_text_is_found(
    words: list[str], before: str, after: str, data: st.DataObject
):
    word = data.draw(st.sampled_from(words))
    text = before + word + after
    hits = {hit.keyword.word: hit for hit in finder(*words).find(text)}
    assert word in hits
    hit = hits[word]
    assert not hit.is_disguised
    assert hit.count >= 1
    assert hit.start <= len(before)


@pytest.mark.parametrize(
    "text",
    ["炸药制作", "炸\u200b药制\u200b作", "炸*药*制*作", "炸 药 制 作", "炸·药制作", "炸藥製作"],
)
def test_a_disguised_word_is_found(text: str):
    [hit] = finder("炸药制作").find(f"前文。{text}。后文")
    assert hit.is_disguised == (text != "炸药制作")
    assert "【炸药制作】" in hit.excerpt
    assert ("还原后" in hit.to_text()) == hit.is_disguised


def test_wide_and_large_letters_are_the_same():
    assert [hit.keyword.word for hit in finder("AbC").find("xＡＢＣ")] == ["AbC"]
    assert [hit.count for hit in finder("AbC").find("abc ABC")] == [2]


def test_a_hit_says_word_risk_and_place():
    found = KeywordFinder(KeywordList("list", (Keyword("坏词", ("ethnic", "age")),)))
    [hit] = found.find("一\n二坏词三坏词")
    assert hit.to_text() == "坏词（民族歧视、年龄歧视）×2，第 4 字：一 二【坏词】三坏词"


def write(path: Path, rows: list[list[str]]) -> str:
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        sheet = book.worksheets[0]
        for row in rows:
            sheet.append(row)
        book.save(path)
    elif path.suffix == ".txt":
        path.write_text("".join("\t".join(row) + "\n" for row in rows[1:]), "utf-8")
    else:
        with path.open("w", encoding="gb18030", newline="") as file:
            csv.writer(file).writerows(rows)
    return str(path)


@pytest.mark.parametrize("name", ["list.csv", "list.xlsx", "list.txt"])
def test_a_list_is_read_in_every_form(name: str, tmp_path: Path):
    rows = [
        ["关键词", "风险"],
        ["甲词", "民族歧视"],
        ["乙词", "ethnic"],
        [" 乙词 ", "Age discrimination"],
        ["甲词", "民族歧视"],
    ]
    found = read_keywords(write(tmp_path / name, rows))
    assert found.words == (Keyword("甲词", ("ethnic",)), Keyword("乙词", ("ethnic", "age")))
    assert found.num_repeated == 1


@pytest.mark.parametrize("name", ["list.csv", "list.xlsx", "list.txt"])
@given(names=st.lists(st.sampled_from(sorted(CATEGORIES)), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_every_spelling_of_a_risk_is_taken(
    name: str, names: list[str], tmp_path_factory: pytest.TempPathFactory
):
    spelled = [
        spelling
        for key in names
        for spelling in (key, CATEGORIES[key].name_zh, CATEGORIES[key].name_en, *CATEGORIES[key].aliases)
    ]
    rows = [["word", "risk"], *([f"词{place}", risk] for place, risk in enumerate(spelled))]
    found = read_keywords(write(tmp_path_factory.mktemp("lists") / name, rows))
    assert [CATEGORIES[word.risks[0]] for word in found.words] == [
        next(
            each
            for each in CATEGORIES.values()
            if risk in (each.key, each.name_zh, each.name_en, *each.aliases)
        )
        for risk in spelled
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["坏词", "无此风险"], "'无此风险' is none of the 31 risks"),
        (["", "民族歧视"], "no word"),
        (["长" * (MAX_WORD_CHARS + 1), "民族歧视"], "201 characters"),
        (["一\n二", "民族歧视"], "one keyword a row"),
        (["\u200b", "民族歧视"], "invisible"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.xlsx"])
def test_a_bad_row_is_one_line(row: list[str], reason: str, name: str, tmp_path: Path):
    path = tmp_path / name
    rows = [["关键词", "风险"], ["甲词", "民族歧视"], row]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        write(path, rows)
    with pytest.raises(DataError) as caught:
        read_keywords(str(path))
    text = str(caught.value)
    assert f"{name}, row 3" in text
    assert reason in text
    assert "\n" not in text


def test_a_list_without_its_column_or_words_is_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="row 2: no column of keywords among 甲, 乙"):
        read_keywords(write(tmp_path / "list.csv", [["甲", "乙"], ["词", "民族歧视"]]))
    with pytest.raises(DataError, match="no keyword"):
        read_keywords(write(tmp_path / "list.txt", [["关键词"]]))
    with pytest.raises(DataError, match="list2"):
        read_keywords(str(tmp_path / "list2.csv"))


@pytest.mark.parametrize("short", [0, 1])
def test_a_list_is_held_against_the_figures(short: int):
    policy = load_policy()
    assert policy.keywords is not None
    needed = {
        key: each.each.value for each in policy.keywords.coverage for key in policy.groups[each.group].names
    }
    assert len(needed) == 17
    words = [Keyword(f"{key}{number}", (key,)) for key in needed for number in range(needed[key])]
    words += [Keyword(f"x{number}", ()) for number in range(policy.keywords.size.value - len(words))]
    lines = check_list(KeywordList("list", tuple(words[short:])), policy)
    assert [line.endswith("enough") for line in lines[:3]].count(True) == 3 - 2 * short
    first = next(iter(needed))
    assert any(f"{CATEGORIES[first].name_zh} {needed[first] - 1:,}" in line for line in lines) == bool(short)
    assert any("1 too few" in line for line in lines) == bool(short)
    assert any("have no risk" in line for line in lines)
    assert any("standard" in unicodedata.normalize("NFKC", line) for line in lines)
