"""``python -m safe_r1.selfcheck --role serving``: imports all that the role's jobs import.

Needs no GPU, no network and no Ray. Exit codes: 0 all of it imports, 2 something does not.
"""

import time
from typing import Annotated

import typer

from safe_r1.errors import ConfigError
from safe_r1.selfcheck.check import Report, check_imports, versions_of
from safe_r1.selfcheck.roles import Role, imports_of_role

_OWN = ("safe_r1", "ray_jobs")


def main(role: Annotated[Role, typer.Option(help="Whose jobs' imports are checked.")] = "all") -> None:
    """Import every module that the jobs of a role import, and name those that do not import."""
    start = time.monotonic()
    report = check_imports(imports_of_role(role), own=_OWN)
    _show(report)
    print(
        f"selfcheck {role}: {sum(report.counts.values())} imports of {len(report.counts)} packages, "
        f"{len(report.absent)} optional absent, {len(report.failures)} failed "
        f"({time.monotonic() - start:.0f} s)"
    )
    if report.failures:
        raise typer.Exit(ConfigError.exit_code)


def _show(report: Report) -> None:
    versions = versions_of(report.counts)
    for package, count in sorted(report.counts.items()):
        print(f"  ok      {package} {versions[package]}: {count} imports")
    for failure in report.absent:
        print(f"  absent  {failure}")
    for failure in report.failures:
        print(f"  FAILED  {failure}")


if __name__ == "__main__":
    typer.run(main)
