"""Writes a result as plain LaTeX: units, currency, spaces and fonts are taken off, signs are spelled out.

Every pattern here takes linear time.
"""

import re

from safe_r1.benchmarks.math_text import narrow

_SIGNS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": r"\div ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∞": r"\infty ",
        "±": r"\pm ",
        "π": r"\pi ",
        "θ": r"\theta ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\varnothing ",
        "…": r"\ldots ",
        "⋯": r"\ldots ",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "、": ", ",
    }
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUBSCRIPT = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_RAISED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_ROOT = re.compile(r"√\s?(?:\((?P<inside>[^()]{1,80})\)|(?P<bare>\d++(?:\.\d++)?|[A-Za-z])?)")

# "1\,000", "1{,}000", "10,\!080", "1 000" with a thin space.
_INSIDE_NUMBER = re.compile(
    r"(?<=\d)(?:\\[,;:! ]|\{,\}|,\s?\\!\s?|[\u2009\u202f\u00a0\u2006]|~){1,3}(?=\d{3}(?!\d))"
)
_THOUSANDS = re.compile(r"(?<![\d,.(\[])(?<!\\\{)(\d{1,3}(?:,\d{3})++)(?![\d,])")
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z])|[\u2000-\u200a\u202f\u205f\u00a0\t\n]")
_SIZES = re.compile(r"\\(?:displaystyle|textstyle|left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|\\?\$|[¥￥€£₹]|\\(?:pounds|euro|yen)(?![A-Za-z])|\*\*(?!\s?\d)")
_DEGREES = re.compile(r"\^?\s?\{?\s?\\(?:circ|degree)(?![A-Za-z])\s?\}?|[°º℃]|(?<=\d)\s?度")
# What changes the look of a formula and not its value.
_DECORATION = re.compile(
    r"\\(?:(?:color|tag\*?|label|[hv]?phantom|[hv]space\*?|textcolor)\s?\{[^{}]*\}"
    r"|(?:underline|boldsymbol|bm)(?=\s?\{)|(?:large|Large|LARGE|huge|Huge|small|normalsize|bf|rm|it)(?![A-Za-z]))"
)
_REPEATING = re.compile(r"(?<![\d.])(\d{0,9})\.(\d{0,9})\\(?:overline|overline\s|bar|dot)\s?\{(\d{1,9})\}")
_DOTS = re.compile(r"\\(?:ldots|cdots|dots[cbmio]?)(?![A-Za-z])|\.{3,}")
_MATRIX = re.compile(r"\\(begin|end)\{(?:[bB]?matrix|smallmatrix|array)\}(?:\{[clr|\s]*\})?")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|tt|normal)|[mh]box|operatorname)\*?\s?\{([^{}]*)\}"
)
_POWER_OF_UNIT = re.compile(r"\s?\^\s?(?:\{[23]\}|[23])")
_OR = re.compile(r",?\s?(?:(?<![A-Za-z\\])or(?![A-Za-z])|(?<=[\w)}\s])或者?(?=[\s\w({\\-]))\s?,?", re.I)
_AND = re.compile(
    r",?\s?(?:(?<![A-Za-z\\])and(?![A-Za-z])|(?<=[\w)}\s])(?:和|以及|及|与|且)(?=[\s\w({\\-]))\s?,?", re.I
)
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d++(?:\.\d++)?)[eE]([+-]?\d{1,4})(?![\dA-Za-z])")
_MIXED = re.compile(
    r"(?<![\d.}\w^_])(-?)(\d{1,18}+)\s?\\[dtc]?frac\s?(?:\{(\d{1,18})\}\s?\{(\d{1,18})\}|(\d)\s?(\d)(?!\d))"
)
_MIXED_PLAIN = re.compile(r"(?<![\d./^\w])(-?)(\d{1,18}+)\s(\d{1,18})\s?/\s?(\d{1,18})(?![\d.])")

