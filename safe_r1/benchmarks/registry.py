"""Benchmarks by name: those of this package, those that other packages add, and users' own files.

Another package adds one by an entry point of the group ``safe_r1.benchmarks`` whose name is the benchmark's
and whose value is a ``Benchmark`` instance, e.g. in its ``pyproject.toml``::

    [project.entry-points."safe_r1.benchmarks"]
    my-benchmark = "my_package.my_benchmark:MY_BENCHMARK"
"""

import difflib
import functools
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import create_model

from safe_r1.benchmarks.attack_choice import attacked, under
from safe_r1.benchmarks.attacked import SEPARATOR
from safe_r1.benchmarks.base import Benchmark, settings_group
from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH, CHISAFETYBENCH_SAMPLE
from safe_r1.benchmarks.filing import BANKS, LATEST
from safe_r1.benchmarks.gpqa import GPQA_DIAMOND
from safe_r1.benchmarks.gsm8k import GSM8K
from safe_r1.benchmarks.harmbench import HARMBENCH
from safe_r1.benchmarks.jailbreakbench import JAILBREAKBENCH
from safe_r1.benchmarks.livecodebench import LIVECODEBENCH, LIVECODEBENCH_SAMPLE
from safe_r1.benchmarks.math500 import MATH_500
from safe_r1.benchmarks.own.benchmark import OwnBenchmark, open_own
from safe_r1.benchmarks.own.place import is_own_name
from safe_r1.benchmarks.own.settings import GROUP, OwnSettings
from safe_r1.benchmarks.xstest import XSTEST
from safe_r1.config import EvaluateConfig
from safe_r1.config.adaptive import AdaptiveSettings
from safe_r1.errors import ConfigError
from safe_r1.settings import Settings

logger = logging.getLogger(__name__)

ENTRY_POINTS = "safe_r1.benchmarks"
ALL_PAPER = "all-paper"
"""Name for the benchmarks of the paper: CHiSafetyBench, and mathematics, science and programming."""
FILING = "filing"
"""Name for the three banks of the filing test in their latest version."""
_PAPER = (CHISAFETYBENCH.name, MATH_500.name, GPQA_DIAMOND.name, LIVECODEBENCH.name)
_OWN: tuple[Benchmark, ...] = (
    CHISAFETYBENCH,
    CHISAFETYBENCH_SAMPLE,
    MATH_500,
    GPQA_DIAMOND,
    LIVECODEBENCH,
    LIVECODEBENCH_SAMPLE,
    GSM8K,
    XSTEST,
    *BANKS,
    HARMBENCH,
    JAILBREAKBENCH,
)
_BY_NAME: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _OWN}


def names() -> list[str]:
    """Names of all benchmarks, this package's first; imports no other package."""
    return [*_BY_NAME, *_added()]


def expand(chosen: Iterable[str]) -> list[str]:
    """The names, with ``all-paper`` and ``filing`` replaced by the names of their benchmarks."""
    groups = {ALL_PAPER: _PAPER, FILING: LATEST}
    return [name for each in chosen for name in groups.get(each, (each,))]


def find_benchmark(name: str) -> Benchmark | None:
    """The benchmark of that name with its default settings; None where it is unknown or cannot be loaded."""
    try:
        return get_benchmark(name)
    except ConfigError as error:
        logger.warning("%s", error)
        return None


def get_benchmark(name: str, config: EvaluateConfig | None = None) -> Benchmark:
    """The benchmark of that name, with its group of settings from ``config``.

    ``NAME@ATTACK`` gives it under an attack; a file, a URI or ``hf:OWNER/NAME`` the questions there.

    Raises:
        ConfigError: The name is unknown (the message offers the nearest ones), the package that adds it
            cannot be loaded, or a setting does not fit it.
    """
    benchmark = _BY_NAME.get(name) or _load_added(name)
    base, separator, attack = name.rpartition(SEPARATOR)
    if benchmark is None and separator and (base in _BY_NAME or base in _added()):
        return under(get_benchmark(base, config), attack, _seed(config), _adaptive(config))
    if benchmark is None and is_own_name(name):
        given = getattr(config, GROUP, None)
        return open_own(name, names(), given if isinstance(given, Settings) else None)
    if benchmark is None:
        near = difflib.get_close_matches(name, [*names(), ALL_PAPER], n=3, cutoff=0.4)
        known = f"known are {', '.join([*names(), ALL_PAPER])}, and files of questions"
        hint = f"did you mean {' or '.join(near)}?" if near else known
        raise ConfigError(f"unknown benchmark {name!r}: {hint}")
    settings = getattr(config, settings_group(benchmark.name), None)
    return benchmark.with_settings(settings) if isinstance(settings, Settings) else benchmark


