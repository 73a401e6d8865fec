"""From benchmarks and what a user chose as attacks to benchmarks under attacks."""

from collections.abc import Iterable, Sequence

from safe_r1.attacks.base import PLAIN
from safe_r1.attacks.choose import parse_all
from safe_r1.benchmarks.adaptive import AdaptiveBenchmark
from safe_r1.benchmarks.attacked import SEPARATOR, AttackedBenchmark
from safe_r1.benchmarks.base import Benchmark, under_attack
from safe_r1.config.adaptive import AdaptiveSettings
from safe_r1.errors import ConfigError

_DEFAULTS = AdaptiveSettings()


def attacked(
    benchmarks: Iterable[Benchmark], attacks: Sequence[str], seed: int, adaptive: AdaptiveSettings = _DEFAULTS
) -> dict[str, Benchmark]:
    """The benchmarks under each attack and as they are, by name.

    Args:
        benchmarks: Benchmarks.
        attacks: As users choose them, see ``parse_attacks``; attacks that adapt by their names.
        seed: Of all that the attacks draw.
        adaptive: Settings of attacks that adapt.

    Raises:
        ConfigError: A benchmark is under an attack by its name. Also see ``parse_attacks``.
        DataError: See ``parse_attacks``.
    """
    benchmarks = list(benchmarks)
    if twice := [each.name for each in benchmarks if under_attack(each)]:
        raise ConfigError(
            f"--attack: {twice[0]} is under an attack already; give the benchmark without "
            f"{SEPARATOR}, or combine attacks as in pinyin+role"
        )
    parsed, methods = parse_all(attacks)
    chosen = {attack.name: attack for attack in (PLAIN, *parsed)}
    found: list[Benchmark] = []
    for benchmark in benchmarks:
        found += [AttackedBenchmark(benchmark, attack, seed) for attack in chosen.values()]
        found += [AdaptiveBenchmark(benchmark, adaptive.of_method(method), seed) for method in methods]
    return {benchmark.name: benchmark for benchmark in found}


def under(benchmark: Benchmark, attack: str, seed: int, adaptive: AdaptiveSettings = _DEFAULTS) -> Benchmark:
    """The benchmark under one attack.

    Args:
        benchmark: The benchmark.
        attack: As users choose it.
        seed: Of all that the attack draws.
        adaptive: Settings of attacks that adapt.

    Raises:
        ConfigError: It is a set of several. Also see ``parse_attacks``.
        DataError: See ``parse_attacks``.
    """
    parsed, methods = parse_all([attack])
    if len(parsed) + len(methods) > 1:
        raise ConfigError(
            f"{benchmark.name}{SEPARATOR}{attack}: it names {len(parsed) + len(methods)} attacks, and a "
            f"benchmark is under one; give --benchmark {benchmark.name} --attack {attack}"
        )
    if methods:
        return AdaptiveBenchmark(benchmark, adaptive.of_method(methods[0]), seed)
    return AttackedBenchmark(benchmark, parsed[0], seed)
