"""The registry of judges: the one place where a judge is chosen, named and made.

``JudgeConfig.kind`` is ``lexicon``, ``llm`` or a guard (a model on the caller's own engine), the URL of an
OpenAI-compatible endpoint, a guard with such a URL (``qwen3guard:https://host/v1``), or a name that an
installed package adds by an entry point, e.g. in its ``pyproject.toml``::

    [project.entry-points."safe_r1.judges"]
    my-judge = "my_package.my_judge:make"

where ``make`` takes the ``JudgeConfig`` and returns a ``safe_r1.judge.base.Judge``. ``lexicon``, ``llm`` and
the guards cannot be redefined.
"""

import asyncio
import difflib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError
from safe_r1.judge.base import Judge, judge_label
from safe_r1.judge.forms import FORMS, LLM, asks_model, find_guard, guard_of_judge, needs_engine
from safe_r1.judge.installed import installed_names, make_installed
from safe_r1.judge.model import Complete, CompleteAll, ModelJudge, ModelReply, model_identity
from safe_r1.judge.panel import panel_members
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.judge.prompt_file import read_policy
from safe_r1.models.prompts import RAW
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.schema import JUDGED_PARTS, Message, Task

logger = logging.getLogger(__name__)

_BUILT_IN = ("lexicon", *FORMS)


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
        served: Name by which an endpoint knows the model; empty for all other judges.
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
    served: str = ""

    @property
    def label(self) -> str:
        """The judge as it is printed and stored in rows."""
        return judge_label(self.name, self.identity)

    @property
    def facts(self) -> dict[str, str]:
        """What ``run.json`` holds of the judge."""
        policy = {"policy": self.policy.name} if self.policy.name else {}
        return {"name": self.label, "identity": self.identity, "agreement": self.note, **policy}

    def check_tasks(self, tasks: Collection[Task]) -> None:
        """Check that the judge can label all of these tasks, of those that a judge labels.

        Raises:
            ConfigError: It says nothing of one of them.
        """
        if missing := sorted(set(tasks) & set(JUDGED_PARTS) - set(self.policy.tasks)):
            raise ConfigError(
                f"judge {self.name}: it {self.policy.says}, so that it cannot label the task {missing[0]}; "
                "give another --judge for it"
            )


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of judge; loads no judge.

    Raises:
        ConfigError: The kind is unknown; the message offers the nearest ones.
    """
    # Without validation: an ill-formed kind is an unknown one.
    config = JudgeConfig.model_construct(kind=kind.partition("#")[0])
    if config.form in (FORMS if config.is_endpoint else _BUILT_IN):
        return
    added = _added_names()
    if config.is_endpoint or kind not in added:
        raise _unknown(config.form, added)


def _added_names() -> list[str]:
    """Judges of other packages; one named like a judge of this package is left out, with a warning."""
    names = installed_names()
    for name in set(names) & set(_BUILT_IN):
        logger.warning("judge %r of another package is ignored: the name is taken", name)
    return [name for name in names if name not in _BUILT_IN]


def engine_model(config: JudgeConfig) -> Variant | None:
    """The model that the caller's engine has to run for a judge; None where it needs none. Loads nothing.

    Raises:
        ConfigError: The model of kind ``llm`` or of a guard is unknown.
    """
    if not needs_engine(config):
        return None
    guard = find_guard(config)
    name = config.model or (guard.default_model if guard else None)
    variant = get_variant(name) if name else DEFAULT_JUDGE
    # The text of such a guard is the whole prompt, whatever template its tokenizer has.
    return replace(variant, prompt=RAW) if guard and guard.is_raw else variant


def engine_sampling(config: JudgeConfig) -> dict[str, float]:
    """Sampling settings of a judge on the caller's engine."""
    return {"temperature": config.temperature or 0.0, "top_p": 1.0}