def own_questions(name: str, config: EvaluateConfig | None = None) -> OwnBenchmark:
    """The benchmark of a user's own questions.

    Raises:
        ConfigError: The name is that of a known benchmark, or no file, URI or ``hf:OWNER/NAME``.
    """
    benchmark = get_benchmark(name, config)
    if not isinstance(benchmark, OwnBenchmark):
        raise ConfigError(
            f"{name!r} is a benchmark of an installed package; give a file of your own questions"
        )
    return benchmark


def absolute_name(name: str) -> str:
    """The name as a job that runs in another folder needs it: a relative path becomes an absolute one."""
    is_path = name not in _BY_NAME and is_own_name(name) and "://" not in name and not name.startswith("hf:")
    return str(Path(name).absolute()) if is_path else name


def require_files(chosen: Iterable[str]) -> None:
    """Check that the files of own questions among the names are there.

    Raises:
        DataError: One is not.
    """
    for name in expand(chosen):
        benchmark = get_benchmark(name)
        if isinstance(benchmark, OwnBenchmark):
            benchmark.file.profile(benchmark.file.files())


def require_given_answers(chosen: Iterable[Benchmark]) -> None:
    """Check that benchmarks come with answers of a model, as the variant ``given`` needs them.

    Raises:
        ConfigError: One has none.
        DataError: Its file cannot be read.
    """
    for benchmark in chosen:
        if not isinstance(benchmark, OwnBenchmark):
            raise ConfigError(
                f"--variant given: {benchmark.name} has questions alone; give a file of questions and "
                "answers, or another --variant"
            )
        if not benchmark.has_given_answers:
            raise ConfigError(
                f"--variant given: no column of {benchmark.file.place.file_name} holds the answers of a "
                f"model, such as 模型回答 or response; --set {GROUP}.mapping.given_answer=NAME names it"
            )


def get_benchmarks(chosen: Iterable[str], config: EvaluateConfig) -> dict[str, Benchmark]:
    """The benchmarks of a job by their own names, each once; see ``expand``, ``get_benchmark``, ``attacked``.

    Raises:
        ConfigError: Two files give one name, or an attack is unknown.
    """
    found: dict[str, Benchmark] = {}
    typed: dict[str, str] = {}
    for name in dict.fromkeys(expand(chosen)):
        benchmark = get_benchmark(name, config)
        if benchmark.name in found:
            raise ConfigError(
                f"{typed[benchmark.name]} and {name} are both called {benchmark.name!r}: rename one, give it "
                "a `name` in the TOML file beside it, or evaluate them in two jobs with --set run=NAME"
            )
        found[benchmark.name] = benchmark
        typed[benchmark.name] = name
    if not config.attacks:
        return found
    return attacked(found.values(), config.attacks, _seed(config), config.adaptive)


def _seed(config: EvaluateConfig | None) -> int:
    return config.generation.seed if config else 0


def _adaptive(config: EvaluateConfig | None) -> AdaptiveSettings:
    return config.adaptive if config else AdaptiveSettings()


def evaluate_schema() -> type[EvaluateConfig]:
    """``EvaluateConfig`` with one group of settings for each benchmark that has settings."""
    groups: dict[str, Any] = {GROUP: (OwnSettings, OwnSettings())}
    for benchmark in filter(None, map(find_benchmark, names())):
        if benchmark.settings is not None:
            groups[settings_group(benchmark.name)] = (type(benchmark.settings), benchmark.settings)
    return create_model("EvaluateConfig", __base__=EvaluateConfig, **groups)


@functools.cache
def _added() -> Mapping[str, EntryPoint]:
    """Entry points of other packages by name; a name that is already in use is left out, with a warning."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINTS):
        # The first one wins: otherwise an installed package could replace a published benchmark unnoticed.
        # Its group of settings may be nobody else's either.
        group = settings_group(point.name)
        taken = set(map(settings_group, (*_BY_NAME, *found, ALL_PAPER, GROUP)))
        if group in taken or group in EvaluateConfig.model_fields:
            logger.warning(
                "benchmark %r of package %s is ignored: the name is taken", point.name, _origin(point)
            )
        else:
            found[point.name] = point
    return found


@functools.cache
def _load_added(name: str) -> Benchmark | None:
    point = _added().get(name)
    if point is None:
        return None
    try:
        benchmark = point.load()
    except Exception as error:  # importing another package's module can raise anything
        raise ConfigError(
            f"benchmark {name!r} of package {_origin(point)} cannot be loaded from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if getattr(benchmark, "name", None) != name:
        raise ConfigError(
            f"benchmark {name!r} of package {_origin(point)}: {point.value} is not a Benchmark of that name"
        )
    return benchmark


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
