"""Command line and results file of a benchmark: one JSON file with settings, versions and hardware."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safe_r1.inference.engine_process import KV_CACHE_VARIABLE
from safe_r1.provenance import hardware, now, versions


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser with the flags that all benchmarks share.

    Args:
        description: The module's docstring.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the results")
    parser.add_argument(
        "--smoke", action="store_true", help="smallest size, to test the benchmark; its figures mean nothing"
    )
    return parser


def parse(parser: argparse.ArgumentParser, **smallest: object) -> argparse.Namespace:
    """Parse the command line.

    Args:
        parser: From ``make_parser``, with the benchmark's own flags.
        smallest: Values of flags under ``--smoke``.
    """
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(smallest)
    return args


def begin(
    args: argparse.Namespace, *packages: str, conditions: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Head of the results; it is printed as well.

    Args:
        args: The settings.
        packages: Further packages whose versions count, those of the other side.
        conditions: What both sides of the comparison have in common: threads, flags, prompts, sampling.
    """
    args.output.mkdir(parents=True, exist_ok=True)
    # This project's engines ignore it: without it, all sides have the cache of the settings.
    os.environ.pop(KV_CACHE_VARIABLE, None)
    results: dict[str, object] = {
        "started_at": now(),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
        },
        "versions": versions() | versions(packages),
        "hardware": hardware(),
    }
    if conditions:
        results["conditions"] = dict(conditions)
        show("conditions of both sides", conditions)
    return results


def show(part: str, result: object) -> None:
    """Print a result while the rest still runs."""
    print(f"bench: {part}: {json.dumps(result, ensure_ascii=False)}", flush=True)


def write(results: Mapping[str, object], output: Path, name: str, logs: Path) -> Path:
    """Write the results file and return its path."""
    path = output / f"bench-{name}-{str(results['started_at'])[:19].replace(':', '')}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"bench: results in {path}; logs in {logs}", flush=True)
    return path
