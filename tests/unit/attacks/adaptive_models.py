"""Models for attacks that adapt, which answer by a hash of what they are asked."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from safe_r1.attacks.adaptive.conversation import Conversation, advance, next_calls, start
from safe_r1.attacks.adaptive.driver import Ask
from safe_r1.attacks.adaptive.turns import ROLES, Call, Question, Reply, Role, Turn
from safe_r1.config.adaptive import AdaptiveConfig
from safe_r1.schema import Message, RefusalLabel, Unscored

Model = Callable[[Call], Reply]

HARMFUL, HARMLESS, REFUSAL, RESPONSIBLE = RefusalLabel


def question(number: int = 0) -> Question:
    dialogue = (
        Message(role="user", content="你好"),
        Message(role="assistant", content="你好！"),
        Message(role="user", content=f"第{number}个问题是什么？"),
    )
    return Question(f"q/{number}", dialogue)


def prompt_json(prompt: str, improvement: str = "更自然") -> Reply:
    return Reply(json.dumps({"improvement": improvement, "prompt": prompt}, ensure_ascii=False))


def number_of(call: Call, modulus: int) -> int:
    """A number that depends on the call and on nothing else."""
    key = repr((call.sample_id, call.repeat, call.place, call.messages, call.text, call.seed)).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) % modulus


def mixed_model(call: Call) -> Reply:
    """Every kind of reply, chosen by the call."""
    return replace(_mixed(call), prompt_tokens=number_of(call, 12), completion_tokens=1)


def _mixed(call: Call) -> Reply:
    pick = number_of(call, 12)
    if call.place.step == "topic":
        return Reply(json.dumps({"on_topic": pick > 2}))
    if call.role == "attacker":
        texts = ['{"refuse": "不"}', "抱歉，我不能参加。", "", "随便说说 {", '{"prompt": 3}']
        text = texts[pick] if pick < len(texts) else prompt_json(f"提问{number_of(call, 999)}").text
        return Reply(text)
    if call.role == "target":
        if pick == 0:
            return Reply(unscored_reason=str(Unscored.TRUNCATED))
        if pick == 1:
            return Reply(error="prompt is too long")
        return Reply(f"回答{number_of(call, 999)}", "想一想")
    if pick == 0:
        return Reply(unscored_reason=str(Unscored.AMBIGUOUS))
    labels = [HARMLESS, HARMLESS, HARMLESS, REFUSAL, REFUSAL, RESPONSIBLE, RESPONSIBLE]
    label = HARMFUL if number_of(call, 25) == 0 else labels[pick % len(labels)]
    return Reply(label=str(label), confidence=pick / 12)


def run(state: Conversation, model: Model) -> tuple[Conversation, list[tuple[Call, Reply]]]:
    """The whole conversation, a layer's step at a time."""
    done: list[tuple[Call, Reply]] = []
    while calls := next_calls(state):
        answered = [(call, model(call)) for call in calls]
        done += answered
        state = advance(state, {call.place: reply for call, reply in answered})
    return state, done


def run_new(config: AdaptiveConfig, model: Model, number: int = 0, seed: int = 0):
    return run(start(question(number), config, seed), model)


def turns_of(config: AdaptiveConfig, done: Sequence[tuple[Call, Reply]]) -> list[Turn]:
    return [Turn.of(config.method, call, reply) for call, reply in done]


def asks(model: Model) -> dict[Role, Ask]:
    async def ask(calls: Sequence[Call]) -> list[Reply | None]:
        await asyncio.sleep(0)
        return [model(call) for call in calls]

    return dict.fromkeys(ROLES, ask)
