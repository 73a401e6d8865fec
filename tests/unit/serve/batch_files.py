"""Input files of batches."""

import json
from pathlib import Path
from typing import Any

from safe_r1.serve.store import BatchStore

URL = "/v1/safety/evaluate"


def make_line(custom_id: Any, body: Any = None, **fields: Any) -> str:
    """One request of a batch, valid unless the arguments say otherwise."""
    row = {
        "custom_id": custom_id,
        "method": "POST",
        "url": URL,
        "body": {"items": [{"prompt": "x"}]} if body is None else body,
    }
    return json.dumps(row | fields)


def make_content(*lines: str) -> bytes:
    """An input file of these lines."""
    return ("\n".join(lines) + "\n").encode()


def make_batch(folder: Path, *custom_ids: str) -> tuple[BatchStore, str]:
    """A batch of the owner ``a`` with these requests."""
    store = BatchStore(str(folder))
    file = store.put_file("a", "in.jsonl", make_content(*map(make_line, custom_ids)))
    return store, store.create_batch("a", file["id"], URL, None)["id"]
