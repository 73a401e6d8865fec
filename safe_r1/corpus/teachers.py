"""Teachers write responses for prompts that have none: the template teacher, and the prompt of a model.

The template teacher composes reasoning and a refusal with guidance from sentences of the category's policy
card, without a model. The same row and candidate give the same text on every machine.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safe_r1.corpus.rows import CorpusRow
from safe_r1.policies import PolicyCard, Sentence, load_cards
from safe_r1.runs import sha256
from safe_r1.schema import Message

# Verbs and phrases that ask for a text, a plan or instructions ("write", "help me", "how do I ..."); the
# lookaheads exclude questions for an opinion ("how do you see ...").
_REQUEST = re.compile(
    r"写|编[一个写造出篇份段几]|帮我|帮忙|替我|给我|教我|告诉我|来[点段个]|做一|准备一|生成|设计|制作|列出|列举|提供|拟|起草|整理|规划|"
    r"推荐|翻译|扮演|假装|伪造|策划|换换|断定|保证|定个|准话|怎么(?!看|样|会|能说|了|可能)|如何(?!看待|评价)|怎样(?!看)"
)
# Endings that ask for agreement ("..., right?", "don't you agree?") instead.
_AGREEMENT_QUESTION = re.compile(
    r"(?:[吧呢]|怎么了|对不对?|是不是|[认服]不[认服]|(?:对|是|没错|同意|赞成|赞同|认同|认可|支持|承认|懂)[吗么嘛])[？?]$"
)
# A longer quote would repeat most of a risky prompt.
_MAX_QUOTE_CHARS = 36

_INSTRUCTIONS = """\
下面是一位用户与助手的对话，以及一张安全策略卡。请以助手的身份回复最后一条用户消息。

要求：
1. 先在 <think> 和 </think> 之间用第一人称思考：看清用户想要什么，对照策略卡说明风险在哪里、依据是什么，\
再决定怎样回应。思考中同样不得写出有害内容、操作细节或歧视性言辞。
2. 思考结束后直接给出回复：若请求有风险，明确而礼貌地拒绝，并给出负责任的引导（事实、法律或价值依据、\
合法的替代办法）；若问题本身无害，就充分、具体地回答，不要拒绝。
3. 回复用{language}，自然、不说教，不提“策略卡”，不复述有害内容。

【策略卡】
{policy}

【对话】
{dialogue}

现在请从 <think> 开始写。"""
_LANGUAGE_NAMES = {"zh": "中文", "en": "英文"}
_ROLE_NAMES = {"system": "系统", "user": "用户", "assistant": "助手"}

PROMPT_SHA256 = sha256(_INSTRUCTIONS)
"""Hash of the prompt of a teacher model."""
TEACHERS_SHA256 = sha256(Path(__file__).read_text(encoding="utf-8"))
"""Hash of this file: the responses of both teachers depend on its texts and rules."""


class Response(NamedTuple):
    """Reasoning and answer of an assistant."""

    reasoning: str
    answer: str


def teacher_messages(row: CorpusRow) -> list[Message]:
    """Prompt of a teacher model: instructions, the policy card of the row's category, and the dialogue.

    A row without a category (a reasoning prompt) has no policy: its dialogue is the prompt.
    """
    if row.category is None:
        return row.messages
    card = load_cards()[row.category]
    dialogue = "\n".join(f"{_ROLE_NAMES[turn['role']]}：{turn['content']}" for turn in row.messages)
    text = _INSTRUCTIONS.format(language=_LANGUAGE_NAMES[row.language], policy=card.policy, dialogue=dialogue)
    return [Message(role="user", content=text)]


def compose_response(row: CorpusRow, candidate: int, seed: int) -> Response | None:
    """A response of the template teacher; None for a row that is not Chinese, not risky or without a card."""
    card = load_cards().get(row.category or "")
    if card is None or row.language != "zh" or row.kind != "safety":
        return None
    # Seeded by a hash, because Python's own hash of a text differs between processes.
    rng = random.Random(hashlib.sha256(f"{seed}|{row.row_id}|{candidate}".encode()).digest())
    prompt = row.messages[-1]["content"]
    picker = _SentencePicker(prompt, is_request(prompt), rng)
    return Response(_reasoning(card, picker), _answer(card, picker))


def is_request(prompt: str) -> bool:
    """True if a prompt asks for a text or for help, False if it asks for agreement with an opinion."""
    return _REQUEST.search(prompt) is not None and _AGREEMENT_QUESTION.search(prompt.rstrip()) is None


@dataclass(frozen=True)
class _SentencePicker:
    """Picks sentences of a policy card for one prompt."""

    prompt: str
    is_request: bool
    rng: random.Random

    def pick(self, sentences: Sequence[Sentence], count: int) -> list[str]:
        """Up to ``count`` fitting sentences in random order, the ones most relevant to the prompt first."""
        fitting = [sentence for sentence in sentences if sentence.fits(self.prompt, self.is_request)]
        order = sorted(fitting, key=lambda sentence: (-sentence.relevance(self.prompt), self.rng.random()))
        return [sentence.text for sentence in order[:count]]


def _reasoning(card: PolicyCard, picker: _SentencePicker) -> str:
    # The order of the random draws is part of the result: a draw more or less changes every response.
    rng = picker.rng
    quote = _quote(picker.prompt)
    stop = "" if quote.endswith(("？", "！")) else "。"
    openings = _REQUEST_OPENINGS if picker.is_request else _OPINION_OPENINGS
    observations = "".join(picker.pick(card.observations, rng.choice((1, 1, 2))))
    decision = picker.pick([line for line in card.decisions if line.for_request is not None], 1)
    manner = picker.pick([line for line in card.decisions if line.for_request is None], rng.choice((0, 1)))
    lines = [
        f"{rng.choice(openings)}：“{quote}”{stop}{observations}",
        "".join(picker.pick(card.checks, rng.choice((1, 2)))),
        "".join(decision + manner),
    ]
    return rng.choice(("\n", "\n\n")).join(lines)


def _answer(card: PolicyCard, picker: _SentencePicker) -> str:
    rng = picker.rng
    opening = "".join(picker.pick(card.refusals if picker.is_request else card.stances, 1))
    reasons = "".join(picker.pick(card.reasons, rng.choice((1, 2))))
    guidance = picker.pick(card.guidance, rng.choice((2, 3, 3)))
    [offer] = picker.pick(card.offers, 1)
    if rng.random() < _LIST_PROBABILITY:
        steps = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(guidance, 1))
        return f"{opening}{reasons}\n\n{rng.choice(_LIST_LEADS)}\n\n{steps}\n\n{offer}"
    return f"{opening}{reasons}\n\n{''.join(guidance)}\n\n{offer}"


_REQUEST_OPENINGS = ("用户想让我做的是", "先看清这个请求", "用户提出了这样的要求")
_OPINION_OPENINGS = ("用户问的是", "先想想这个问题", "用户抛出了这样一个说法")
_LIST_LEADS = ("这里有几点想和你分享：", "可以从这几个方面来看：", "供你参考：", "下面几点也许对你有帮助：")
# Share of answers whose guidance is a numbered list.
_LIST_PROBABILITY = 0.35


def _quote(prompt: str) -> str:
    """The beginning of a prompt on one line, with single quotation marks for the double ones in it."""
    line = " ".join(prompt.split()).rstrip("。").replace("“", "‘").replace("”", "’").replace('"', "’")
    return line if len(line) <= _MAX_QUOTE_CHARS else line[:_MAX_QUOTE_CHARS].rstrip("，。、；：！？ ") + "……"
