"""Attacks that adapt, in the plan of an evaluation: the attacker, and engines that are asked by turns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from safe_r1.benchmarks import Benchmark
from safe_r1.benchmarks.base import under_attack
from safe_r1.config import EngineConfig, EvaluateConfig
from safe_r1.config.adaptive import AdaptiveConfig, AdaptiveSettings
from safe_r1.errors import ConfigError, SafeR1Error
from safe_r1.inference.batch import EngineSpec
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import engine_arguments, engine_bundles, resolve_engine
from safe_r1.inference.memory import cpu_memory_gib
from safe_r1.inference.requests import Sampling
from safe_r1.judge.factory import JudgePlan, engine_sampling
from safe_r1.models.checkpoints import prepare
from safe_r1.models.endpoint_entry import with_overrides
from safe_r1.models.registry import Variant, get_variant
from safe_r1.resources import Cluster
from safe_r1.runs import JsonObject

_SETTING = "adaptive.attacker"


@dataclass(frozen=True)
class AttackerPlan:
    """The model that writes the prompts.

    Attributes:
        variant: The model, its source ready to load.
        identity: Of its weights, or of its endpoint.
        settings: How it is asked.
    """

    variant: Variant
    identity: str
    settings: AdaptiveSettings

    @property
    def sampling(self) -> Sampling:
        """Its sampling settings."""
        return Sampling(self.settings.temperature, self.settings.top_p)

    @property
    def fingerprint(self) -> JsonObject:
        """What could change its replies."""
        return {
            "name": self.variant.name,
            "identity": self.identity,
            **asdict(self.sampling),
            "max_tokens": self.settings.max_tokens,
        }


def searches_of(benchmarks: Mapping[str, Benchmark]) -> dict[str, AdaptiveConfig]:
    """Settings of the attacks that adapt, by benchmark."""
    attacks = {name: under_attack(benchmark) for name, benchmark in benchmarks.items()}
    return {name: attack.search for name, attack in attacks.items() if attack and attack.search}


def plan_attacker(config: EvaluateConfig, searches: Mapping[str, AdaptiveConfig]) -> AttackerPlan | None:
    """The attacker of a run; None where no attack needs one. Asks no endpoint.

    Raises:
        ConfigError: There is none, it is unknown, or the settings of the run do not fit.
        ModelError: It cannot be found.
    """
    if searches and "answer" not in config.judge.parts:
        method = next(iter(searches.values())).method
        raise ConfigError(f"--attack {method}: it goes by the labels of answers; add answer to judge.parts")
    needing = [search.method for search in searches.values() if search.needs_attacker]
    if not needing:
        return None
    settings = config.adaptive
    if settings.attacker is None:
        raise ConfigError(
            f"--attack {needing[0]}: it needs a model that writes the prompts: --set {_SETTING}=NAME (a name "
            "of `safe-r1 models`, a folder, endpoint:URL#MODEL); the attack bon needs none"
        )
    try:
        variant = get_variant(settings.attacker)
    except SafeR1Error as error:
        raise type(error)(f"{_SETTING}: {error}") from None
    if variant.is_given:
        raise ConfigError(f"{_SETTING} {settings.attacker}: answers of a file write no prompts; give a model")
    if variant.endpoint is not None:
        entry = with_overrides(variant.endpoint, settings.endpoint, "adaptive.endpoint")
        return AttackerPlan(replace(variant, endpoint=entry), entry.identity, settings)
    if given := sorted(settings.endpoint.model_fields_set):
        raise ConfigError(
            f"adaptive.endpoint.{given[0]}: {variant.name} is not behind a URL; leave the setting out"
        )
    return AttackerPlan(*prepare(variant, settings.engine.trust_remote_code), settings)


@dataclass(frozen=True)
class DialogueSpecs:
    """The engines that are asked turn by turn; None for what runs on none.

    Attributes:
        target, attacker, judge: Of that role.
    """

    target: EngineSpec | None = None
    attacker: EngineSpec | None = None
    judge: EngineSpec | None = None


def plan_engines(
    attacker: AttackerPlan | None, judge: JudgePlan | None, target: EngineSpec | None, cluster: Cluster
) -> DialogueSpecs:
    """The engines of a run with attacks that adapt, which run at the same time.

    An attacker that is the evaluated model shares its engine, unless it has settings of its own.

    Args:
        attacker: The model that writes the prompts, if any.
        judge: The judge.
        target: The evaluated model's engine, as it was found to fit alone.
        cluster: The cluster.

    Raises:
        ResourceError: The cluster cannot hold one beside the others.
    """
    left = _without(cluster, target)
    writer = labeller = None
    if attacker and attacker.variant.endpoint is None:
        if target and _is_same(attacker, target):
            writer = replace(target, sampling=attacker.sampling)
        else:
            engine = attacker.settings.engine
            writer = _beside(attacker.variant, engine, attacker.sampling, left, _SETTING)
            left = _without(left, writer)
    if judge and judge.model:
        sampling = Sampling(**engine_sampling(judge.config))
        labeller = _beside(judge.model, judge.config.engine, sampling, left, "judge")
    return DialogueSpecs(target, writer, labeller)


def _is_same(attacker: AttackerPlan, target: EngineSpec) -> bool:
    mine, its = attacker.variant, target.variant
    is_own = bool(attacker.settings.engine.model_fields_set)
    return not is_own and (mine.source, mine.revision) == (its.source, its.revision)


def _beside(
    variant: Variant, engine: EngineConfig, sampling: Sampling, left: Cluster, what: str
) -> EngineSpec:
    """An engine in what others leave of the cluster."""
    try:
        device = pick_device(variant, engine.device, left.gpu_total)
        return EngineSpec(variant, resolve_engine(variant, engine, device, left), device, sampling)
    except SafeR1Error as error:
        raise type(error)(
            f"{what}: {error} An attack that adapts asks all of its models at the same time: what the other "
            "engines take is not free; a model behind a URL (endpoint:URL#MODEL) takes nothing here."
        ) from None


def _without(cluster: Cluster, spec: EngineSpec | None) -> Cluster:
    """What an engine leaves of a cluster."""
    if spec is None:
        return cluster
    if spec.device == "cpu":
        taken = cpu_memory_gib(spec.variant, spec.engine, cluster.memory_gib)
        return replace(cluster, memory_gib=max(0.0, cluster.memory_gib - taken))
    arguments = engine_arguments(spec.variant, spec.engine, spec.device)
    taken = sum(bundle["GPU"] for bundle in engine_bundles(arguments, spec.device))
    return replace(cluster, gpu_total=max(0.0, cluster.gpu_total - taken))
