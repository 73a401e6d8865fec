"""Which attacks of an evaluation are asked, and of which questions.

Of a set of attacks, those that the model does not take, or that find nothing to change, are left out and
told; one that the user named is an error, unless it asks another of the benchmarks.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from safe_r1.attacks.base import PLAIN
from safe_r1.attacks.combine import SIGN
from safe_r1.benchmarks import Benchmark
from safe_r1.benchmarks.attacked import UnchangedError, split_attack
from safe_r1.benchmarks.base import UnderAttack, under_attack
from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError
from safe_r1.models.registry import Variant
from safe_r1.progress import NOTICES
from safe_r1.schema import Sample

notices = logging.getLogger(NOTICES)
Samples = dict[str, Sequence[Sample]]


def is_attacked(benchmarks: Mapping[str, Benchmark]) -> bool:
    """Whether any of the benchmarks is under an attack, by ``--attack`` or by its name."""
    return any(map(under_attack, benchmarks.values()))


def load_all(
    benchmarks: Mapping[str, Benchmark],
    config: EvaluateConfig,
    load: Callable[[Benchmark], Sequence[Sample]],
) -> Samples:
    """All questions by benchmark, without those of which an attack changes none.

    Raises:
        DataError: They cannot be read, or an attack that the user named changes none of any benchmark.
    """
    loaded: Samples = {}
    unchanged: dict[str, UnchangedError] = {}
    for name, benchmark in benchmarks.items():
        try:
            loaded[name] = load(benchmark)
        except UnchangedError as error:
            if error.attack == PLAIN.name:
                raise
            unchanged[name] = error
    refused = _refused(unchanged, loaded, benchmarks, config)
    if refused is not None:
        raise unchanged[refused]
    for name in unchanged:
        notices.info("%s is left out: the attack finds nothing to change", name)
    return loaded


def choose(
    loaded: Samples,
    benchmarks: Mapping[str, Benchmark],
    config: EvaluateConfig,
    select: Callable[[Sequence[Sample]], Sequence[Sample]],
) -> Samples:
    """The questions of a run: under an attack those of the chosen plain ones that it can ask.

    So that every attacked question has its plain one beside it, whatever the limit is.

    Args:
        loaded: All questions by benchmark.
        benchmarks: The benchmarks.
        config: The settings.
        select: Chooses as many as the limit says.

    Raises:
        ConfigError: An attack that the user named can ask none of the chosen ones of any benchmark.
    """
    chosen: Samples = {}
    too_few: dict[str, int] = {}
    for name, samples in loaded.items():
        benchmark = benchmarks[name]
        attack = under_attack(benchmark)
        if config.limit is None or attack is None:
            chosen[name] = select(samples)
            continue
        plain = attack.plain
        questions = loaded[plain.name] if plain.name in loaded else plain.load(config.data)
        asked = {sample.sample_id for sample in select(questions)}
        if found := [sample for sample in samples if sample.sample_id in asked]:
            chosen[name] = found
        else:
            too_few[name] = len(asked)
    refused = _refused(too_few, chosen, benchmarks, config)
    if refused is not None:
        raise ConfigError(
            f"{refused}: it can ask none of the {too_few[refused]} questions that --limit chooses; raise "
            "--limit"
        )
    for name, num in too_few.items():
        notices.info("%s is left out: it can ask none of the %d questions of --limit", name, num)
    return chosen


def without_untaken(
    benchmarks: Mapping[str, Benchmark], config: EvaluateConfig, variant: Variant
) -> dict[str, Benchmark]:
    """The benchmarks whose attack the model takes.

    Raises:
        ConfigError: One of the others was named by the user, or no attack is left.
    """
    untaken = {
        name: attack.attack
        for name, each in benchmarks.items()
        if (attack := under_attack(each)) and not _takes(attack, variant)
    }
    named = _named(config)
    reason = f"begins the answer or the thoughts for the model, which {variant.name} does not take"
    for attack in untaken.values():
        if attack in named:
            raise ConfigError(f"--attack {attack}: it {reason}; leave it out")
    for attack in dict.fromkeys(untaken.values()):
        notices.info("attack %s is left out: it %s", attack, reason)
    left = {name: each for name, each in benchmarks.items() if name not in untaken}
    attacks = {attack.attack for each in left.values() if (attack := under_attack(each))}
    if config.attacks and attacks == {PLAIN.name} and named != {PLAIN.name}:
        raise ConfigError(f"--attack {','.join(config.attacks)}: none of the attacks can be asked here")
    return left


def _takes(attack: UnderAttack, variant: Variant) -> bool:
    """Whether a model goes on with what an attack begins for it."""
    if not attack.begins_answer and not attack.begins_thought:
        return True
    # An endpoint renders its prompts itself.
    is_engine = variant.endpoint is None
    return is_engine and (not attack.begins_thought or variant.prompt_format.is_reasoning)


def _refused(
    unasked: Iterable[str], asked: Iterable[str], benchmarks: Mapping[str, Benchmark], config: EvaluateConfig
) -> str | None:
    """The first benchmark that a run may not leave out: the user named its attack, which asks no other one.

    Args:
        unasked: Names of benchmarks whose attack has nothing to ask.
        asked: Names of the others.
        benchmarks: The benchmarks by name.
        config: The settings.
    """
    attacks = {name: attack.attack for name, each in benchmarks.items() if (attack := under_attack(each))}
    asking = {attacks.get(name) for name in asked}
    named = _named(config)
    # Of BENCHMARK@ATTACK nothing else was meant; --attack is meant for the benchmarks that it fits.
    return next(
        (
            name
            for name in unasked
            if not config.attacks or (attacks[name] in named and attacks[name] not in asking)
        ),
        None,
    )


def _named(config: EvaluateConfig) -> set[str]:
    """Names of the attacks that the user named, not as part of a set or a file."""
    items = [item for text in config.attacks for item in text.split(",")]
    items += [split_attack(name)[1] for name in config.benchmarks]
    # A benchmark under no attack names none, and a comma may end a list.
    return {SIGN.join(part.strip() for part in item.split(SIGN)) for item in items if item.strip()}
