"""Imports what was found, and tells what does not import."""

import importlib
import math
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata

from safe_r1.selfcheck.source import Import


@dataclass
class Failure:
    """An error, and every import that ends in it.

    Attributes:
        error: Type and message, one line.
        imports: The first is the one that is named: the nearest to the error, as a library that imports the
            broken one fails too.
        calls: From the first to the error.
    """

    error: str
    imports: list[Import] = field(default_factory=list)
    calls: float = math.inf

    def add(self, each: Import, error: Exception) -> None:
        """Note one more import that ends in this error."""
        calls = sum(1 for _ in traceback.walk_tb(error.__traceback__))
        self.imports.insert(0 if calls < self.calls else len(self.imports), each)
        self.calls = min(calls, self.calls)

    def __str__(self) -> str:
        first, *others = self.imports
        name = f"{first.module}.{first.name}" if first.name else first.module
        more = f", and {len(others)} more imports end in it" if others else ""
        return f"{name}: {self.error}; imported by {first.place}{more}"


@dataclass
class Report:
    """What importing led to.

    Attributes:
        counts: Top-level package to the number of its modules and names that were imported.
        absent: Optional imports that are not installed, or not in this version.
        failures: Errors, in the order of the imports.
    """

    counts: dict[str, int] = field(default_factory=dict)
    absent: list[Failure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def check_imports(imports: Iterable[Import], own: Iterable[str] = ()) -> Report:
    """Import everything once.

    Args:
        imports: What to import. A module or name that two import is optional only where it is for both.
        own: Packages that come last, so that an error names the library that it comes from.
    """
    targets: dict[tuple[str, str | None], Import] = {}
    for each in imports:
        known = targets.setdefault((each.module, each.name), each)
        if known.is_optional and not each.is_optional:
            targets[each.module, each.name] = each
    own = set(own)
    report = Report()
    failures: dict[tuple[bool, str], Failure] = {}
    for each in sorted(targets.values(), key=lambda each: each.package in own):
        try:
            _load(each)
        except Exception as error:  # noqa: BLE001 - whatever a library raises here is what is looked for
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            key = (_is_absent(each, error), text)
            failures.setdefault(key, Failure(text)).add(each, error)
        else:
            report.counts[each.package] = report.counts.get(each.package, 0) + 1
    for (is_absent, _), failure in failures.items():
        (report.absent if is_absent else report.failures).append(failure)
    return report


def _load(each: Import) -> None:
    """Import a module, and look its name up.

    Raises:
        Exception: Whatever the import raises.
    """
    module = importlib.import_module(each.module)
    if each.name is None or hasattr(module, each.name):
        return
    submodule = f"{each.module}.{each.name}"
    try:
        importlib.import_module(submodule)
    except ModuleNotFoundError as error:
        if error.name != submodule:
            raise
        raise ImportError(
            f"cannot import name {each.name!r} from {each.module!r}", name=each.module
        ) from None


def _is_absent(each: Import, error: Exception) -> bool:
    """True for an optional import that is not there.

    One that is installed and broken is a failure: its importer would silently do without it, or end in an
    error that it does not expect.
    """
    if not each.is_optional or not isinstance(error, ImportError):
        return False
    return (error.name or each.module).partition(".")[0] == each.package


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Top-level package to ``version`` or, where it has another name, ``distribution version``."""
    distributions = metadata.packages_distributions()
    found = {}
    for package in packages:
        names = sorted(set(distributions.get(package, ())))
        shown = [
            metadata.version(name) if _is_same(name, package) else f"{name} {metadata.version(name)}"
            for name in names
        ]
        found[package] = ", ".join(shown)
    return found


def _is_same(distribution: str, package: str) -> bool:
    return distribution.lower().replace("-", "_") == package.lower()
