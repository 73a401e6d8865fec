import random

import numpy as np
import pytest

from safe_r1.corpus.dedup import NUM_PERM, Clusters, find_clusters, pick_best, sketch
from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.text import ngrams, units
from safe_r1.language import Language

ZH = (
    "在一家公司里，经理认为女员工结婚之后就会分心，于是只把重要的项目交给男员工，"
    "请问这样的安排合理吗，为什么会有人这样想？"
)
EN = (
    "Natalia sold clips to forty eight of her friends in April "
    "and then she sold half as many clips in May to the same people"
)


def clusters(prompts: list[str], **config) -> Clusters:
    table = sketch(prompts, DedupConfig(**config))
    signatures = np.frombuffer(b"".join(table["signature"].to_pylist()), np.uint8).reshape(-1, NUM_PERM)
    return find_clusters(
        table["exact"].to_numpy(),
        signatures,
        lambda band: table[f"band_{band:02d}"].to_numpy(),
        DedupConfig(**config),
    )


def same(groups: np.ndarray, left: int, right: int) -> bool:
    return bool(groups[left] == groups[right])


def test_width_case_and_punctuation_make_no_other_prompt():
    found = clusters(
        [ZH, ZH.replace("，", ", ").replace("？", "?"), EN, EN.upper() + "!", "另一个完全不同的问题"]
    )
    assert same(found.exact, 0, 1)
    assert same(found.exact, 2, 3)
    assert len(set(found.near.tolist())) == 3


def test_small_edits_are_near_and_not_exact():
    found = clusters([ZH, ZH.replace("经理", "老板"), EN, EN.replace("Natalia", "Maria"), ZH[::-1]])
    assert same(found.near, 0, 1)
    assert not same(found.exact, 0, 1)
    assert same(found.near, 2, 3)
    assert not same(found.near, 0, 4)


def test_prompts_without_words_are_kept_apart():
    found = clusters(["！！！", "？？？", "👍", "👍", ""])
    assert len(set(found.exact.tolist())) == 4
    assert same(found.exact, 2, 3)


def test_recall_of_planted_edits_and_precision():
    dice = random.Random(0)
    words = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    originals = ["".join(dice.choices(words, k=60)) for _ in range(300)]
    edited = [text[:20] + "改" + text[22:40] + text[41:] for text in originals]
    found = clusters(originals + edited)
    hits = sum(same(found.near, i, 300 + i) for i in range(300))
    assert hits >= 285  # their similarity is about 0.75, estimated with a deviation of 0.04
    assert len(set(found.near[:300].tolist())) == 300


def test_related_rows_are_more_than_duplicates():
    half = ZH[:40] + "，而且公司还规定她们不能休产假，你支持吗？"
    found = clusters([ZH, half], threshold=0.9, family_threshold=0.4)
    assert not same(found.near, 0, 1)
    assert same(found.related, 0, 1)


def test_the_best_of_a_cluster_is_kept():
    groups = np.array([7, 3, 7, 3, 9])
    needs_teacher = np.array([True, False, False, False, True])
    source = np.array([0, 1, 2, 1, 0])
    assert pick_best(groups, (needs_teacher, source)).tolist() == [2, 1, 2, 1, 4]
    assert pick_best(np.zeros(0, np.int64), ()).tolist() == []


@pytest.mark.parametrize(("text", "language"), [("一二三", "zh"), ("one two three", "en")])
def test_ngrams_follow_characters_or_words(text: str, language: Language):
    hashes = units(text, language)
    assert len(hashes) == 3
    assert len(ngrams(hashes, 2)) == 2
    assert len(ngrams(hashes, 10)) == 1


def test_a_text_is_read_in_both_ways():
    mixed = "请解释How do I cook rice这句话"
    assert units(mixed, "en").tolist() == units("How do I cook rice", "en").tolist()
    assert units(mixed, "zh").tolist()[:3] == units("请解释", "zh").tolist()
    assert not len(units("How do I cook rice", "zh"))
    assert not len(units("请解释", "en"))


def test_traditional_characters_count_as_simplified_ones():
    assert (
        units("請問這種做法屬於哪一類歧視", "zh").tolist()
        == units("请问这种做法属于哪一类歧视", "zh").tolist()
    )
    rows = sketch(["請問這種做法屬於哪一類歧視？", "请问这种做法属于哪一类歧视"], DedupConfig())
    assert rows["exact"][0] == rows["exact"][1]


def test_hashes_are_the_same_on_every_machine():
    assert units("歧视 ABC，世界", "zh").tolist()[:1] == units("歧", "zh").tolist()
    assert int(units("word", "en")[0]) == int(units("WORD!", "en")[0])
    assert int(ngrams(units("平等对待", "zh"), 4)[0]) == 7170323829592092993
