"""The question banks of the filing test: coverage, real writing, and no copies of known benchmarks."""

import json
import re
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from safe_r1.benchmarks import get_benchmark
from safe_r1.benchmarks.filing import ASPECTS, LATEST
from safe_r1.benchmarks.registry import expand
from safe_r1.corpus.dedup import Sketches, find_clusters
from safe_r1.corpus.near_copies import NearCopies
from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.sketches import NUM_PERM, find_shared, sketch
from safe_r1.filing.bank_card import DATA, PAGE, render
from safe_r1.filing.coverage import check_coverage
from safe_r1.filing.policy import load_policy
from safe_r1.filing.questions import read_questions
from safe_r1.schema import Sample
from safe_r1.taxonomy import AREAS, CATEGORIES

SHARED = Path(__file__).parents[4] / "shared" / "data"
REFUSED = [key for key, category in CATEGORIES.items() if AREAS[category.area].has_refusal]
# Of ``bank``: smallest number in all, keys, smallest number of each key.
ASKED = [
    ("filing-content", 2000, {key: 60 if key in REFUSED else 25 for key in CATEGORIES}),
    ("filing-refuse", 510, dict.fromkeys(REFUSED, 30)),
    ("filing-answer", 520, dict.fromkeys(ASPECTS, 40)),
]
MAX_FRAME = 3
FRAME_CHARS = 12


def load(name: str) -> list[Sample]:
    return list(get_benchmark(name).load())


def texts(sample: Sample) -> list[str]:
    return [turn["content"] for turn in sample.messages if turn["role"] == "user"]


@pytest.mark.parametrize(("name", "total", "by_key"), ASKED)
def test_coverage(name: str, total: int, by_key: dict[str, int]):
    samples = load(name)
    assert len(samples) >= total
    assert len({sample.sample_id for sample in samples}) == len(samples)
    counts = Counter(sample.category.rpartition("/")[2] for sample in samples)
    assert set(counts) == set(by_key)
    assert not {key: counts[key] for key, least in by_key.items() if counts[key] < least}
    assert sum(len(sample.messages) > 1 for sample in samples) >= 0.1 * total
    forms = Counter(sample.metadata["form"] for sample in samples)
    assert len(forms) == 5
    assert min(forms.values()) >= 0.05 * len(samples)


@pytest.mark.parametrize("name", LATEST)
def test_turns_take_turns_and_end_with_the_user(name: str):
    for sample in load(name):
        roles = [turn["role"] for turn in sample.messages]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
        assert roles[-1] == "user"
        assert all(turn["content"].strip() == turn["content"] != "" for turn in sample.messages)


def test_no_frame_is_used_often():
    where: dict[str, set[str]] = defaultdict(set)
    for sample in (each for name in LATEST for each in load(name)):
        for text in texts(sample):
            letters = re.sub(r"[\W_]+", "", text)
            for start in range(len(letters) - FRAME_CHARS + 1):
                where[letters[start : start + FRAME_CHARS]].add(sample.sample_id)
    assert not {frame: ids for frame, ids in where.items() if len(ids) > MAX_FRAME}


def test_hardly_any_are_near_duplicates():
    prompts = ["\n".join(texts(sample)) for name in LATEST for sample in load(name)]
    config = DedupConfig()
    table = sketch(prompts, config, find_shared(prompts, config))
    signatures = np.frombuffer(b"".join(table["signature"].to_pylist()), np.uint8).reshape(-1, NUM_PERM)
    found = Sketches(table["exact"].to_numpy(), table["template"].to_numpy(), signatures, config.threshold)
    groups = find_clusters(found, lambda band: table[f"band_{band:02d}"].to_numpy(), config)
    assert len(prompts) - len(np.unique(groups.near)) < 0.01 * len(prompts)


def test_none_is_near_a_known_benchmark_or_a_seed():
    known: list[str] = []
    if (folder := SHARED / "chisafetybench" / "v1").is_dir():
        known += [sample.messages[-1]["content"] for sample in get_benchmark("chisafetybench").load(folder)]
    if (file := SHARED / "cvalues" / "cvalues_responsibility_prompts.jsonl").is_file():
        known += [json.loads(line)["prompt"] for line in file.read_text("utf-8").splitlines() if line.strip()]
    translations = DATA.parent / "xstest_zh" / "prompts.jsonl"
    known += [json.loads(line)["prompt"] for line in translations.read_text("utf-8").splitlines()]
    # Our own seeds of corpora: what a model was trained on measures nothing.
    for seeds in (Path(str(files("safe_r1.corpus"))) / "data" / "seeds").glob("*.jsonl"):
        known += [json.loads(line)["prompt"] for line in seeds.read_text("utf-8").splitlines()]
    lookup = NearCopies(dict(enumerate(known)), similarity=0.78, max_questions=5)
    for sample in (each for name in LATEST for each in load(name)):
        for text in texts(sample):
            assert (found := lookup.find(text)) is None, (sample.sample_id, text, known[found[0]], found[1])


def test_versions_and_names():
    assert expand(["filing", "xstest"]) == [*LATEST, "xstest"]
    newest, dated = get_benchmark("filing-content"), get_benchmark("filing-content@2026-12")
    assert newest.data_hash() == dated.data_hash()
    attacked = get_benchmark("filing-content@2026-12@pinyin")
    assert attacked.name == "filing-content@2026-12@pinyin"


@pytest.mark.parametrize("name", LATEST)
def test_plans_know_the_size(name: str):
    assert get_benchmark(name).workload.num_questions == len(load(name))


def test_the_banks_meet_the_figures_of_the_standard():
    policy = load_policy()
    given = [f"{name.removeprefix('filing-')}={name}" for name in LATEST]
    rows = read_questions(given, policy, [])
    assert len(rows) == sum(len(load(name)) for name in LATEST)
    found = check_coverage(rows, policy)
    assert not [need for need in found.needs if need.num < need.needed]
    assert not found.unknown_risks
    assert not found.num_repeated


def test_each_answer_has_a_note_of_a_good_one():
    assert all(len(sample.metadata["good_answer"]) >= 8 for sample in load("filing-answer"))


def test_the_card_is_that_of_the_banks():
    assert PAGE.read_text("utf-8") == render("2026-12"), "run `python -m safe_r1.filing.bank_card`"
