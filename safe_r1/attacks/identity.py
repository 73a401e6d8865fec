"""What can change the prompts of an attack, as one hash for the fingerprint of a run."""

import dataclasses
import functools
import hashlib

from safe_r1.attacks.base import Attack, seeded
from safe_r1.attacks.tables import common_characters, read_pairs
from safe_r1.attacks.words import Lookup

_SENTENCES = "为什么我们要这样做？请你帮我写一段关于“城市”的文章，\n并解释它的影响. It's 100% {question}!"


@functools.cache
def _probes() -> tuple[str, ...]:
    """Texts that hold every common character and every word of the tables."""
    words = "，".join([*read_pairs("english.txt"), *read_pairs("emoji.txt")])
    return _SENTENCES, common_characters(), words


def attack_identity(attack: Attack) -> str:
    """A SHA-256 of what an attack makes of probes that hold all its tables, and of its own texts.

    So that new tables, texts or versions of the libraries give another identity, and nothing else does.
    """
    digest = hashlib.sha256()
    tables = [change.table for change in attack.changes if isinstance(change, Lookup)]
    for table in tables:
        digest.update(repr(sorted(table.items())).encode())
    changes = attack.changes
    if tables:
        # A table has no entry for a probe.
        attack = dataclasses.replace(attack, changes=tuple(c for c in changes if not isinstance(c, Lookup)))
    for probe in _probes():
        prompt = attack.apply(probe, seeded(0, attack.name, "probe"))
        digest.update(repr((attack.name, prompt)).encode())
    return digest.hexdigest()