# Names of one unit, to tell 5 m from 5 cm; the plural of a name counts too.
_UNITS = {
    name: number
    for number, names in enumerate(
        (
            "mm millimeter millimetre 毫米",
            "cm centimeter centimetre 厘米",
            "dm 分米",
            "m meter metre 米",
            "km kilometer kilometre 千米 公里",
            "in inch inches 英寸",
            "ft foot feet 英尺",
            "mi mile 英里",
            "s sec second 秒",
            "min minute 分钟",
            "h hr hour 小时",
            "day 天",
            "mg milligram 毫克",
            "g gram 克",
            "kg kilogram 千克 公斤",
            "t ton tonne 吨",
            "ml milliliter 毫升",
            "l liter litre 升",
            "dollar 美元",
            "cent 美分",
            "yuan rmb cny 元",
            "percent pct",
        )
    )
    for name in names.split()
}
_VALUE_ENDS = re.compile(r"(?:[\d})]|\\pi)\s?$")
# Words with which a remark behind a value begins.
_PROSE = frozenset(["is", "are", "in", "of", "for", "when", "as", "because", "since", "per", "each"])
_BARE_UNIT = re.compile(
    r"(?<=[\d)}\s])\s?(?P<unit>(?:(?:sq(?:uare)?|cubic)\.?\s)?(?:[A-Za-z]{1,24}|[\u3400-\u9fff]{1,6}))"
    r"\.?(?:\s?\^\s?\{?[23]\}?)?(?P<more>(?:\s?/\s?|\s)[A-Za-z\u3400-\u9fff][A-Za-z\u3400-\u9fff ]{0,40})?$"
)
# Words that change what a number says: "not 42", "大于 42".
_QUALIFIES = re.compile(
    r"\b(?:not|no|than|least|most|above|below|over|under|about|never|without)\b|[不非超约]|大于|小于|[多少]于|至[少多]|以[上下]"
)
_LEAD = re.compile(r"^(?:the\s)?(?:final\s)?(?:answer|result)(?:\sis)?\s?:?\s?", re.I)
_CJK_LEAD = re.compile(r"^[\u3400-\u9fff:\s]{1,20}(?=[-\d\\(.A-Za-z])")
_IS = re.compile(r"(?<=[A-Za-z)])\s?(?:为|是|等于)\s?(?=[-\d\\(.A-Za-z])")


def spell(result: str, letters: frozenset[str] = frozenset()) -> str:
    """A result as plain LaTeX.

    Args:
        result: As it is written.
        letters: Letters that are variables, and so no units.
    """
    text = _signs(result)
    text = _without_units(text, letters)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text.replace("**", "^"))
    text = _MIXED.sub(
        lambda found: _mixed(found[1], found[2], found[3] or found[5], found[4] or found[6]), text
    )
    text = _MIXED_PLAIN.sub(lambda found: _mixed(found[1], found[2], found[3], found[4]), text)
    text = _REPEATING.sub(lambda found: _repeating(found[1], found[2], found[3]), text)
    text = re.sub(r"(?<!\\)%", r"\\%", text)
    text = re.sub(r"^\s?\\approx\s?", "", text).partition(r"\approx")[0]
    text = re.sub(r"\s+", " ", text).strip(" ,;:*").rstrip(" .。")
    is_group = text.startswith("{") and text.endswith("}") and "{" not in text[1:]
    return text[1:-1].strip() if is_group else text


def unit_of(result: str) -> int | None:
    """The unit that a result names; None without one, or of one that is not known."""
    plain = _FONT.sub(r" \1 ", _signs(result)).strip(" .。")
    found = re.search(r"([A-Za-z]{1,12}|[\u3400-\u9fff]{1,4})(?:\s?\^\s?\{?[23]\}?)?$", plain)
    if not found or not re.search(r"\d", plain[: found.start()]):
        return None
    name = found[1].lower()
    return _UNITS.get(name, _UNITS.get(name.removesuffix("s"), _UNITS.get(name.removesuffix("es"))))


def words_of(result: str) -> str | None:
    """The words of a result that is no mathematics, such as a name or a letter; None for mathematics."""
    plain = plain_words(result)
    is_letter = re.fullmatch(r"[A-Z]", plain) is not None and ("\\" in result or "(" in result)
    return (
        plain
        if is_letter or re.fullmatch(r"(?=.*?(?:[A-Za-z]{3}|[\u3400-\u9fff]))[^\d=<>^_+\\|]*+", plain)
        else None
    )


