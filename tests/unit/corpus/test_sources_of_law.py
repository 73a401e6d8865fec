"""Laws and hotlines in the policy cards and seed texts: each has a source, and no unchecked number."""

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import pytest

from safe_r1.policies import LawSource, load_cards, load_sources

SOURCES = load_sources()
LAWS = {name: source for name, source in SOURCES.items() if source.kind == "law"}
HOTLINES = {name: source for name, source in SOURCES.items() if source.kind == "hotline"}
# Ends of the names of laws; titles of books and films end otherwise.
LAW_NAME = re.compile(r"《([^《》]*(?:法|法典|宪法大纲|条例|办法|规定|反垄断指南|修正案)(?:（[^《》]*）)?)》")
DIGITS = "〇零一二三四五六七八九十百千两0-9"
# "第三条", "电商法三十五条", "第二百五十三条之一", and the second part of "第一条到三条".
ARTICLE = re.compile(rf"(?:第|(?<=法)|(?<=[条][、至到和及]))([{DIGITS}]+)条(之[{DIGITS}]+)?")
PARAGRAPH = re.compile(rf"第[{DIGITS}]+款")
# Numbers that change or that were not checked; 110, 119 and 120 are in the sources where they are named.
KNOWN_HOTLINES = (
    r"12110|12308|12309|12315|12318|12320|12321|12333|12337|12338|12339|12345|12348|12351|12355|12356|"
    r"12360|12363|12366|12367|12377|12378|12380|12385|12386|12388|12389|12390|12393|12395|95598|96110|96119"
)
HOTLINE_NUMBER = re.compile(rf"(?<!\d)(?:{KNOWN_HOTLINES})(?!\d)")
CALLED_NUMBER = re.compile(
    r"(?:拨打?|热线|电话|致电)[^\d，。；！？、]{0,4}(?<!\d)([\d-]{4,})|(?<!\d)(\d{4,6})[^\d，。；！？]{0,8}热线"
)
EMERGENCY = re.compile(r"(?<![\d/＝×])(?:110|119|120)(?=[，。、；：！？）”并或报说和]|$)")


@dataclass(frozen=True)
class Article:
    """An article number in a text, with the name of the law that is nearest before it."""

    law: str | None
    number: str


def strings(tree: object) -> Iterator[str]:
    """All strings of a tree but identifiers."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key not in ("id", "category"):
                yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)


def read_texts() -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for key in load_cards():
        path = files("safe_r1").joinpath("data", "policies", f"{key}.toml")
        texts[path.name] = list(strings(tomllib.loads(path.read_text("utf-8"))))
    for path in files("safe_r1.corpus").joinpath("data", "seeds").iterdir():
        if path.name.endswith(".jsonl"):
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            texts[path.name] = list(strings(rows))
    return texts


TEXTS = read_texts()
EVERYTHING = [text for texts in TEXTS.values() for text in texts]


def named_laws(text: str) -> set[str]:
    return {f"《{name.removeprefix('中华人民共和国')}》" for name in LAW_NAME.findall(text)}


def named_articles(text: str) -> list[Article]:
    """The articles of a text; also of laws that are named without 《》."""
    # The longest of the names that end at the same place: not 劳动法 of another law's longer name.
    names = sorted((name.strip("《》") for name in LAWS), key=len, reverse=True)
    mentions = list(re.finditer("|".join(map(re.escape, names)), text))
    articles = []
    for found in ARTICLE.finditer(text):
        before = [mention.group() for mention in mentions if mention.end() <= found.start()]
        number = f"第{found[1]}条{found[2] or ''}"
        articles.append(Article(f"《{before[-1]}》" if before else None, number))
    return articles


def unchecked_numbers(text: str) -> list[str]:
    """The numbers in a text that its sources do not allow."""
    wrong = []
    for article in named_articles(text):
        source = LAWS.get(article.law or "")
        if source is None or not source.checked or article.number not in source.articles:
            wrong.append(f"{article.law}{article.number}")
    if PARAGRAPH.search(text) and not ARTICLE.search(text):
        wrong.append("a paragraph without its article")
    wrong += HOTLINE_NUMBER.findall(text)
    wrong += [found.group() for found in CALLED_NUMBER.finditer(text)]
    wrong += [number for number in EMERGENCY.findall(text) if number not in HOTLINES]
    return wrong


def test_every_law_has_a_source():
    named = set().union(*map(named_laws, EVERYTHING))
    assert named - set(LAWS) == set()


def test_every_hotline_has_a_source():
    allowed = (*HOTLINES, "求助热线")
    for text in EVERYTHING:
        for found in re.finditer("热线", text):
            assert text[: found.end()].endswith(allowed), text[max(0, found.start() - 12) : found.end()]


@pytest.mark.slow
def test_nothing_has_a_source_that_is_not_named():
    everything = "\n".join(EVERYTHING)
    laws = set().union(*map(named_laws, EVERYTHING))
    assert set(LAWS) - laws == set()
    assert [name for name in HOTLINES if not re.search(rf"(?<!\d){name}(?!\d)", everything)] == []
    articles: defaultdict[str, set[str]] = defaultdict(set)
    for text in EVERYTHING:
        for article in named_articles(text):
            articles[article.law or ""].add(article.number)
    assert {name: set(source.articles) for name, source in LAWS.items() if source.articles} == articles


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_number_that_was_not_checked(name: str):
    assert {text: wrong for text in TEXTS[name] if (wrong := unchecked_numbers(text))} == {}


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_a_source_is_whole(source: LawSource):
    assert source.kind in ("law", "hotline")
    assert source.name.startswith("《") is (source.kind == "law")
    assert source.issuer
    assert source.published
    assert bool(source.evidence) is source.checked, "checked entries have evidence, and only these"
    assert source.checked or not source.articles
    assert len(set(source.articles)) == len(source.articles)
    assert all(ARTICLE.fullmatch(article) for article in source.articles)
    assert source.checked or not re.search(r"\d", source.name)
    assert "//" not in source.evidence + source.published


@pytest.mark.parametrize(
    "text",
    [
        "《劳动法》第四十六条规定同工同酬。",
        "按照《刑法》第二百一十九条，这是犯罪。",
        "《刑法》第二百五十三条之九规定了此罪。",
        "电子商务法第三十五条有规定。",
        "《电子商务法》三十五条和电子商务法三十五条。",
        "《民法典》第三条到第一千二百五十四条。",
        "条文第三条写明了这一点。",
        "依照第一款处罚。",
        "可以拨打12333咨询。",
        "12355青少年服务热线。",
        "请拨打 4001234 反映。",
        "举报电话是12390。",
        "可拨全球领保热线+86-10-12308。",
        "可拨打119。",
        "登录www.12339.gov.cn举报。",
    ],
)
def test_an_unchecked_number_is_found(text: str):
    assert unchecked_numbers(text)


@pytest.mark.parametrize(
    "text",
    [
        "《中华人民共和国宪法》第三十三条规定平等，第三十八条保护人格尊严。",
        "劳动法第十二条和就业促进法都禁止歧视。",
        "《民法典》第一千零一十八条到一千零二十条。",
        "《刑法》第一百零五条第一款。",
        "有三条路，前两条不通。",
        "请立即拨打110或120。",
        "血压180/110以上，距离120千米，路长23456米，打了2000次。",
        "《劳动法》规定，劳动者就业不受歧视。",
        "可以拨打当地的心理援助热线。",
    ],
)
def test_what_was_checked_or_is_no_number_is_allowed(text: str):
    assert unchecked_numbers(text) == []
