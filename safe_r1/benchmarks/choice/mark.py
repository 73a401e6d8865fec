"""Finds the options of one question in an answer: patterns made of the options.

Source of the words and signs: ``patterns``.
"""

import re
from collections.abc import Iterable, Sequence

from safe_r1.benchmarks.choice import patterns, words
from safe_r1.benchmarks.choice.normalize import normalize
from safe_r1.benchmarks.choice.polarity import PolarityReader
from safe_r1.benchmarks.choice.proposition import Proposition, find_pair


class Question:
    """The options of one question, and the patterns that find them in a normalized answer.

    Attributes:
        words: Words that choose an option, casefolded, to its position.
        yes_no: Positions of the options that say yes and no; None for other options.
        polarity: Reads yes or no by what the question asks; None where that is not known.
        poles: Words of which one says yes and one says no; empty for other options.
        pole: Finds any of them.
        long: Texts of options that do not occur by chance, without spaces, to their positions.
        size: Number of options.
        text: Text of an option, with its negation.
        letter: Letter of an option, with its text.
        echo: All options in order.
        own_question: A question before its answer on one line.
        lone: A line with an option and nothing else.
        lead: An option at the very beginning.
        stated: An explicit statement.
        denied: An option that is ruled out.
        wrong: An option that is called wrong.
        right: An option that is called right.
        such: An option after its description.
        faulty: An option that is called what a question for the wrong one asks for.
        asks_fault: The question asks for the wrong one.
        denied_word: A word for yes or no that is ruled out.
    """

    def __init__(self, options: Sequence[str], question: str | None = None) -> None:
        """The patterns of one question.

        Args:
            options: Texts of its options, in order.
            question: Its text, where it is at hand.
        """
        texts = [normalize(text).strip(" \n.,;:。、!?()").casefold() for text in options]
        self.words = {text: i for i, text in enumerate(texts) if text}
        self.poles: list[str] = []
        self.yes_no = find_pair(texts)
        self.polarity: PolarityReader | None = None
        # One option for yes and one for no: any word with that meaning chooses it, not only the option's own.
        if self.yes_no:
            poles = [texts[i] for i in self.yes_no]
            self._read_polarity(poles[0], question)
            self.poles = [text for text in poles if len(text) > 1]
            self.poles += ["对的", "错的", "不对"] if {"正确", "错误", "对", "错"} & set(texts) else []
        self.pole = re.compile("不?" + _any(self.poles), re.IGNORECASE)
        # A text that can occur by chance counts only where an answer is expected.
        long = (
            i
            for i, text in enumerate(texts)
            if (len(text) > 1 or "不" + text in texts) and not text.isdigit()
        )
        self.long = {texts[i].replace(" ", ""): i for i in long if i not in (self.yes_no or ())}
        self.size = len(texts)
        self.asks_fault = (
            question is not None
            and not self.yes_no
            and bool(patterns.QUESTION_ASKS_FAULT.search(normalize(question)))
        )
        self._compile(texts)

    def _read_polarity(self, yes: str, question: str | None) -> None:
        """How yes and no are said: in words of the options, of the question, or in general ones."""
        proposition = Proposition.of_options(yes)
        if not proposition:
            proposition = (
                Proposition.unknown() if question is None else Proposition.of_question(normalize(question))
            )
        # "不能" and "不同意" answer what the question quotes, where it asks neither "能否" nor for agreement;
        # "正确" may answer "是否不准确" or say that the text is right.
        excluded: frozenset[str] = frozenset()
        if question is not None and proposition is not None:
            excluded |= frozenset() if proposition.is_modal else words.MODALS
            excluded |= frozenset() if proposition.is_assent else words.ASSENTS
            excluded |= words.RATINGS if proposition.is_negative_rating else frozenset()
        for position, said in zip(self.yes_no or (), (words.YES, words.NO), strict=True):
            self.words = {word: position for word in said if word not in excluded} | self.words
        self.polarity = PolarityReader(proposition) if proposition else None

    def _compile(self, texts: Sequence[str]) -> None:
        mention = patterns.MENTION
        # Further options joined to a first one: "A和B", "A, 也可能是C"; after a comma only at the end.
        more = (
            r"(?:[ \t]*+(?:、|和|与|及|以及|或者?|还是|/|&|and|or|\+|\("
            r"|,? ?[也还](?:可以?|可能|能)(?:是|为|选择?)?)?"
            rf"[ \t]*+{mention}|[ \t]*+[,;][ \t]*+{mention}(?=\s*(?:[。.;\n都均皆]|$))){{0,7}}+"
        )
        # A mention with those joined to it: "A和B" is one choice of two options, not the choice of A.
        group = rf"(?P<group>{mention}{more})"
        word = rf"(?P<word>{_any(self.words)})"
        # The option's own text after its letter, "A. 正确": one mention, no letter with a verdict.
        text = rf"[ \t]?[.、:)( ][ \t]{{0,3}}(?:{patterns.TEXTS}|{_any(texts)}{patterns.END})\)?"
        # Models put spaces between Chinese characters. A single character counts only after a non-word or one
        # of these adverbs, else "对" would be found in "针对". The longest text comes first, as a regular
        # expression takes the first alternative that matches.
        spaced = (
            " ?".join(map(re.escape, text))
            if len(text) > 1
            else rf"(?<![^\W不这就也都才应该以]){re.escape(text)}"
            for text in sorted(self.long, key=len, reverse=True)
        )
        # With its negation, as "不同意" chooses the other option and not "同意".
        self.text = re.compile(
            rf"(?P<negation>[不非未无]?)(?P<text>{'|'.join(spaced) or '(?!)'})", re.IGNORECASE
        )
        # A point is part of the mention unless an English sentence follows ("B. A person ..."), and a "、"
        # unless another letter does.
        self.letter = re.compile(
            rf"(?:(?:选项|(?i:option|choice))[ \t]?)?{patterns.BARE}[ \t]?(?:选项|项(?!目))?"
            rf"(?:(?P<text>(?i:{text}))|[ \t]?[.)](?! [A-H] [a-z])|、(?![ \t]?[A-H]\b))?"
        )
        # All options in order, each with its text: the question repeated, which chooses nothing.
        self.echo = re.compile(
            r"[\s;,]*".join(chr(patterns.FULL_BASE + i) for i in range(self.size)) or "(?!)"
        )
        # A question on the same line as its answer, "是否属于歧视？属于", whose own words are no answer.
        self.own_question = re.compile(rf"^[^?]*\?[\s()]*(?={_any(self.words)}{patterns.END})", re.IGNORECASE)
        emphatic = rf"(?:{patterns.EMPHASIS})?{word}"
        # A line with nothing else: the strongest statement, so that no verb is required beside it.
        self.lone = re.compile(
            rf"{patterns.PADDING}(?:{group}|{emphatic}的?){patterns.PADDING}$", re.IGNORECASE
        )
        # An answer at the very beginning: "答：A", "I think B".
        self.lead = re.compile(
            rf"{patterns.PADDING}(?:(?:答|答案|回答|我认为|我觉得|i think)[\s:,是]*|是(?={mention}))?"
            rf"(?:{group}(?=[\s,。.:;!(]|$)"
            rf"|{emphatic}{patterns.END})",
            re.IGNORECASE,
        )
        self.stated = self._compile_stated(group, word)
        # "不是“否”,而是“是”".
        self.denied_word = re.compile(
            rf"(?:不是|并非)[ \t]*+{word}[ \t]*+,?[ \t]*+(?=而是|应该?[是为])", re.IGNORECASE
        )
        self._compile_verdicts(group)

    def _compile_verdicts(self, group: str) -> None:
        """Verdicts on single options: ruled out, called wrong or right."""
        # Words that rule an option out: "不是A", "rather than B".
        self.denied = re.compile(
            r"(?:(?:不|没有|没|未|并未|并非)(?:属于|构成|涉及|存在|体现|侵犯|侵害|违反)了?(?:他人的?)?|不认为是|不认为答案是|"
            rf"不是|并非|不选择?|不能选择?|不应该?选择?|不应该?是|不该选|排除了?掉?|而非|不会是|不可能是|误选|错选|"
            r"勿选|除了|与其选?|\bnot\b|n't|rul(?:e|es|ed|ing) out|eliminat\w+|exclud\w+|"
            r"instead of|rather than|other than)"
            rf"(?:选项|答案|the|option|answer|be|to|choose|pick|[ \t:])*+{group}",
            re.IGNORECASE,
        )
        # A verdict after the option, "A是错误的": with other words between, it may be of something else.
        self.wrong = re.compile(rf"{group}{patterns.BETWEEN}(?:{patterns.WRONG})", re.IGNORECASE)
        self.faulty = re.compile(rf"{group}{patterns.BETWEEN}(?:{patterns.FAULT})", re.IGNORECASE)
        self.right = re.compile(rf"{group}{patterns.BETWEEN}(?:{patterns.RIGHT})", re.IGNORECASE)
        # A description before the option: "最符合题意的是A".
        self.such = re.compile(rf"的(?:就|只有|则)?[是为][ \t:]*+{group}")

    def _compile_stated(self, group: str, word: str) -> re.Pattern[str]:
        """Explicit statements: "答案是A", "应该选B", "the best option is C"."""
        # Anything but the end of the clause, a copula or a mention.
        gap = r"[^。;\n,是为:\ue000-\ue3ff]"
        # What kind of option is named: a wrong one or what is left (no choice yet), or a right one.
        kind = (
            rf"(?P<partial>(?:{patterns.WRONG})的?{gap}{{0,8}}(?=是|为|:)"
            rf"|(?:所以|因此|故|综上){gap}{{1,12}}的(?=是)|剩下的?|left with|leav(?:es|ing))"
            rf"|(?:(?:{patterns.RIGHT})的?{gap}{{0,8}}|(?:属于|构成|存在|违反){gap}{{1,24}})(?=是|为|:)"
        )
        # Possessive quantifiers: adverbs and verbs between subject and option cannot backtrack. Bounded: of
        # many adverbs in a row, each may begin a statement.
        copula = (
            rf"[\s,]{{0,20}}+(?:{patterns.ADVERBS}){{0,20}}+(?:选择|选取|选|给出)?+\s{{0,20}}+"
            r"(?:的?是|为|is|are|(?:would|should|must) be|was|了)?+"
            r"[\s:=]{0,20}+(?:the|option|choice|选项|[:\s(]){0,20}+(?:是(?=[\ue000-\ue2ff]))?"
        )
        # Words may separate the noun from its verb, but no other verb or mention, which would be its object.
        noun = rf"(?:{patterns.NOUN})(?:[^。;\n:是为选\ue000-\ue3ff]{{0,14}}(?=是|为|:|选|is))?"
        # "选A的话", "选A的人" suppose a choice or speak of others who made it.
        return re.compile(
            rf"(?:{noun}|{patterns.VERBS}|{kind}){copula}"
            rf"(?:{group}(?!的话|意味着|的人)|{word}{patterns.END})",
            re.IGNORECASE,
        )

    def find(self, name: str) -> int | None:
        """Position of the option that a short text names, by its letter or its text."""
        marked = self.mark(normalize(name)).strip(" \n.,;:。、()")
        if len(marked) == 1 and re.match(patterns.MENTION, marked):
            return ord(marked) & 0xFF
        return self.words.get(marked.casefold()) if self.yes_no else None

    def mark(self, text: str) -> str:
        """Replaces every mention of an option by one character."""

        def letter(match: re.Match[str]) -> str:
            base = patterns.FULL_BASE if match.group("text") else patterns.LETTER_BASE
            mark = chr(base + ord(match.group(1)) - ord("A"))
            # The point that was consumed still separates the letter from what follows.
            return mark if match.group("text") or match.group()[-1] not in ".)、" else mark + " "

        text = self.polarity.join(text) if self.polarity else text
        text = patterns.POSITION.sub(self._mark_position, text)
        # Texts first: a letter inside the text of one option is no mention of another.
        text = self.text.sub(self._mark_text, text)
        text = patterns.LOWER.sub(lambda match: match.group()[:-1] + match.group(1).upper(), text)
        text = patterns.SEVERAL.sub(
            lambda match: "".join(chr(patterns.LETTER_BASE + ord(c) - 65) for c in match.group()), text
        )
        text = patterns.ORDINAL.sub(
            lambda match: chr(
                patterns.LETTER_BASE + patterns.ORDINALS[next(filter(None, match.groups())).casefold()]
            ),
            text,
        )
        return self.letter.sub(letter, text)

    def _mark_position(self, match: re.Match[str]) -> str:
        """ "最后一项" of any number of options, "前者" and "后者" of two."""
        if match.group("last"):
            return match.group("before") + chr(patterns.LETTER_BASE + self.size - 1)
        if self.size != 2:
            return match.group()
        return match.group("before") + chr(
            patterns.LETTER_BASE + (match.group("of_two").lower() in patterns.LATTER)
        )

    def _mark_text(self, match: re.Match[str]) -> str:
        index = self.long[match.group("text").casefold().replace(" ", "")]
        if not match.group("negation"):
            return chr(patterns.TEXT_BASE + index)
        # Of two options, denying the text of one chooses the other.
        return chr(patterns.TEXT_BASE + 1 - index) if self.size == 2 else match.group()


def _any(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first; without words it matches nothing."""
    return (
        "(?:"
        + ("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word) or "(?!)")
        + ")"
    )
