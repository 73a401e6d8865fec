"""datatrove's MinHash removal, one side of the corpus benchmark.

``corpus_datatrove.py PROMPTS FOLDER LANGUAGE``. Its own defaults (14 buckets of 8 hashes), on all cores, with
n-grams of the same units as ours: Chinese prompts are given to its word tokenizer character by character,
since it would find no words in them otherwise.
"""

import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import cast

import xxhash
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
    minhash,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

from safe_r1.corpus.recipe import DedupConfig
from tests.bench.conditions import Conditions, read_conditions

_WORKERS = os.cpu_count() or 1

# Its own hash function passes a str, and xxhash 4 takes bytes only.
minhash.create_hash_func = lambda *args, **kwargs: lambda text: xxhash.xxh64_intdigest(text.encode())


class SplitAtSpaces(WordTokenizer):
    """The fastest possible tokenizer, so that tokenizers are not what is compared."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def main(prompts: str, folder: str, language: str) -> None:
    place = Path(folder)
    started = time.monotonic()
    _divide(Path(prompts), place / "input", language)
    ours = DedupConfig()
    config = MinhashConfig(n_grams=ours.ngram_chars if language == "zh" else ours.ngram_words)
    reader = JsonlReader(str(place / "input"), text_key="text", id_key="id")
    # A tokenizer is taken as well as a language's name; the annotation has the name alone.
    tokenizer = cast(str, SplitAtSpaces())
    signature = MinhashDedupSignature(str(place / "signatures"), config=config, language=tokenizer)
    steps = [
        (_WORKERS, [reader, signature]),
        (
            config.num_buckets,
            [MinhashDedupBuckets(str(place / "signatures"), str(place / "buckets"), config=config)],
        ),
        (1, [MinhashDedupCluster(str(place / "buckets"), str(place / "remove"), config=config)]),
        (_WORKERS, [reader, MinhashDedupFilter(str(place / "remove")), JsonlWriter(str(place / "kept"))]),
    ]
    for number, (tasks, pipeline) in enumerate(steps):
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=_WORKERS, logging_dir=str(place / f"logs-{number}")
        ).run()
    kept: list[int] = []
    for path in (place / "kept").iterdir():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            kept += [int(json.loads(line)["id"]) for line in file]
    seconds = time.monotonic() - started
    result = {"seconds": seconds, "kept": sorted(kept), "conditions": _read_in_worker(place)}
    (place / "result.json").write_text(json.dumps(result), "utf-8")


def _read_in_worker(place: Path) -> Conditions:
    """Conditions of one of its executor's workers."""

    def record(_: object, rank: int, world_size: int) -> None:
        if rank == 0:
            (place / "conditions.json").write_text(json.dumps(read_conditions()), "utf-8")

    logs = str(place / "logs-conditions")
    LocalPipelineExecutor([record], tasks=_WORKERS, workers=_WORKERS, logging_dir=logs).run()
    return json.loads((place / "conditions.json").read_text("utf-8"))


def _divide(prompts: Path, folder: Path, language: str) -> None:
    """Write one input file for each worker."""
    folder.mkdir()
    lines = prompts.read_text("utf-8").splitlines()
    for task in range(_WORKERS):
        with (folder / f"{task}.jsonl").open("w", encoding="utf-8") as file:
            for line in lines[task::_WORKERS]:
                row = json.loads(line)
                text = " ".join(row["prompt"]) if language == "zh" else row["prompt"]
                file.write(json.dumps({"id": str(row["id"]), "text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
