"""What can change the calls of an attack that adapts, as one hash for the fingerprint of a run."""

import functools
import hashlib
import json

from safe_r1.attacks.adaptive.augment import pool
from safe_r1.attacks.adaptive.prompts import prompts_identity
from safe_r1.attacks.identity import attack_identity
from safe_r1.config.adaptive import AdaptiveConfig

_SHARED = ("attacker_failures", "remembered_turns")


def adaptive_identity(config: AdaptiveConfig) -> str:
    """A SHA-256 of the method's settings and texts; the models that are asked have identities of their own.

    Left out: settings of other methods, the name of the attacker, the number of conversations at a time.
    """
    settings = config.model_dump(mode="json", include={"method", "budget", config.method})
    if config.needs_attacker:
        settings |= {name: getattr(config, name) for name in _SHARED}
    texts = prompts_identity() if config.needs_attacker else _pool_identity()
    return hashlib.sha256(json.dumps([settings, texts], sort_keys=True).encode()).hexdigest()


@functools.cache
def _pool_identity() -> str:
    return hashlib.sha256(json.dumps([attack_identity(attack) for attack in pool()]).encode()).hexdigest()
