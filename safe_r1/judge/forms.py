"""The forms in which a judging model is asked: this project's prompt, or that of a family of guard models.

A form is a name of ``JudgeConfig.kind``, alone (the model runs on an engine of the job) or before a URL
(``qwen3guard:https://host/v1``). A further family of guards is a file beside this one and a line here.
"""

from safe_r1.config import JudgeConfig
from safe_r1.judge.guard import Guard
from safe_r1.judge.llamaguard import LLAMAGUARD
from safe_r1.judge.qwen3guard import QWEN3GUARD, Qwen3Guard
from safe_r1.judge.shieldgemma import SHIELDGEMMA
from safe_r1.judge.wildguard import WILDGUARD

LLM = "llm"
"""The form of a chat model that is asked with this project's prompt, or with a policy of the user's."""

GUARDS: dict[str, Guard] = {each.name: each for each in (QWEN3GUARD, LLAMAGUARD, WILDGUARD, SHIELDGEMMA)}
FORMS = (LLM, *GUARDS)


def needs_engine(config: JudgeConfig) -> bool:
    """Whether the judge is a model that runs on an engine of the job."""
    return config.form in FORMS and not config.is_endpoint


def asks_model(config: JudgeConfig) -> bool:
    """Whether the judge is a model that is asked, on an engine or behind a URL."""
    return config.form in FORMS


def find_guard(config: JudgeConfig) -> Guard | None:
    """The guard that the settings name; None for any other judge."""
    guard = GUARDS.get(config.form)
    if isinstance(guard, Qwen3Guard):
        return guard.with_controversial(config.controversial)
    return guard


def guard_of_judge(name: str) -> Guard | None:
    """The guard behind a judge's printed name, such as ``qwen3guard:Qwen--Qwen3Guard-Gen-8B@0a1b2c3d``."""
    return GUARDS.get(name.partition(":")[0])
