"""One writing for whatever a model writes: full-width, traditional, emoji, LaTeX, Markdown."""

import re
import unicodedata
from collections.abc import Sequence

# One form for each character, so that the patterns below list none twice: simplified for traditional, plain
# for enclosed letters. Zero-width characters and Markdown go, as they may be inside any word; ticks and
# crosses become the verdicts that they stand for.
FOLD: dict[int, int | str | None] = {
    **str.maketrans(
        "’‘｡\rİı選項應該確錯誤對為個認結論種擇這題問屬於違無與從會說還沒絕權圖戰爭標準據實際規則條見觀點視歧貶損陳述斷當後榮譽隱處國業齡",
        "''。\nIi选项应该确错误对为个认结论种择这题问属于违无与从会说还没绝权图战争标准据实际规则条见观点视歧贬损陈述断当后荣誉隐处国业龄",
    ),
    **{first + i: 65 + i for first in (0x1F130, 0x1F150, 0x1F170) for i in range(26)},
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\ufe0f\u20e3*`#_")),
    **dict.fromkeys(map(ord, '“”"「」『』【】[]{}《》〈〉$|•'), " "),
    **dict.fromkeys(map(ord, "✅✔√☑✓"), "(正确)"),
    **dict.fromkeys(map(ord, "❌✗✘✖×✕"), "(错误)"),
    **dict.fromkeys(map(ord, "👉→➡⇒"), ":"),
}
MARKUP: Sequence[tuple[re.Pattern[str], str]] = [
    # Struck out: the model has withdrawn it.
    (re.compile(r"~~[^~\n]{1,200}~~"), " "),
    # Line breaks that were escaped twice, but not LaTeX such as \neq.
    (re.compile(r"\\n(?![a-z])"), "\n"),
    # Forms that mark a final answer without words: a box, a tag, a ticked item of a list.
    (
        re.compile(r"(?m)\\f?boxed|<answer>|^[ \t>*-]*(?:\[[xX]\]|[✅✔☑✓])(?=\s*[A-H])", re.IGNORECASE),
        " 答案:",
    ),
    # Commands and tags around a letter, as in \text{A} or <b>A</b>: their own letters are no mentions.
    (re.compile(r"\\[a-zA-Z]+|\\[()\[\]\s]|</?[a-zA-Z][^<>\n]{0,40}>|<\|[^<>|\n]{1,40}\|>|\[ \]"), " "),
    # A letter in brackets is one with a point, so that small letters need no rule of their own for brackets.
    (re.compile(r"[(\[【《]\s{0,2}([A-Za-z])\s{0,2}[)\]】》]"), r" \1. "),
    # Quotes, but not the apostrophe of "isn't", which denies.
    (re.compile(r"(?<![A-Za-z])'|'(?![A-Za-z])"), " "),
]


def normalize(text: str) -> str:
    """One writing for full-width, traditional, emoji and LaTeX forms, without Markdown, quotes and zero-width
    characters.
    """
    text = unicodedata.normalize("NFKC", text)
    # Before the folding, which removes the brackets and asterisks that these patterns need.
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    # Runs of white space are cut short here, so that no rule below can backtrack over them.
    return re.sub(r"(?: ?\n){3,}", "\n\n", re.sub(r"[^\S\n]+", " ", text.translate(FOLD)))
