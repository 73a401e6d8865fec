import hashlib
import json
import random
from collections import Counter

import pytest

from safe_r1.benchmarks import get_benchmark
from safe_r1.benchmarks.options import MCQ_INSTRUCTION, prompt_with_options
from safe_r1.benchmarks.sample_table import SampleTable
from safe_r1.benchmarks.selection import select
from safe_r1.schema import Message, Sample, Task


@pytest.fixture(scope="module")
def samples():
    return get_benchmark("chisafetybench-sample").load()


def test_a_limit_is_met_exactly_and_in_order(samples):
    order = [sample.sample_id for sample in samples]
    for limit in (1, 7, 60, len(samples)):
        chosen = [sample.sample_id for sample in select(samples, limit, 0, False)]
        assert len(chosen) == limit
        assert chosen == sorted(chosen, key=order.index)


def test_strata_keep_their_shares(samples):
    chosen = select(samples, 59, 0, False)
    for task, number in Counter(sample.task for sample in samples).items():
        assert abs(sum(sample.task == task for sample in chosen) - number * 59 / len(samples)) <= 6
    assert len({sample.category for sample in chosen}) >= 25


def test_a_small_limit_holds_some_of_each_group(samples):
    def groups(limit: int) -> Counter[tuple[str, str]]:
        return Counter(
            (s.task, s.metadata.get("has_history", "false")) for s in select(samples, limit, 0, False)
        )

    assert len(groups(3)) == 3
    assert groups(8) == {("mcq", "false"): 5, ("refusal", "false"): 2, ("refusal", "true"): 1}


def test_the_draw_follows_its_seed(samples):
    assert select(samples, 20, 1, False) == select(samples, 20, 1, False)
    assert select(samples, 20, 1, False) != select(samples, 20, 2, False)


def test_swapped_forms_come_on_top(samples):
    chosen = select(samples, 30, 0, True)
    swapped = [sample for sample in chosen if "swap_of" in sample.metadata]
    assert len(chosen) == 30 + len(swapped)
    assert len(swapped) == sum(sample.task == "mcq" for sample in chosen) / 2


def generated(count: int, seed: int) -> list[Sample]:
    """Samples of all tasks in categories of very different sizes."""
    rng = random.Random(seed)
    samples: list[Sample] = []
    tasks: tuple[Task, ...] = ("mcq", "refusal", "over_refusal", "math")
    for number in range(count):
        task = rng.choices(tasks, (5, 8, 2, 1))[0]
        options = {"A": f"甲{number}", "B": "乙", "C": "丙"} if task == "mcq" else {}
        text = (
            prompt_with_options(f"第{number}题？", options, MCQ_INSTRUCTION) if options else f"第{number}题？"
        )
        metadata = {"has_history": rng.choice(("true", "false"))} | ({"answer": "A"} if options else {})
        category = f"c{int(rng.paretovariate(0.8)) % 40}"
        turns = [Message(role="user", content=text)]
        samples.append(Sample(f"q/{task}/{number}", "q", task, "a", category, turns, options, metadata))
    return samples


# SHA-256 over the ids that were chosen before samples could lie on the disk, 16 hexadecimal digits.
CHOSEN: dict[tuple[int, int | None, bool], str] = {
    (7, None, False): "fd70495a0bb84e29",
    (7, None, True): "a62b9a34e36240c6",
    (7, 1, False): "48df494f36ce1200",
    (7, 1, True): "48df494f36ce1200",
    (7, 5, False): "26c5f4a5cbf32d3a",
    (7, 5, True): "474f939dc18a6961",
    (7, 40, False): "fd70495a0bb84e29",
    (7, 40, True): "a62b9a34e36240c6",
    (7, 299, False): "fd70495a0bb84e29",
    (7, 299, True): "a62b9a34e36240c6",
    (7, 1000, False): "fd70495a0bb84e29",
    (7, 1000, True): "a62b9a34e36240c6",
    (300, None, False): "e263d7e3f575ced9",
    (300, None, True): "9fd36d790ff0dae8",
    (300, 1, False): "54aa103e187f6915",
    (300, 1, True): "54aa103e187f6915",
    (300, 5, False): "d5fa682e0ec7ab99",
    (300, 5, True): "3c8914e396a8fe76",
    (300, 40, False): "cf660604d538be4e",
    (300, 40, True): "4831681c2796a2e4",
    (300, 299, False): "75cef27a4e1b415c",
    (300, 299, True): "ec4a6615d50ab70e",
    (300, 1000, False): "e263d7e3f575ced9",
    (300, 1000, True): "9fd36d790ff0dae8",
    (3000, None, False): "7220f5f40fdfbf65",
    (3000, None, True): "67940dc6b83118b8",
    (3000, 1, False): "ea90b81e5a93914f",
    (3000, 1, True): "ea90b81e5a93914f",
    (3000, 5, False): "fc3c0bac8427722f",
    (3000, 5, True): "81556ae493240fc8",
    (3000, 40, False): "6e6285eb28bcb0d2",
    (3000, 40, True): "b911e8f88f1210aa",
    (3000, 299, False): "f882016d9da84e7b",
    (3000, 299, True): "80dc0b7926c94d29",
    (3000, 1000, False): "bc34e89468311133",
    (3000, 1000, True): "dbc41c7a5f2e0244",
}


@pytest.mark.slow
@pytest.mark.parametrize(("count", "seed"), [(7, 0), (300, 1), (3000, 2)])
@pytest.mark.parametrize("limit", [None, 1, 5, 40, 299, 1000])
@pytest.mark.parametrize("swap", [False, True])
def test_the_choice_is_the_same_wherever_samples_lie(count: int, seed: int, limit: int | None, swap: bool):
    samples = generated(count, seed)
    chosen = select(samples, limit, seed, swap)
    ids = json.dumps([sample.sample_id for sample in chosen])
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == CHOSEN[count, limit, swap]
    of_table = select(SampleTable.spool(samples), limit, seed, swap)
    assert len(of_table) == len(chosen)
    assert list(of_table) == chosen
    assert of_table[-1] == chosen[-1]
    assert of_table[2:9:3] == chosen[2:9:3]
