"""Attacks by name: those of this package and those that other packages add.

Another package adds one by an entry point of the group ``safe_r1.attacks`` whose name is the attack's and
whose value is an ``Attack``, e.g. in its ``pyproject.toml``::

    [project.entry-points."safe_r1.attacks"]
    my-attack = "my_package.my_attack:MY_ATTACK"
"""

import difflib
import functools
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from safe_r1.attacks import encoding, framing, reasoning, writing
from safe_r1.attacks.base import PLAIN, Attack
from safe_r1.config.adaptive import METHODS
from safe_r1.errors import ConfigError

logger = logging.getLogger(__name__)

ENTRY_POINTS = "safe_r1.attacks"
_OWN = (*writing.ATTACKS, *encoding.ATTACKS, *framing.ATTACKS, *reasoning.ATTACKS)
_BY_NAME: dict[str, Attack] = {attack.name: attack for attack in (PLAIN, *_OWN)}

SETS: dict[str, tuple[str, ...]] = {
    "zh-quick": ("pinyin", "homophones", "role", "refusal-suppression", "thought-hijack"),
    "zh-standard": (
        "pinyin",
        "pinyin-words",
        "homophones",
        "split-characters",
        "zero-width",
        "classical",
        "base64",
        "role",
        "fiction",
        "research",
        "filter-data",
        "code",
        "few-shot",
        "refusal-suppression",
        "payload-splitting",
        "homophones+role",
        "thought-hijack",
        "planted-history",
        "thought-prefill",
        "answer-prefix",
    ),
    "all": tuple(attack.name for attack in _OWN),
}
"""Names of sets to attacks. ``all`` has every attack of this package, without combinations."""


def names() -> list[str]:
    """Names of all attacks, this package's first; imports no other package."""
    return [*_BY_NAME, *_added()]


def get_attack(name: str) -> Attack:
    """The attack of that name; no combination.

    Raises:
        ConfigError: The name is unknown (the message offers the nearest ones), or the package that adds it
            cannot be loaded.
    """
    attack = _BY_NAME.get(name) or _load_added(name)
    if attack is None:
        raise unknown(name, names())
    return attack


def unknown(name: str, known: Iterable[str]) -> ConfigError:
    """The error of a name that is none of the known ones, nor of a set."""
    known = [*known, *SETS, *METHODS]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`safe-r1 attacks list` shows the known ones"
    return ConfigError(f"unknown attack {name[:80]!r}: {hint}")


@functools.cache
def _added() -> Mapping[str, EntryPoint]:
    """Entry points of other packages by name; a name that is already in use is left out, with a warning."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINTS):
        # The first one wins: otherwise an installed package could replace a published attack unnoticed.
        if point.name in (*_BY_NAME, *SETS, *METHODS, *found):
            logger.warning(
                "attack %r of package %s is ignored: the name is taken", point.name, _origin(point)
            )
        else:
            found[point.name] = point
    return found


@functools.cache
def _load_added(name: str) -> Attack | None:
    point = _added().get(name)
    if point is None:
        return None
    try:
        attack = point.load()
    except Exception as error:  # importing another package's module can raise anything
        raise ConfigError(
            f"attack {name!r} of package {_origin(point)} cannot be loaded from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(attack, Attack) or attack.name != name:
        raise ConfigError(
            f"attack {name!r} of package {_origin(point)}: {point.value} is not an Attack of that name"
        )
    return attack


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
