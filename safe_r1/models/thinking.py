"""The forms in which models mark their thoughts.

Known forms are recognised in any completion. Others come from a model's tokenizer or from a variant's entry.

Source: chat templates of the models named below; openai-harmony for the channels.
"""

import functools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_INVISIBLE = "\u200b-\u200d\u2060\ufeff"
_GAP = rf"[\s{_INVISIBLE}]{{0,3}}"
_LEFT = r"(?:[<＜◁]|&lt;|\\u003c)"
_RIGHT = r"(?:[>＞▷]|&gt;|\\u003e)"
_BAR = "[|｜]?"


@dataclass(frozen=True)
class ThinkingTags:
    """What stands before and after a model's thoughts, as it writes them."""

    open: str
    close: str


@dataclass(frozen=True)
class Tag:
    """A tag in a text.

    Attributes:
        start: Position of its first character.
        end: Position after its last.
        form: Which form it belongs to: tags of different forms do not close each other.
        closes: It ends thoughts.
    """

    start: int
    end: int
    form: int
    closes: bool


def _named(*names: str) -> tuple[str, str]:
    """Tags of some names as models write them: any brackets, gaps, attributes, a slash of either kind.

    Bounded repeats keep the search linear.
    """
    # A zero-width character may stand between any two letters.
    spelled = "|".join(f"[{_INVISIBLE}]?".join(name) for name in names)
    head = rf"{_LEFT}{_GAP}{_BAR}{_GAP}"
    name = rf"(?:\w{{1,16}}:|longcat_)?(?:{spelled})"
    tail = rf"(?:\s[^<>＜＞\n]{{0,40}})?{_GAP}{_BAR}{_GAP}{_RIGHT}"
    return head + name + tail, rf"{head}[/\\]{{1,2}}{_GAP}{name}{tail}|{head}{name}{_GAP}/{_GAP}{_RIGHT}"


def _bounded(*begin: str) -> tuple[str, str]:
    """Tags in bars whose name says that thoughts begin or end: <|begin_of_thought|>, <|think_end|>."""
    thoughts = "(?:think(?:ing)?|thoughts?|reasoning)"
    pair = ("|".join(begin), "end")
    opens, closes = (rf"<[|｜](?:(?:{word})_(?:of_)?{thoughts}|{thoughts}_(?:{word}))[|｜]>" for word in pair)
    return opens, closes


# Opening and closing pattern of each form; what is case-sensitive says so.
NAMED_FORMS = frozenset({0, 1})
"""Forms of tags with names, which models mix: <reasoning> … </think>."""
_FORMS = (
    # DeepSeek-R1, Qwen3, GLM, Kimi (◁think▷), Seed-OSS (<seed:think>), Marco-o1, EXAONE and most others.
    _named("think", "thinking", "thought", "thoughts", "思考"),
    _named("reason", "reasoning"),
    # Magistral.
    (r"(?-i:\[THINK\])", r"(?-i:\[/THINK\])"),
    # OpenThinker and Sky-T1 (<|begin_of_thought|>), Command A Reasoning (<|START_THINKING|>).
    _bounded("begin", "start"),
    # Apertus.
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    # gpt-oss: channels of harmony, whole or without their special tokens.
    (
        r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<\n]{0,40}<\|message\|>"
        r"|\A\s{0,8}(?-i:analysis(?=[^\sa-z]))",
        r"(?:<\|end\|>)?\s{0,3}(?:<\|start\|>assistant)?<\|channel\|>final[^<\n]{0,40}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
        r"|(?-i:assistantfinal(?=\S))",
    ),
    # Gemma 4.
    (r"<\|channel>thought\n?", r"<channel\|>"),
    # MedGemma.
    (r"<unused94>thought\n?", r"<unused95>"),
    # s1.
    (r"<\|im_start\|>think\n", r"<\|im_start\|>answer\n"),
    # Granite 3.2.
    (r"^Here is my thought process:", r"^Here is my response:"),
)
_KNOWN = re.compile(
    "|".join(
        f"(?P<o{number}>{opens})|(?P<c{number}>{closes})" for number, (opens, closes) in enumerate(_FORMS)
    ),
    re.IGNORECASE | re.MULTILINE,
)
# Names that tokens for thoughts have, whatever their brackets are.
_THOUGHT_TOKEN = re.compile(r"think|thought|reason|inner_|(?<![a-z])cot(?![a-z])|reflect", re.IGNORECASE)
# How the name of an opening token becomes that of its closing one.
_CLOSINGS = (
    (r"^(<\||<|\[|◁|＜)", r"\1/"),
    (r"^<\|", "</|"),
    (r"(?<![a-z])begin(?![a-z])", "end"),
    (r"(?<![a-z])start(?![a-z])", "end"),
    (r"(?<![a-z])open(?![a-z])", "close"),
    (r"prefix", "suffix"),
    (r"BEGIN|START", "END"),
)
# Of forms whose closing tag is no variation of the opening one, by position in `_FORMS`.
_OTHER_CLOSINGS = {
    5: "<|end|><|start|>assistant<|channel|>final<|message|>",
    6: "<channel|>",
    7: "<unused95>",
    8: "<|im_start|>answer\n",
    9: "\nHere is my response:",
}
_LOOKS_LIKE_TAG = re.compile(
    r"\s*+[<\[{]{1,2}[|｜]?[\w:-]{0,20}?(?:think|thought|reason|cot|reflect|scratch|inner|monolog|ponder|deliberat)"
    r"[\w:-]{0,20}[|｜]?[>\]}]{1,2}",
    re.IGNORECASE | re.ASCII,
)
# Thoughts speak of the user as of a third person, and of what they are about to do.
_THOUGHT_OPENING = re.compile(
    r"\s*+(?:(?:好的?|嗯|唔|首先|那么?|现在|我们?|来看|让我|看看|先"
    r"|okay|ok|alright|hmm+|so|first|now|let me see)[,，。.:：…\s]{0,3}){1,3}"
    r"(?:(?:这个|该)?用户(?:问|想|要|让|希望|提|说|发|需|现在|可能|在|给|又|似乎)"
    r"|我?(?:现在)?(?:需要|要|得)(?:先|来)?(?:解决|考虑|分析|弄清|搞清|想想|理清)"
    r"|the user(?:'s| is| wants| asks| asked| has| seems| said| just)\b"
    r"|i (?:need|have|want) to (?:figure|think|find|solve|understand|determine|work)\b)",
    re.IGNORECASE,
)


