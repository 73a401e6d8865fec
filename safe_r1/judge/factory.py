"""The registry of judges: the one place where a judge is chosen, named and made.

``JudgeConfig.kind`` is ``lexicon``, ``llm`` (a model on the caller's own engine), the URL of an
OpenAI-compatible endpoint, or a name that an installed package adds by an entry point, e.g. in its
``pyproject.toml``::

    [project.entry-points."safe_r1.judges"]
    my-judge = "my_package.my_judge:make"

where ``make`` takes the ``JudgeConfig`` and returns a ``safe_r1.judge.base.Judge``. ``lexicon`` and ``llm``
cannot be redefined.
"""

import asyncio
import difflib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError
from safe_r1.judge.base import Judge, judge_label
from safe_r1.judge.installed import installed_names, make_installed
from safe_r1.judge.model import Complete, CompleteAll, ModelJudge, ModelReply, model_identity
from safe_r1.judge.policy import BUILT_IN, Policy, load_policy
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.schema import Message

ENGINE_SAMPLING = {"temperature": 0.0, "top_p": 1.0}
"""Sampling settings of kind ``llm``."""

logger = logging.getLogger(__name__)

_BUILT_IN = ("lexicon", "llm")


@dataclass(frozen=True)
class JudgePlan:
    """A judge whose name and identity are known: runs record it, and workers make the judge from it.

    Attributes:
        config: The settings.
        name: See ``Judge.name``.
        identity: See ``Judge.identity``.
        model: The model that the caller's engine has to run; None where the judge needs none.
        note: What a report says of the judge's agreement with labels; empty where it was not measured.
        policy: Prompt and labels of a judging model.
        runs_in_workers: Whether the judge computes by itself, so that each worker may make one; one that
            asks a server is made once, with one limit of requests.
    """

    config: JudgeConfig
    name: str
    identity: str
    model: Variant | None = None
    note: str = ""
    policy: Policy = BUILT_IN
    runs_in_workers: bool = False

    @property
    def label(self) -> str:
        """The judge as it is printed and stored in rows."""
        return judge_label(self.name, self.identity)


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of judge; loads no judge.

    Raises:
        ConfigError: The kind is unknown; the message offers the nearest ones.
    """
    # Without validation: an ill-formed kind is an unknown one.
    is_endpoint = JudgeConfig.model_construct(kind=kind).is_endpoint
    if kind in _BUILT_IN or is_endpoint:
        return
    added = _added_names()
    if kind not in added:
        raise _unknown(kind, added)


def _added_names() -> list[str]:
    """Judges of other packages; one named like a judge of this package is left out, with a warning."""
    names = installed_names()
    for name in set(names) & set(_BUILT_IN):
        logger.warning("judge %r of another package is ignored: the name is taken", name)
    return [name for name in names if name not in _BUILT_IN]


def engine_model(config: JudgeConfig) -> Variant | None:
    """The model that the caller's engine has to run for a judge; None where it needs none. Loads nothing.

    Raises:
        ConfigError: The model of kind ``llm`` is unknown.
    """
    if not config.needs_engine:
        return None
    return get_variant(config.model) if config.model else DEFAULT_JUDGE


def plan_judge(config: JudgeConfig) -> JudgePlan:
    """Find out a judge's name and identity; asks an endpoint for its model where none is named.

    Raises:
        ConfigError: Unknown kind, or a package's judge that cannot be used.
        ModelError: The model of kind ``llm`` cannot be found.
        JudgeError: The endpoint cannot be reached, or serves several models and none is named.
    """
    policy = _policy_of(config)
    if model := engine_model(config):
        from safe_r1.models.checkpoints import prepare

        variant, weights = prepare(model, config.engine.trust_remote_code)
        sampling = {**ENGINE_SAMPLING, "max_tokens": config.max_tokens}
        # The format decides how the prompt is rendered, so that it is a part of what was asked.
        weights = f"{weights} {variant.prompt_format.identity}"
        identity = model_identity(weights, sampling, policy=policy)
        return JudgePlan(config, variant.name, identity, model=variant, policy=policy)
    judge = _make(config)
    return JudgePlan(
        config,
        judge.name,
        judge.identity,
        note=getattr(judge, "agreement_note", ""),
        policy=policy,
        runs_in_workers=getattr(judge, "runs_in_workers", False),
    )


def make_judge(source: JudgeConfig | JudgePlan, complete: Complete | None = None) -> Judge:
    """The judge of some settings, or of a plan that was made earlier, maybe in another process.

    Args:
        source: From a plan, an endpoint's client is made without asking for its model again.
        complete: For kind ``llm`` alone: sends a dialogue to the engine, which the caller runs with
            ``JudgePlan.model`` and ``ENGINE_SAMPLING``.

    Raises:
        ConfigError: Unknown kind, a package's judge that cannot be used, ``llm`` without ``complete``, or a
            judge that differs from its plan.
        ModelError, JudgeError: See ``plan_judge``.
    """
    config = source.config if isinstance(source, JudgePlan) else source
    if config.needs_engine:
        if complete is None:
            raise ConfigError(
                "judge 'llm' needs an engine, and none is started here: "
                "serve the model and give its URL as the judge"
            )
        plan = source if isinstance(source, JudgePlan) else plan_judge(source)
        complete_all = _at_once(complete, config.max_tokens)
        return ModelJudge(plan.name, plan.identity, complete_all, policy=plan.policy)
    if not isinstance(source, JudgePlan):
        return _make(config)
    # An endpoint that has changed its model meanwhile refuses the planned one.
    judge = _make(config.model_copy(update={"model": source.name}) if config.is_endpoint else config)
    if judge.identity != source.identity:
        raise ConfigError(
            f"judge {judge_label(judge.name, judge.identity)} is not the planned {source.label}: "
            "install the same packages on all nodes"
        )
    return judge


def shared_judge(plan: JudgePlan) -> Judge:
    """The judge of a plan, made once in each process: a package's judge may load a model.

    Raises:
        ConfigError, JudgeError: See ``make_judge``.
    """
    key = f"{plan.label} {plan.config.model_dump_json()}"
    if key not in _shared:
        _shared[key] = make_judge(plan)
    return _shared[key]


_shared: dict[str, Judge] = {}


def _policy_of(config: JudgeConfig) -> Policy:
    """The policy of a judging model.

    Raises:
        ConfigError: The file cannot be used, or the judge is not a model that is asked.
    """
    if config.policy is not None and not (config.needs_engine or config.is_endpoint):
        raise ConfigError(
            f"judge.policy {config.policy}: judge {config.kind!r} asks no model; give --judge llm or a URL"
        )
    return load_policy(config.policy)


def _make(config: JudgeConfig) -> Judge:
    """The judge of any kind but ``llm``."""
    if config.kind == "lexicon":
        from safe_r1.judge.lexicon import LexiconJudge

        return LexiconJudge()
    if config.is_endpoint:
        from safe_r1.judge.endpoint import EndpointJudge
        from safe_r1.models.checkpoints import cache_folder

        return EndpointJudge(
            base_url=config.kind,
            model=config.model,
            concurrency=config.concurrency,
            timeout_s=config.timeout_s,
            max_retries=config.max_retries,
            max_tokens=config.max_tokens,
            cache_dir=cache_folder() / "judge",
            policy=_policy_of(config),
        )
    judge = make_installed(config)
    if judge is None:
        raise _unknown(config.kind, _added_names())
    return judge


def _unknown(kind: str, installed: list[str]) -> ConfigError:
    near = difflib.get_close_matches(kind.lower(), [*_BUILT_IN, *installed], n=3, cutoff=0.6)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    listed = f"the name of an installed judge ({', '.join(installed) or 'none is installed'})"
    return ConfigError(f"unknown judge {kind!r}{hint}: expected lexicon, llm or a URL, or {listed}")


def _at_once(complete: Complete, max_tokens: int) -> CompleteAll:
    """Sends all dialogues together: an engine batches what is in flight."""

    async def complete_all(prompts: Sequence[list[Message]]) -> list[ModelReply]:
        return await asyncio.gather(*(complete(messages, max_tokens) for messages in prompts))

    return complete_all


def blind_labels(judges: Iterable[str]) -> set[str]:
    """Labels that a judge of some verdicts cannot tell from others.

    Args:
        judges: Names as verdicts store them, with or without the identity.
    """
    from safe_r1.judge.lexicon import LexiconJudge

    known = {LexiconJudge.name: LexiconJudge.blind_to}
    return {label.value for judge in judges for label in known.get(judge.partition("@")[0], ())}
