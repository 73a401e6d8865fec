"""Seconds in which 10,000 questions are written by all attacks, on one core.

Usage: ``python -m tests.bench.attacks``. All questions differ, so that none is remembered. The aim is 10 s.
"""

import json
import random
import time
from importlib.resources import files
from pathlib import Path
from tempfile import gettempdir

import pyarrow as pa

from safe_r1.attacks.apply import attack_table
from safe_r1.attacks.choose import parse_attacks
from safe_r1.schema import SAMPLE_SCHEMA, Message, Sample
from tests.bench.results import begin, make_parser, parse, show, write

AIM_S = 10.0
_BATCH = 1000


def questions(count: int) -> list[str]:
    """Different questions of about 32 characters, as long as CHiSafetyBench's: two harmless ones, joined."""
    lines = files("safe_r1.benchmarks").joinpath("data/xstest_zh/prompts.jsonl").read_text(encoding="utf-8")
    prompts = [json.loads(line)["prompt"] for line in lines.splitlines()]
    draw = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw.choice(prompts) + draw.choice(prompts)] = None
    return list(found)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--attacks", default="all", help="attacks by name")
    args = parse(parser, questions=200)
    results = begin(args, "opencc", "pypinyin")
    attacks = parse_attacks(args.attacks)
    rows = [
        Sample(
            f"bench/{number}", "bench", "refusal", "a", "a/b", [Message(role="user", content=text)]
        ).to_row()
        for number, text in enumerate(questions(args.questions))
    ]
    samples = pa.Table.from_pylist(rows, SAMPLE_SCHEMA)
    started = time.perf_counter()
    cpu_started = time.process_time()
    num_prompts = 0
    for start in range(0, samples.num_rows, _BATCH):
        num_prompts += attack_table(samples.slice(start, _BATCH), attacks, 0).num_rows
    found = {
        "num_prompts": num_prompts,
        "wall_s": round(time.perf_counter() - started, 2),
        "cpu_s": round(time.process_time() - cpu_started, 2),
        "aim_s": AIM_S,
    }
    show(f"{args.questions:,} questions by {len(attacks)} attacks", found)
    write({**results, "attacks": found}, args.output, "attacks", Path(gettempdir()))


if __name__ == "__main__":
    main()