def find_tags(text: str, own: ThinkingTags | None = None) -> list[Tag]:
    """All tags of known forms in a text, or of the model's own.

    Args:
        text: A completion, or what a template writes before one.
        own: The model's own tags, which go before the known forms where they occur.
    """
    if own and (own.open in text or own.close in text):
        return list(_tags(_pattern_of(own), text))
    return list(_tags(_KNOWN, text))


def closing_tag(text: str, own: ThinkingTags | None = None) -> str:
    """What closes the thoughts that a text has left open; empty where it marks none.

    Args:
        text: A completion that ended inside its thoughts.
        own: The model's own tags where they are of no known form.
    """
    opened = next((tag for tag in reversed(find_tags(text, own)) if not tag.closes), None)
    if opened is None:
        return ""
    if own and own.open in text:
        return own.close
    # Without an attribute, a gap or an invisible character that the model has put into it.
    name = text[opened.start : opened.end].strip()
    for pattern, closing in _CLOSINGS:
        closed, number = re.subn(pattern, closing, name, count=1)
        if number and [tag.closes for tag in _tags(_KNOWN, closed)] == [True]:
            return closed
    return _OTHER_CLOSINGS.get(opened.form, "</think>")


def _tags(pattern: re.Pattern[str], text: str) -> Iterator[Tag]:
    for found in pattern.finditer(text):
        kind = str(found.lastgroup)
        yield Tag(found.start(), found.end(), int(kind[1:]), kind[0] == "c")


@functools.lru_cache(maxsize=16)
def _pattern_of(own: ThinkingTags) -> re.Pattern[str]:
    return re.compile(f"(?P<o0>{re.escape(own.open)})|(?P<c0>{re.escape(own.close)})")


def tags_of_tokenizer(tokens: Collection[str], template: str) -> ThinkingTags | None:
    """The tags that a tokenizer has for thoughts; None where it has none, or only of a known form.

    Args:
        tokens: Its added tokens.
        template: Its chat template; tokens that it uses go before others.
    """
    pairs: list[ThinkingTags] = []
    for token in tokens:
        if _THOUGHT_TOKEN.search(token):
            closings = (re.sub(pattern, closing, token, count=1) for pattern, closing in _CLOSINGS)
            pairs += [ThinkingTags(token, each) for each in closings if each != token and each in tokens]
    unknown = [pair for pair in pairs if not _is_known(pair)]
    used = [pair for pair in unknown if pair.close in template]
    return (used or unknown or [None])[0]


def _is_known(tags: ThinkingTags) -> bool:
    found = list(_tags(_KNOWN, tags.open + tags.close))
    return [tag.closes for tag in found] == [False, True]


def unknown_thinking(answer: str) -> str | None:
    """How an answer seems to begin with thoughts that no known tag marks; None where it does not.

    Args:
        answer: The answer of a completion without reasoning.

    Returns:
        The tag at its beginning, or ``no tag`` for an answer that begins as thoughts do.
    """
    if found := _LOOKS_LIKE_TAG.match(answer):
        return found[0].strip()
    return "no tag" if begins_as_thoughts(answer) else None


def begins_as_thoughts(text: str) -> bool:
    """True for a text that begins as thoughts do: "好的，用户想…", "Okay, so I need to figure out…"."""
    return _THOUGHT_OPENING.match(text) is not None
