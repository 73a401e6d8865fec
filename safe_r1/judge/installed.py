"""Judges of other packages, found by their entry points and checked before and while they are used.

Nothing is imported before a judge is asked for by its name.
"""

import importlib.metadata
import inspect
import re
from collections.abc import Sequence
from typing import cast

from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError, JudgeError, SafeR1Error
from safe_r1.judge.base import Judge, JudgeItem, Judgement
from safe_r1.records.text import fault_in
from safe_r1.schema import ComplianceLabel, RefusalLabel, Unscored

GROUP = "safe_r1.judges"
"""Group of entry points; see ``safe_r1.judge.factory``."""


def installed_names() -> list[str]:
    """Names of the judges that installed packages add, sorted."""
    return sorted(importlib.metadata.entry_points(group=GROUP).names)


def make_installed(config: JudgeConfig) -> Judge | None:
    """The judge that a package adds under the name ``config.kind``; None where no package has one.

    Raises:
        ConfigError: Several packages have one, or it cannot be imported or made, or is not a judge; the
            message names the package.
    """
    found = list(importlib.metadata.entry_points(group=GROUP, name=config.kind))
    if not found:
        return None
    if len(found) > 1:
        packages = ", ".join(sorted(_package(each) for each in found))
        raise ConfigError(f"judge {config.kind!r} is defined by {packages}: uninstall all of them but one")
    title = f"judge {config.kind!r} of package {_package(found[0])}"
    try:
        make = found[0].load()
        judge = make(config)
    except SafeR1Error:
        raise
    except Exception as error:
        # Code of another package may raise anything.
        raise ConfigError(
            f"{title}: {found[0].value} cannot be used ({_describe(error)}); update or uninstall the package"
        ) from error
    problem = _problem(judge)
    if problem:
        raise ConfigError(f"{title}: {problem}; update or uninstall the package")
    return InstalledJudge(cast(Judge, judge), title)


def _package(entry_point: importlib.metadata.EntryPoint) -> str:
    distribution = entry_point.dist
    return "(unknown)" if distribution is None else f"{distribution.name} {distribution.version}"


def _describe(error: BaseException) -> str:
    """An exception as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _problem(judge: object) -> str:
    """What is wrong with an object that should be a judge; empty where nothing is."""
    name = getattr(judge, "name", None)
    identity = getattr(judge, "identity", None)
    if not isinstance(name, str) or not re.fullmatch(r"[^\s@]+", name):
        return f"its name is {name!r}, expected a text without blanks and @"
    if not isinstance(identity, str) or not re.fullmatch(r"[0-9a-f]{64}", identity):
        return f"its identity is {identity!r}, expected a SHA-256 of 64 hexadecimal digits"
    if not inspect.iscoroutinefunction(getattr(judge, "judge", None)):
        return "it has no method 'async def judge(self, items)'"
    return ""


class InstalledJudge:
    """A package's judge whose answers are checked; implements ``safe_r1.judge.base.Judge``.

    Attributes:
        name: As the package gives it.
        identity: As the package gives it.
        runs_in_workers: As the package gives it; False where it says nothing.
    """

    def __init__(self, judge: Judge, title: str):
        self.name = judge.name
        self.identity = judge.identity
        self.runs_in_workers = bool(getattr(judge, "runs_in_workers", False))
        self._judge = judge
        self._title = title

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """See ``Judge.judge``.

        Raises:
            JudgeError: The judge fails, or does not give one judgement for every item.
        """
        try:
            judgements = list(await self._judge.judge(items))
        except SafeR1Error:
            raise
        except Exception as error:
            # Code of another package may raise anything.
            raise JudgeError(f"{self._title} failed ({_describe(error)})") from error
        if len(judgements) != len(items):
            raise JudgeError(f"{self._title} gave {len(judgements)} judgements for {len(items)} items")
        for item, judgement in zip(items, judgements, strict=True):
            if not _fits(item, judgement):
                raise JudgeError(
                    f"{self._title} gave an answer that does not fit task {item.task!r}: "
                    "expected a Judgement with either a label of the task or an Unscored reason, and with "
                    "texts that can be stored (UTF-8)"
                )
        return judgements


def _fits(item: JudgeItem, judgement: object) -> bool:
    if not isinstance(judgement, Judgement):
        return False
    if not (_can_be_stored(judgement.explanation) and _can_be_stored(judgement.own_label or "")):
        return False
    if judgement.label is None:
        return isinstance(judgement.unscored_reason, Unscored)
    labels = ComplianceLabel if item.task == "over_refusal" else RefusalLabel
    return isinstance(judgement.label, labels) and judgement.unscored_reason is None


def _can_be_stored(text: object) -> bool:
    """Whether it is a text without what no file can hold."""
    return isinstance(text, str) and not fault_in(text)
