"""Where a benchmark's figures go: one JSON file with what ran, when, in which versions, on what machine."""

import argparse
import json
from pathlib import Path
from typing import Any

from safe_r1.provenance import hardware, now, versions


def begin(args: argparse.Namespace, *others: str) -> dict[str, Any]:
    """The head of the results; ``others`` are packages of the other side."""
    args.output.mkdir(parents=True, exist_ok=True)
    return {
        "started_at": now(),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
        },
        "versions": versions() | versions(others),
        "hardware": hardware(),
    }


def show(part: str, result: Any) -> None:
    """A line of its own while the rest still runs."""
    print(f"bench: {part}: {json.dumps(result)}", flush=True)


def write(results: dict[str, Any], output: Path, name: str, logs: Path) -> Path:
    """Give the place of the file."""
    path = output / f"bench-{name}-{results['started_at'][:19].replace(':', '')}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"bench: results in {path}; logs in {logs}", flush=True)
    return path
