"""Finished runs to a comparison report, in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from upath import UPath

from safe_r1.compare.content import Content, make_content
from safe_r1.compare.differences import MARGIN, compare_all, pairs_of
from safe_r1.compare.flips import find_flips
from safe_r1.compare.load import check_comparable, load_runs
from safe_r1.compare.render import write_report
from safe_r1.errors import ConfigError


@dataclass(frozen=True)
class Outcome:
    """A report that was written."""

    report: UPath
    content: Content


def compare(
    places: Sequence[str], baseline: str, output: str, allow: bool = False, margin: float | None = None
) -> Outcome:
    """Compare finished runs and write the report.

    Args:
        places: Folders that hold them, see ``load_runs``.
        baseline: The variant that every other one is compared with, besides the one that it was made from; of
            several, by commas, the first that was run.
        output: Folder of the report.
        allow: Compare what is not alike, and leave out what is missing; the report says so.
        margin: Loss of pass@1 that counts as none; None for ``MARGIN``.

    Raises:
        ConfigError: The runs cannot be compared; what differs.
        StorageError: A folder holds no finished run, or the report cannot be written.
    """
    margin = MARGIN if margin is None else margin
    if not 0 < margin < 1:
        raise ConfigError(
            f"--margin {margin:g}: expected a share between 0 and 1, e.g. 0.03 for three points"
        )
    runs, problems = load_runs(places, allow)
    variants = {run.variant for run in runs}
    baseline = next((name for name in baseline.split(",") if name in variants), baseline)
    problems += check_comparable(runs, baseline, allow)
    pairs = pairs_of(runs, baseline)
    comparisons = compare_all(runs, pairs, margin)
    folder = UPath(output)
    content = make_content(runs, comparisons, baseline, problems, margin, folder)
    flips = find_flips(runs, [(first, second) for first, second, _ in pairs])
    return Outcome(write_report(folder, content, runs, flips), content)
