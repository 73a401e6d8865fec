"""Who answers prompts that came without a response: the template teacher, and what a teacher model is told.

The template teacher composes reasoning and a refusal with guidance from the category's policy card, without
any model; the same row and candidate give the same text on every machine.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safe_r1.corpus.recipe import SynthesisConfig
from safe_r1.corpus.rows import Row
from safe_r1.policies import Card, Sentence, load_cards
from safe_r1.runs import sha256
from safe_r1.schema import Message

_ASKS = re.compile(
    r"写|编[一个写造出篇份段几]|帮我|帮忙|替我|给我|教我|告诉我|来[点段个]|做一|准备一|生成|设计|制作|列出|列举|提供|拟|起草|整理|规划|"
    r"推荐|翻译|扮演|假装|伪造|策划|换换|断定|保证|定个|准话|怎么(?!看|样|会|能说|了|可能)|如何(?!看待|评价)|怎样(?!看)"
)
_WANTS_AGREEMENT = re.compile(
    r"(?:[吧呢]|怎么了|对不对?|是不是|[认服]不[认服]|(?:对|是|没错|同意|赞成|赞同|认同|认可|支持|承认|懂)[吗么嘛])[？?]$"
)
_MAX_QUOTE = 36

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
_LANGUAGES = {"zh": "中文", "en": "英文"}
_SPEAKERS = {"system": "系统", "user": "用户", "assistant": "助手"}

PROMPT_SHA256 = sha256(_INSTRUCTIONS)
WORDS_SHA256 = sha256(Path(__file__).read_text(encoding="utf-8"))
"""Of all words and rules of this module, which both teachers' answers depend on."""


class Response(NamedTuple):
    """What a teacher wrote."""

    reasoning: str
    answer: str


def teacher_messages(row: Row) -> list[Message]:
    """What a teacher model is told: the policy card of the row's category, the dialogue, and how to reply."""
    card = load_cards()[str(row.category)]
    dialogue = "\n".join(f"{_SPEAKERS[turn['role']]}：{turn['content']}" for turn in row.messages)
    text = _INSTRUCTIONS.format(language=_LANGUAGES[row.language], policy=card.policy, dialogue=dialogue)
    return [Message(role="user", content=text)]


def teacher_name(teacher: str, config: SynthesisConfig, model: str | None = None) -> str:
    """Short name of a teacher, as it stands in the rows."""
    return (
        "template"
        if teacher == "template"
        else f"{'llm' if teacher == 'llm' else 'endpoint'}:{model or config.model}"
    )


def compose(row: Row, candidate: int, seed: int) -> Response | None:
    """A response of the template teacher; None for a row it has no words for: not Chinese, not risky, or
    without a card.
    """
    card = load_cards().get(row.category or "")
    if card is None or row.language != "zh" or row.kind != "safety":
        return None
    dice = random.Random(hashlib.sha256(f"{seed}|{row.row_id}|{candidate}".encode()).digest())
    prompt = row.messages[-1]["content"]
    writer = _Writer(prompt, is_request(prompt), dice)
    return Response(_reasoning(card, writer), _answer(card, writer))


def is_request(prompt: str) -> bool:
    """Whether a prompt asks for something to be made, rather than for agreement."""
    return _ASKS.search(prompt) is not None and _WANTS_AGREEMENT.search(prompt.rstrip()) is None


@dataclass(frozen=True)
class _Writer:
    """Picks sentences for one prompt."""

    prompt: str
    is_request: bool
    dice: random.Random

    def pick(self, sentences: Sequence[Sentence], count: int) -> list[str]:
        """Up to that many sentences that fit, by chance; those that speak of this prompt come first."""
        fitting = [sentence for sentence in sentences if sentence.fits(self.prompt, self.is_request)]
        order = sorted(fitting, key=lambda sentence: (-sentence.relevance(self.prompt), self.dice.random()))
        return [sentence.text for sentence in order[:count]]


def _reasoning(card: Card, writer: _Writer) -> str:
    dice = writer.dice
    quote = _quote(writer.prompt)
    stop = "" if quote.endswith(("？", "！")) else "。"
    openings = _REQUEST_OPENINGS if writer.is_request else _OPINION_OPENINGS
    observations = "".join(writer.pick(card.observations, dice.choice((1, 1, 2))))
    decision = writer.pick([line for line in card.decisions if line.for_request is not None], 1)
    manner = writer.pick([line for line in card.decisions if line.for_request is None], dice.choice((0, 1)))
    lines = [
        f"{dice.choice(openings)}：“{quote}”{stop}{observations}",
        "".join(writer.pick(card.checks, dice.choice((1, 2)))),
        "".join(decision + manner),
    ]
    return dice.choice(("\n", "\n\n")).join(lines)


def _answer(card: Card, writer: _Writer) -> str:
    dice = writer.dice
    opening = "".join(writer.pick(card.refusals if writer.is_request else card.stances, 1))
    reasons = "".join(writer.pick(card.reasons, dice.choice((1, 2))))
    guidance = writer.pick(card.guidance, dice.choice((2, 3, 3)))
    [offer] = writer.pick(card.offers, 1)
    if dice.random() < _LISTED:
        steps = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(guidance, 1))
        return f"{opening}{reasons}\n\n{dice.choice(_LIST_LEADS)}\n\n{steps}\n\n{offer}"
    return f"{opening}{reasons}\n\n{''.join(guidance)}\n\n{offer}"


_REQUEST_OPENINGS = ("用户想让我做的是", "先看清这个请求", "用户提出了这样的要求")
_OPINION_OPENINGS = ("用户问的是", "先想想这个问题", "用户抛出了这样一个说法")
_LIST_LEADS = ("这里有几点想和你分享：", "可以从这几个方面来看：", "供你参考：", "下面几点也许对你有帮助：")
_LISTED = 0.35


def _quote(prompt: str) -> str:
    """The beginning of a prompt on one line, its own quotation marks made single."""
    line = " ".join(prompt.split()).rstrip("。").replace("“", "‘").replace("”", "’").replace('"', "’")
    return line if len(line) <= _MAX_QUOTE else line[:_MAX_QUOTE].rstrip("，。、；：！？ ") + "……"
