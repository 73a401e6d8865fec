"""Changes of texts against computations that share no code with them."""

import base64
import codecs
import csv
import io
import itertools
import json
import re
import unicodedata

import pytest
from opencc import OpenCC
from pypinyin import Style, lazy_pinyin, pinyin

from safe_r1.attacks.base import seeded
from safe_r1.attacks.reasoning import exercises
from safe_r1.attacks.registry import get_attack
from safe_r1.attacks.tables import common_characters, read_lines, read_pairs

HAN = re.compile("[\u4e00-\u9fff]")


def text_of(name: str, question: str, seed: int = 0) -> str:
    attack = get_attack(name)
    return attack.apply(question, seeded(seed, name, question)).messages[-1]["content"]


def test_pinyin_is_that_of_the_whole_sentence(questions: list[str]):
    for question in questions:
        words = re.findall(r"[^\W\d_]+", text_of("pinyin", question).partition("\n\n（")[0])
        letters = "".join(word for word in words).lower()
        expected = lazy_pinyin(question, style=Style.TONE)
        assert letters == "".join(re.findall(r"[^\W\d_]", "".join(expected))).lower()


def test_caesar_and_morse_hold_the_toneless_pinyin(questions: list[str]):
    morse = {code: char for char, code in read_pairs("morse.txt").items()}
    for question in questions:
        expected = re.findall("[a-z]", "".join(lazy_pinyin(question)).lower().replace("ü", "v"))
        moved = text_of("caesar", question).partition("\n\n（")[0]
        assert [chr((ord(c) - 97 - 3) % 26 + 97) for c in moved if c.isascii() and c.isalpha()] == expected
        codes = text_of("morse", question).partition("\n\n（")[0].split()
        read = [morse.get(code, "") for code in codes if code != "/"]
        assert [char for char in read if "a" <= char <= "z"] == expected


def test_traditional_is_simplified_again(questions: list[str]):
    back = OpenCC("tw2s")
    changed = sum(text_of("traditional", question) != question for question in questions)
    assert changed > 0.9 * len(questions)
    # Another dictionary of OpenCC than the one that takes the attack back.
    same = sum(back.convert(text_of("traditional", question)) == question for question in questions)
    assert same > 0.97 * len(questions)


def test_homophones_sound_alike(questions: list[str]):
    for question in questions:
        changed = text_of("homophones", question)
        assert len(changed) == len(question)
        pairs = [(a, b) for a, b in zip(question, changed, strict=True) if a != b]
        for original, other in pairs:
            sounds = [set(pinyin(char, heteronym=True)[0]) for char in (original, other)]
            assert sounds[0] & sounds[1], (original, other)
        assert pairs or not re.search("[\u4e00-\u9fff]{4}", question)


def test_near_shapes_and_halves_are_tables():
    groups = read_lines("near_shapes.txt")
    assert len("".join(groups)) == len(set("".join(groups)))
    assert all(len(group) > 1 for group in groups)
    halves = read_pairs("components.txt")
    assert all(len(char) == 1 and len(parts) == 2 for char, parts in halves.items())
    assert not set("".join(halves.values())) & set(halves)


@pytest.mark.parametrize("table", ["english.txt", "emoji.txt", "components.txt", "morse.txt"])
def test_tables_name_nothing_twice(table: str):
    keys = [line.split(" ")[0] for line in read_lines(table)]
    assert len(keys) == len(set(keys))
    if table != "english.txt":
        assert len(set(read_pairs(table).values())) == len(keys)


def test_emoji_are_single_symbols():
    for emoji in read_pairs("emoji.txt").values():
        assert len(emoji) == 1
        assert unicodedata.category(emoji) == "So"


def test_common_characters_are_those_of_the_standard():
    assert len(common_characters()) == 3755
    assert common_characters()[0] == "啊"
    assert common_characters()[-1] == "座"


@pytest.mark.parametrize("name", ["spaces", "zero-width", "punctuation"])
def test_marks_stand_between_characters_alone(name: str, questions: list[str]):
    for question in questions:
        changed = text_of(name, question)
        marks = [a for a in changed if not HAN.match(a)]
        kept = [a for a in question if not HAN.match(a)]
        gaps = sum(bool(HAN.match(a) and HAN.match(b)) for a, b in itertools.pairwise(question))
        assert len(marks) - len(kept) == gaps
        assert [char for char in changed if HAN.match(char)] == [char for char in question if HAN.match(char)]


def test_encodings_by_the_standard_library(questions: list[str]):
    for question in questions:
        assert base64.b64decode(text_of("base64", question).split("\n")[0]).decode() == question
        assert (
            codecs.decode(text_of("hex", question).split("\n")[0].replace(" ", ""), "hex").decode()
            == question
        )
        assert text_of("unicode-escapes", question).startswith(json.dumps(question)[1:-1])


def test_acrostic_and_reversed(questions: list[str]):
    for question in questions:
        lines = text_of("acrostic", question).partition("\n\n（")[0].splitlines()
        assert "".join(line.split("，")[0] for line in lines) == re.sub(r"[\W_]", "", question)
        assert text_of("reversed", question).startswith("".join(reversed(question)))


def test_frames_hold_the_question_as_it_is(questions: list[str]):
    frames = ["role", "fiction", "research", "teacher", "opposite-day", "filter-data", "grammar", "few-shot"]
    frames += ["refusal-suppression", "prefix-demand", "thought-hijack", "exercises-first", "planted-history"]
    for name in frames:
        for question in questions:
            assert text_of(name, question).count(question) == 1, name


def test_code_and_table_are_read_by_python(questions: list[str]):
    for question in [*questions, 'a"b\\n\n"""}{', "x,y"]:
        code = text_of("code", question).split("```python\n")[1].partition("\n\nreply")[0]
        scope: dict[str, str] = {}
        exec(code, scope)
        assert scope["request"] == question
        table = text_of("table", question).split("题目,序号,内容\n")[1]
        assert next(csv.reader(io.StringIO(table, newline=""))) == [question, "1", ""]
        payload = text_of("payload-splitting", question).split("\n\n上面")[0]
        exec(payload, scope)
        assert scope["s"] == question


def test_parts_of_turns_make_the_question():
    question = "怎么给“老同学”写一封道歉信？"
    prompt = get_attack("split-turns").apply(question, seeded(0, "split-turns", "x"))
    users = [turn["content"] for turn in prompt.messages if turn["role"] == "user"]
    assert len(users) == 3
    parts = [re.search("第 . 条：“(.*)”", content, re.DOTALL) for content in users]
    assert "".join(part[1] for part in parts if part) == question


def test_the_long_thought_is_right():
    for line in exercises().splitlines():
        number = int(line.partition("：")[0])
        is_prime = all(number % factor for factor in range(2, number))
        assert line.endswith("是质数。")
        assert ("不是质数" not in line) == is_prime
        if found := re.search(r"= (\d+) × (\d+)", line):
            assert int(found[1]) * int(found[2]) == number
