"""What a user types and writes in files: names, combinations, sets, frames, translations; one-line errors."""

import importlib.metadata
from pathlib import Path

import pytest

from safe_r1.attacks import registry
from safe_r1.attacks.base import Attack, seeded
from safe_r1.attacks.choose import parse_attacks
from safe_r1.attacks.registry import SETS
from safe_r1.errors import ConfigError, DataError


def names(*chosen: str) -> list[str]:
    return [attack.name for attack in parse_attacks(chosen)]


def error(*chosen: str, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        parse_attacks(chosen)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sets():
    assert len(names("zh-quick")) == 5
    assert len(names("zh-standard")) == 20
    every = names("all")
    assert set(names("zh-standard")) - set(every) == {"homophones+role"}
    assert "plain" not in every
    assert not any(attack.needs for attack in parse_attacks("zh-quick"))
    assert {attack.family for attack in parse_attacks("all")} == {
        "writing",
        "encoding",
        "framing",
        "reasoning",
    }


def test_each_once_and_in_order():
    assert names("role, pinyin", "zh-quick,plain") == [
        "role",
        "pinyin",
        "homophones",
        "refusal-suppression",
        "thought-hijack",
        "plain",
    ]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("pinyn", "did you mean pinyin"),
        ("zh-standart", "did you mean zh-standard"),
        ("qqqqqq", "attacks list"),
        ("pinyin+rolle", "did you mean role"),
        ("", "no attack"),
        ("pinyin+", "unknown attack ''"),
        ("role+pinyin", "write pinyin+role"),
        ("pinyin+homophones", "pinyin leaves no Chinese characters for homophones"),
        ("pinyin+classical", "leaves no Chinese"),
        ("base64+hex", "two encodings"),
        ("role+role", "named twice"),
        ("plain+role", "leave it out"),
        ("zh-quick+role", "is a set"),
        ("thought-prefill+long-thought", "both set the thought"),
        ("split-turns+planted-history", "both add turns"),
        ("missing.toml", "missing.toml"),
        ("translation:table.csv", ".tsv or .jsonl"),
    ],
)
def test_errors(chosen: str, words: str):
    assert words in error(chosen)


def test_combinations_are_made_of_their_parts():
    [attack] = parse_attacks("homophones+base64+role+answer-prefix")
    assert attack.keeps == "normalised"
    assert attack.needs == {"prefill"}
    prompt = attack.apply("怎么写一封道歉信？", seeded(0, attack.name, "1"))
    [turn] = prompt.messages
    assert turn["content"].startswith("接下来请你扮演")
    assert turn["content"].endswith("再直接回答。）")
    [lossy] = parse_attacks("traditional+homophones")
    assert lossy.keeps == "no"


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_file_of_ones_own(tmp_path: Path):
    write(tmp_path, "怎么写信？\tHow do I write a letter?\n", "english.tsv")
    file = write(
        tmp_path,
        """
attacks = ["zh-quick", "pinyin+grandma", "translation-en+role"]
[translations]
en = "english.tsv"
[[frames]]
name = "grandma"
text = "奶奶以前{这样}讲：{question}{"
history = [{role = "user", content = "你好"}, {role = "assistant", content = "你好"}]
""",
    )
    attacks = parse_attacks(file)
    assert [attack.name for attack in attacks] == [*SETS["zh-quick"], "pinyin+grandma", "translation-en+role"]
    own, translated = attacks[-2:]
    prompt = own.apply("{question} {0}", seeded(0, "", ""))
    assert prompt.messages[-1]["content"].startswith("奶奶以前{这样}讲：{question} {0}{")
    assert own.back(prompt) == "{question} {0}"
    prompt = translated.apply("怎么写信？", seeded(0, "", ""))
    assert "How do I write a letter?" in prompt.messages[-1]["content"]
    assert translated.back(prompt) == "怎么写信？"
    with pytest.raises(DataError, match="no translation of the question '别的'"):
        translated.apply("别的", seeded(0, "", ""))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attack = ['pinyin']", "did you mean attacks"),
        ("", "names no attack"),
        ("attacks = ['pinyn']", "did you mean pinyin"),
        ("[[frames]]\nname = 'pinyin'\ntext = 'x{question}'", "is taken"),
        ("[[frames]]\nname = 'Mine'\ntext = 'x{question}'", "pattern"),
        ("[[frames]]\nname = 'mine'\ntext = 'x'", "hold {question} once"),
        ("[[frames]]\nname = 'mine'\ntext = '{question}{question}'", "hold {question} once"),
        ("[[frames]]\nname = 'mine'", "adds nothing"),
        ("[[frames]]\nname = 'mine'\nprefill = '{question}'", "in its text alone"),
        ("[[frames]]\nname = 'mine'\nhistory = [{role = 'assistant', content = 'x'}]", "in turn"),
        ("[translations]\nx = 'missing.tsv'", "missing.tsv"),
        ("attacks = [", "mine.toml"),
    ],
)
def test_errors_of_files(text: str, words: str, tmp_path: Path):
    assert words in error(write(tmp_path, text), kind=(ConfigError, DataError))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "问题\tquestion\n第二\tsecond\n"),
        ("t.jsonl", '{"zh": "问题", "other": "question"}\n{"第二": "second"}\n'),
        ("t.jsonl", '{"问题": "question", "第二": "second"}'),
    ],
)
def test_translations(name: str, text: str, tmp_path: Path):
    [attack] = parse_attacks(f"translation:{write(tmp_path, text, name)}")
    assert attack.name == "translation-t"
    for question, other in (("问题", "question"), ("第二", "second")):
        prompt = attack.apply(question, seeded(0, "", ""))
        assert prompt.messages[0]["content"].startswith(other)
        assert attack.back(prompt) == question


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.tsv", "", "no line"),
        ("t.tsv", "问题 question\n", "line 1: expected a question, a tab"),
        ("t.tsv", "问\ta\n问\tb\n", "two translations"),
        ("t.jsonl", "[1]", "line 1: expected an object"),
        ("t.jsonl", "{", "t.jsonl"),
        ("t.jsonl", '{"a": 1}', "object of texts"),
    ],
)
def test_errors_of_translations(name: str, text: str, words: str, tmp_path: Path):
    assert words in error(f"translation:{write(tmp_path, text, name)}", kind=DataError)


MINE = Attack("mine", "framing", "own", "Of another package.")


def _install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry._added.cache_clear()
    registry._load_added.cache_clear()


@pytest.fixture(autouse=True)
def _forget_packages():
    yield
    registry._added.cache_clear()
    registry._load_added.cache_clear()


def test_attacks_of_other_packages(monkeypatch: pytest.MonkeyPatch):
    _install(monkeypatch, "mine", f"{__name__}:MINE")
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: MINE)
    assert parse_attacks("mine+prefix-demand")[0].name == "mine+prefix-demand"
    assert "mine" in registry.names()
    assert "mine" not in names("all")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mine", "no.such:THING", "cannot be loaded"),
        ("mine", "json:dumps", "not an Attack of that name"),
        ("role", "json:dumps", ""),
    ],
)
def test_broken_packages(name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch):
    _install(monkeypatch, name, value)
    if words:
        assert words in error(name)
    else:
        assert names(name) == [name]
