import random

import numpy as np
import pytest

from safe_r1.corpus.dedup import Clusters, Sketches, find_clusters, keep_best, pick_best
from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.sketches import NUM_PERM, find_shared, join_shared, sketch
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


def sketches_of(prompts: list[str], config: DedupConfig) -> tuple[Sketches, Clusters]:
    table = sketch(prompts, config, find_shared(prompts, config))
    signatures = np.frombuffer(b"".join(table["signature"].to_pylist()), np.uint8).reshape(-1, NUM_PERM)
    found = Sketches(table["exact"].to_numpy(), table["template"].to_numpy(), signatures, config.threshold)
    return found, find_clusters(found, lambda band: table[f"band_{band:02d}"].to_numpy(), config)


def clusters(prompts: list[str], **config) -> Clusters:
    return sketches_of(prompts, DedupConfig(**config))[1]


def kept(prompts: list[str]) -> list[int]:
    """Positions of the rows that deduplication keeps."""
    found, groups = sketches_of(prompts, DedupConfig())
    return np.unique(keep_best(found, groups.near, ())).tolist()


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


def random_texts(count: int, length: int, seed: int = 0) -> list[str]:
    dice = random.Random(seed)
    words = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    return ["".join(dice.choices(words, k=length)) for _ in range(count)]


@pytest.mark.parametrize("where", ["{span}{text}", "{text}{span}", "{span}{text}{span}"])
def test_questions_under_an_instruction_that_all_share_are_told_apart(where: str):
    [span] = random_texts(1, 175, seed=1)
    texts = random_texts(300, 16)
    assert len(kept([where.format(span=span, text=text) for text in texts])) == 300
    # Copies of such questions are found all the same, by what is their own.
    edited = [text[:7] + "改" + text[8:] for text in random_texts(150, 40)]
    originals = random_texts(150, 40)
    left = kept([where.format(span=span, text=text) for text in originals + edited])
    assert len(left) <= 165


@pytest.mark.parametrize(("length", "num_edits"), [(80, 1), (80, 2), (200, 1), (200, 3), (200, 5)])
def test_many_copies_of_one_question_are_no_shared_span(length: int, num_edits: int):
    dice = random.Random(2)
    [text] = random_texts(1, length)
    copies = [text]
    for _ in range(299):
        letters = list(text)
        for place in dice.sample(range(len(letters)), num_edits):
            letters[place] = dice.choice("改换变动")
        copies.append("".join(letters))
    # Edits that lie beside each other may look like a part of the copy's own.
    assert len(kept([*random_texts(100, 60, seed=3), *copies])) <= 190


@pytest.mark.parametrize(
    "template",
    [
        "小明有{}个苹果，妈妈又给了他{}个，他把其中的{}个分给了同学，请问小明现在还剩下多少个苹果？",
        "A farmer has {} cows and {} sheep on his land and sells {} of them, how many are left?",
    ],
)
def test_problems_that_differ_in_numbers_are_all_kept(template: str):
    dice = random.Random(3)
    numbers = {tuple(dice.randrange(10, 10_000) for _ in range(3)) for _ in range(320)}
    problems = [template.format(*each) for each in sorted(numbers)][:300]
    assert len(kept(problems)) == 300
    # The same problem again is none more, in whatever width its digits are.
    wide = problems[7].translate({ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)})
    assert len(kept([*problems, problems[7], wide])) == 300


def test_numbers_in_words_are_numbers():
    zh = [
        f"一个水池装了两根水管，甲管{hours}小时可以注满，乙管{more}小时可以放完，同时开要多久才能注满？"
        for hours, more in (("三", "五"), ("四", "十二"), ("二十三", "九"))
    ]
    en = [
        f"Mary baked {first} cakes and gave {second} of them to Tom, how many cakes has she now?"
        for first, second in (("three", "two"), ("twelve", "five"), ("nine", "one"))
    ]
    assert len(kept(zh + en)) == 6


def test_a_chain_of_small_steps_is_not_one_cluster():
    dice = random.Random(4)
    words = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    letters = dice.choices(words, k=80)
    chain = ["".join(letters)]
    for place in range(0, 80, 2):
        letters[place] = dice.choice(words)
        chain.append("".join(letters))
    left = kept(chain)
    # The first and the last have little in common; each that goes is like one that stays.
    assert 0 in left
    assert 4 <= len(left) <= 15
    found, _ = sketches_of(chain, DedupConfig())
    positions = np.arange(len(chain))
    alike = [found.are_duplicates(np.full(len(chain), each), positions) for each in left]
    assert np.any(alike, axis=0).all()


def test_what_is_kept_in_place_of_a_row_is_a_duplicate_of_it_by_brute_force():
    dice = random.Random(5)
    texts = random_texts(40, 30)
    rows = [
        text[:place] + "改" + text[place + 1 :] if dice.random() < 0.8 else text
        for text in texts * 6
        for place in [dice.randrange(len(text))]
    ]
    found, groups = sketches_of(rows, DedupConfig())
    lengths = -np.array([len(row) + dice.randrange(3) for row in rows])
    best = keep_best(found, groups.near, (lengths,))
    moved = np.flatnonzero(best != np.arange(len(rows)))
    assert len(moved)
    assert found.are_duplicates(best[moved], moved).all()
    assert (best[best] == best).all()
    assert (lengths[best[moved]] <= lengths[moved]).all()


@pytest.mark.parametrize(
    ("language", "count", "own"), [("zh", 300, 6), ("zh", 12, 10), ("en", 40, 8), ("en", 300, 6)]
)
def test_short_questions_and_small_sources_under_one_instruction_are_told_apart(
    language: str, count: int, own: int
):
    dice = random.Random(6)
    if language == "zh":
        [span], texts = random_texts(1, 60, seed=7), random_texts(count, own, seed=8)
    else:
        words = [f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "lmnrt"]
        span = " ".join(dice.choices(words, k=60))
        texts = [" ".join(dice.choices(words, k=own)) for _ in range(count)]
    assert len(kept([f"{span} {text}" for text in texts])) >= 0.99 * count


def test_a_prompt_has_one_sketch_in_every_part_and_source():
    config = DedupConfig()
    [span] = random_texts(1, 100, seed=9)
    many = [f"{span}{text}" for text in random_texts(60, 20, seed=10)]
    few = [*many[:2], *random_texts(10, 40, seed=11)]
    shared = join_shared([find_shared(many, config), find_shared(few, config)])
    first, second = (sketch(rows, config, shared) for rows in (many, few))
    for name in ("exact", "template", "signature"):
        assert first[name][:2].to_pylist() == second[name][:2].to_pylist()
    # However the parts are cut.
    assert sketch(many[:7], config, shared).equals(first.slice(0, 7))


def test_the_same_prompt_is_a_duplicate_however_long_its_chain():
    dice = random.Random(12)
    words = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    letters = dice.choices(words, k=1200)
    chain = ["".join(letters[place : place + 40]) for place in range(900)]
    rows = [*chain, *chain]
    left = kept(rows)
    assert len({rows[place] for place in left}) == len(left)
