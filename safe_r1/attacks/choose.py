"""From what a user types, or a TOML file of the user's, to attacks.

::

    attacks = ["zh-quick", "pinyin+role", "translation-thai", "my-frame"]
    [translations]
    thai = "thai.tsv"          # relative to this file
    [[frames]]
    name = "my-frame"
    text = "我奶奶以前常常这样给我讲：{question}"
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from safe_r1.attacks.base import Attack
from safe_r1.attacks.combine import SIGN, combine
from safe_r1.attacks.frames import FrameSettings
from safe_r1.attacks.registry import SETS, get_attack, names, unknown
from safe_r1.attacks.translation import PREFIX, translation
from safe_r1.config.adaptive import METHODS, AdaptiveMethod
from safe_r1.errors import ConfigError
from safe_r1.settings import Settings, load_config


class AttackFile(Settings):
    """Attacks of one's own and a choice of attacks, as a TOML file."""

    attacks: tuple[str, ...] = Field(
        default=(), description="names of attacks, combinations and sets; empty: the frames of this file"
    )
    frames: tuple[FrameSettings, ...] = Field(default=(), description="frames of one's own, as [[frames]]")
    translations: dict[str, str] = Field(
        default={}, description="name to a TSV or JSONL file of translations, as attack translation-NAME"
    )


def parse_attacks(chosen: str | Iterable[str]) -> list[Attack]:
    """The attacks that a user chose, each once, in order.

    Args:
        chosen: Names of attacks, combinations (``pinyin+role``), sets (``zh-standard``), translations
            (``translation:FILE``) and TOML files; several by comma or as several texts.

    Raises:
        ConfigError: A name is unknown, a combination makes no sense, a file does not fit, or nothing is
            chosen.
        DataError: A table of translations cannot be read.
    """
    texts = [chosen] if isinstance(chosen, str) else list(chosen)
    items = [item.strip() for text in texts for item in text.split(",")]
    found: dict[str, Attack] = {}
    for item in filter(None, items):
        attacks = _of_file(item) if item.endswith(".toml") else _of_item(item, {})
        for attack in attacks:
            if found.setdefault(attack.name, attack) != attack:
                raise ConfigError(f"two different attacks are called {attack.name!r}: rename one of them")
    if not found:
        raise ConfigError(f"no attack is given: name one, or a set of {', '.join(SETS)}")
    return list(found.values())


def split_adaptive(chosen: Iterable[str]) -> tuple[list[str], list[AdaptiveMethod]]:
    """What a user chose, as names for ``parse_attacks`` and attacks that adapt."""
    items = [item.strip() for text in chosen for item in text.split(",")]
    methods: list[AdaptiveMethod] = [
        method for item in dict.fromkeys(items) for method in METHODS if method == item
    ]
    return [item for item in items if item and item not in METHODS], methods


def attack_names(chosen: Iterable[str]) -> list[str]:
    """Names of all attacks that a user chose, each once, those that adapt last.

    Raises:
        ConfigError: See ``parse_attacks``.
        DataError: See ``parse_attacks``.
    """
    parsed, methods = parse_all(chosen)
    return [*(attack.name for attack in parsed), *methods]


def parse_all(chosen: Iterable[str]) -> tuple[list[Attack], list[AdaptiveMethod]]:
    """As ``parse_attacks``, with the attacks that adapt beside the others; one of both is enough."""
    names, methods = split_adaptive(chosen)
    return (parse_attacks(names) if names or not methods else []), methods


def absolute_names(chosen: Iterable[str]) -> list[str]:
    """The chosen attacks as a job that runs in another folder needs them: paths become absolute ones."""
    items = [item.strip() for text in chosen for item in text.split(",")]
    return [_absolute(item) for item in items if item]


def _absolute(item: str) -> str:
    if item.endswith(".toml"):
        return str(Path(item).absolute())
    if item.startswith(PREFIX):
        return f"{PREFIX}{Path(item.removeprefix(PREFIX)).absolute()}"
    return item


def _of_item(item: str, own: dict[str, Attack]) -> list[Attack]:
    """The attacks of a name, a set or a combination.

    Args:
        item: As it was typed.
        own: Further attacks by name.
    """
    if item in SETS:
        return [attack for name in SETS[item] for attack in _of_item(name, {})]
    if item.startswith(PREFIX):
        # A path of a table holds no plus sign: what follows is another attack.
        path, *others = item.removeprefix(PREFIX).split(SIGN)
        return [combine([translation(path), *(_find(name.strip(), own) for name in others)])]
    return [combine([_find(name.strip(), own) for name in item.split(SIGN)])]


def _find(name: str, own: dict[str, Attack]) -> Attack:
    if name in SETS:
        raise ConfigError(f"{name} is a set of attacks, which cannot be a part of a combination")
    if name in own:
        return own[name]
    if name in METHODS:
        raise ConfigError(
            f"{name} adapts to the model's answers: it is a choice of its own (--attack {name}), and no part "
            "of a combination or a file"
        )
    known = names()
    if name not in known:
        raise unknown(name, [*own, *known])
    return get_attack(name)


def _of_file(place: str) -> list[Attack]:
    settings = load_config(AttackFile, place, [])
    own: dict[str, Attack] = {}
    for frame in settings.frames:
        own[_free_name(frame.name, own, place)] = frame.attack("framing")
    for name, path in settings.translations.items():
        attack = translation(str(Path(place).parent / path), name)
        own[_free_name(attack.name, own, place)] = attack
    if not settings.attacks:
        if not own:
            raise ConfigError(f"{place}: it names no attack and has no frame")
        return list(own.values())
    return [attack for item in settings.attacks for attack in _of_item(item.strip(), own)]


def _free_name(name: str, own: dict[str, Attack], place: str) -> str:
    if name in own or name in names() or name in SETS or name in METHODS:
        raise ConfigError(f"{place}: the name {name!r} is taken; give the attack another one")
    return name