def plan_judge(config: JudgeConfig) -> JudgePlan:
    """Find out a judge's name and identity; asks an endpoint for its model where none is named.

    Raises:
        ConfigError: Unknown kind, or a package's judge that cannot be used.
        ModelError: The model of kind ``llm`` or of a guard cannot be found.
        JudgeError: The endpoint cannot be reached, or serves several models and none is named.
    """
    policy = _policy_of(config)
    if model := engine_model(config):
        from safe_r1.models.checkpoints import prepare

        variant, weights = prepare(model, config.engine.trust_remote_code)
        sampling = {**engine_sampling(config), "max_tokens": config.reply_tokens}
        # The format decides how the prompt is rendered, so that it is a part of what was asked.
        weights = f"{weights} {variant.prompt_format.identity}"
        identity = model_identity(weights, sampling, policy=policy)
        return JudgePlan(config, policy.judge_name(variant.name), identity, variant, policy.says, policy)
    judge = _make(config)
    return JudgePlan(
        config,
        judge.name,
        judge.identity,
        note=policy.says or getattr(judge, "agreement_note", ""),
        policy=policy,
        runs_in_workers=getattr(judge, "runs_in_workers", False),
        served=getattr(judge, "served", ""),
    )


def make_judge(source: JudgeConfig | JudgePlan, complete: Complete | None = None) -> Judge:
    """The judge of some settings, or of a plan that was made earlier, maybe in another process.

    Args:
        source: From a plan, an endpoint's client is made without asking for its model again.
        complete: For a model on an engine alone: sends a dialogue to the engine, which the caller runs with
            ``JudgePlan.model`` and ``engine_sampling``.

    Raises:
        ConfigError: Unknown kind, a package's judge that cannot be used, ``llm`` without ``complete``, or a
            judge that differs from its plan.
        ModelError, JudgeError: See ``plan_judge``.
    """
    config = source.config if isinstance(source, JudgePlan) else source
    if needs_engine(config):
        if complete is None:
            form = "" if config.form == LLM else f"{config.form}:"
            raise ConfigError(
                f"judge {config.form!r} needs an engine, and none is started here: "
                f"serve the model and give its URL as the judge, {form}https://HOST/v1"
            )
        plan = source if isinstance(source, JudgePlan) else plan_judge(source)
        complete_all = _at_once(complete, config.reply_tokens)
        return ModelJudge(plan.name, plan.identity, complete_all, policy=plan.policy)
    if not isinstance(source, JudgePlan):
        return _make(config)
    # An endpoint that has changed its model meanwhile refuses the planned one.
    judge = _make(config.model_copy(update={"model": source.served}) if config.is_endpoint else config)
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
    """What a judging model is asked, and how it is read.

    Raises:
        ConfigError: The file cannot be used, or the judge is not a model that is asked with a prompt of the
            user's.
    """
    guard = find_guard(config)
    if config.policy is not None and (guard or not asks_model(config)):
        reason = "has a form of its own" if guard else "asks no model"
        raise ConfigError(
            f"judge.policy {config.policy}: judge {config.form!r} {reason}; give --judge llm or a URL"
        )
    return guard or read_policy(config.policy)


def _make(config: JudgeConfig) -> Judge:
    """The judge of any kind but those that need an engine."""
    if config.kind == "lexicon":
        from safe_r1.judge.lexicon import LexiconJudge

        return LexiconJudge()
    if config.is_endpoint and asks_model(config):
        from safe_r1.judge.endpoint import EndpointJudge
        from safe_r1.models.checkpoints import cache_folder

        return EndpointJudge(config, policy=_policy_of(config), cache_dir=cache_folder() / "judge")
    judge = None if config.is_endpoint else make_installed(config)
    if judge is None:
        raise _unknown(config.form, _added_names())
    return judge


def _unknown(kind: str, installed: list[str]) -> ConfigError:
    near = difflib.get_close_matches(kind.lower(), [*_BUILT_IN, *installed], n=3, cutoff=0.6)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    listed = f"the name of an installed judge ({', '.join(installed) or 'none is installed'})"
    guards = ", ".join(FORMS[1:])
    return ConfigError(
        f"unknown judge {kind!r}{hint}: expected lexicon, llm or a URL, a guard ({guards}), alone or before "
        f"a URL, or {listed}"
    )


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

    found: set[str] = set()
    # A panel sees no more than those of its judges that see least.
    for judge in (each for name in judges for each in (panel_members(name) or [name])):
        guard = guard_of_judge(judge)
        is_lexicon = judge.partition("@")[0] == LexiconJudge.name
        blind_to = LexiconJudge.blind_to if is_lexicon else guard.blind_to if guard else ()
        found |= {label.value for label in blind_to}
    return found