def plain_words(result: str) -> str:
    """A result as words: without fonts, brackets, articles and punctuation, letters in lower case."""
    plain = _SIZES.sub("", narrow(_INVISIBLE.sub("", result)))
    for _ in range(3):
        plain = _FONT.sub(r" \1 ", plain)
    plain = re.sub(r"\s+", " ", _DELIMITERS.sub("", _SPACES.sub(" ", plain)))
    plain = re.sub(r"^\((.*)\)$", r"\1", plain.strip(" .。,;:!*\"'“”")).strip()
    return plain if len(plain) == 1 else re.sub(r"^(?:the|an?) ", "", plain.casefold())


def _signs(result: str) -> str:
    text = narrow(_INVISIBLE.sub("", _INSIDE_NUMBER.sub("", result))).translate(_SIGNS)
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(_LOWERED)}}}", text)
    text = _SUBSCRIPT.sub(lambda found: f"_{{{found[0].translate(_RAISED)}}}", text)
    text = _ROOT.sub(
        lambda found: (
            rf"\sqrt{{{found['inside'] or found['bare']}}}" if found.end() - found.start() > 1 else r"\sqrt "
        ),
        text,
    )
    text = _THOUSANDS.sub(lambda found: found[1].replace(",", ""), _INSIDE_NUMBER.sub("", text))
    text = _DOTS.sub(r"\\ldots ", _DECORATION.sub("", _SIZES.sub("", text)))
    text = re.sub(r"\\emptyset(?![A-Za-z])", r"\\varnothing", text)
    text = _DEGREES.sub("", _DELIMITERS.sub("", _SPACES.sub(" ", text)))
    return _MATRIX.sub(r"\\\1{pmatrix}", text)


def _without_units(text: str, letters: frozenset[str]) -> str:
    """The text with "and" and "or" as separators, and without words beside its numbers."""
    for _ in range(3):
        text = _FONT.sub(_plain_font, text)
    text = _IS.sub("=", _AND.sub(", ", _OR.sub(r" \\lor ", text))).strip().rstrip(" .。")
    if _QUALIFIES.search(text) or not re.search(r"\d|\\pi", text):
        return text
    text = _CJK_LEAD.sub("", _LEAD.sub("", text))
    text = re.sub(r"\s?[(（][A-Za-z\u3400-\u9fff ]{2,20}[)）]$", "", text)
    if (unit := _BARE_UNIT.search(text)) and _is_unit(unit["unit"], text[: unit.start()], letters):
        return text[: unit.start()]
    return text


def _plain_font(found: re.Match[str]) -> str:
    """The content of \\text and its like; a unit gets a space before it, and loses its power."""
    content = found[1]
    before = found.string[: found.start()].rstrip()
    if before and _VALUE_ENDS.search(before) and re.fullmatch(r"[\sA-Za-z./]*", content):
        return f" {content.strip()} "
    return content


def _is_unit(name: str, before: str, letters: frozenset[str]) -> bool:
    """Whether a word behind a number is a unit or a noun, and not a product of variables."""
    if not _VALUE_ENDS.search(before):
        return False
    if name.lower() in _PROSE:
        return True
    if re.match(r"[\u3400-\u9fff]", name):
        return True
    if len(name) == 1:
        return name not in letters and name in "mgshLl"
    singular = name.lower().removesuffix("s")
    return name.lower() in _UNITS or singular in _UNITS or len(name) >= 4


def _repeating(whole: str, fixed: str, repeated: str) -> str:
    """A repeating decimal such as 0.1(6) as a fraction."""
    numerator = int(f"{whole}{fixed}{repeated}") - int(f"0{whole}{fixed}")
    return rf"\frac{{{numerator}}}{{{'9' * len(repeated)}{'0' * len(fixed)}}}"


def _mixed(sign: str, whole: str, numerator: str, denominator: str) -> str:
    """A mixed number such as 1 3/4, which LaTeX would multiply."""
    total = int(whole) * int(denominator) + int(numerator)
    return rf"{sign}\frac{{{total}}}{{{denominator}}}"
