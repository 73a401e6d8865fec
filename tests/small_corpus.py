"""A small finished corpus for tests, of the package's own rows, as ``build_corpus`` leaves it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from upath import UPath

from safe_r1.runs import write_table
from safe_r1.schema import CONVERSATION_SCHEMA

SEEDS = Path(__file__).parents[1] / "safe_r1" / "corpus" / "data" / "seeds"


def conversation(name: str, kind: str, *contents: str) -> dict[str, Any]:
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": content}
        for place, content in enumerate(contents)
    ]
    texts = {"language": "zh", "source": "seeds", "source_id": name, "licence": "Apache-2.0"}
    return {
        "row_id": name,
        "messages": turns,
        "kind": kind,
        "area": None,
        "category": None,
        "teacher": None,
        **texts,
    }


def response(row: dict[str, Any]) -> str:
    return f"<think>\n{row['reasoning']}\n</think>\n\n{row['answer']}"


def seed_rows(count: int) -> list[dict[str, Any]]:
    """As many real rows of two kinds each."""
    rows = []
    for kind, file in (("benign-sensitive", "benign_sensitive"), ("reasoning", "reasoning_zh")):
        lines = (SEEDS / f"{file}.jsonl").read_text("utf-8").splitlines()[:count]
        for number, seed in enumerate(map(json.loads, lines)):
            rows.append(conversation(f"{file}/{number}", kind, seed["prompt"], response(seed)))
    return rows


def write_corpus(
    folder: Path, splits: dict[str, list[list[dict[str, Any]]]], schema: pa.Schema = CONVERSATION_SCHEMA
) -> Path:
    """A finished corpus as ``build_corpus`` leaves it."""
    hashes = {}
    for split, shards in splits.items():
        for number, rows in enumerate(shards):
            path = folder / split / f"part-{number:05d}.parquet"
            write_table(UPath(path), pa.Table.from_pylist(rows, schema=schema))
            hashes[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    sizes = {split: sum(map(len, shards)) for split, shards in splits.items()}
    (folder / "corpus.json").write_text(json.dumps({"shards": hashes, "splits": sizes}))
    (folder / "_SUCCESS").touch()
    return folder
