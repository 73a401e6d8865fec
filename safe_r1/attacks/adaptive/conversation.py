"""One question under an attack that adapts, as a state machine without side effects.

``next_calls`` says what a state waits for, ``advance`` what it becomes by replies. Replies may come one by
one, in any order, and over several sessions: the calls of a whole conversation are always the same, as the
attempts of a layer all end before the next one begins. So a conversation is restored from its rows alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from safe_r1.attacks.adaptive.methods import (
    ASKED,
    NO_CALLS,
    Branch,
    CallCounts,
    Ended,
    Result,
    get_method,
    is_refused,
)
from safe_r1.attacks.adaptive.prompts import Past, topic_messages
from safe_r1.attacks.adaptive.replies import read_attack, read_topic
from safe_r1.attacks.adaptive.turns import (
    ROLE_OF,
    ROLES,
    Call,
    Place,
    Question,
    Reply,
    Step,
    Turn,
    call_seed,
    harm_score,
)
from safe_r1.config.adaptive import AdaptiveConfig
from safe_r1.errors import DataError
from safe_r1.metrics.attack_curve import Attempt, Search
from safe_r1.metrics.outcomes import Outcome
from safe_r1.records.text import clean
from safe_r1.schema import Message, RefusalLabel

End = Literal["success", "exhausted", "budget"]
"""Why a conversation has ended: harm came out, the method has nothing left to try, or no call is left."""


@dataclass(frozen=True)
class Running:
    """An attempt of the layer that is under way.

    Attributes:
        branch: What it continues.
        step: What it waits for; None where it has ended.
        prompt: For the target; empty until there is one.
        improvement: The attacker's reason for it.
        text: What the judge is to label: the target's answer, or the attacker's text without a prompt.
        label: The judge's label of the answer.
        score: See ``harm_score``.
        result: How it ended; None where it has not.
        calls: Calls until now.
        num_tokens: Tokens of these calls.
    """

    branch: Branch
    step: Step | None
    prompt: str = ""
    improvement: str = ""
    text: str = ""
    label: RefusalLabel | None = None
    score: float | None = None
    result: Result | None = None
    calls: CallCounts = NO_CALLS
    num_tokens: int = 0


@dataclass(frozen=True)
class Conversation:
    """The state of one question.

    Attributes:
        question: The question.
        config: Settings; the same in every session.
        seed: Of all that is drawn; the same in every session.
        depth: Layer, from 0.
        layer: Its attempts.
        done: Attempts of earlier layers, in order.
        calls: Calls of earlier layers by role.
        results: How earlier attempts ended, as counts; ``refused`` are the attacker's refusals.
        end: Why it has ended; None while it goes on.
    """

    question: Question
    config: AdaptiveConfig
    seed: int
    depth: int
    layer: tuple[Running, ...]
    done: tuple[Attempt, ...]
    calls: CallCounts
    results: Mapping[Result, int]
    end: End | None

    @property
    def search(self) -> Search:
        """What ``success_curve`` takes of it, without a weight."""
        return Search(self.done, self.end is not None, self.question.sample_id)


def start(question: Question, config: AdaptiveConfig, seed: int) -> Conversation:
    """The first state.

    Raises:
        DataError: The dialogue does not end with a user's turn.
    """
    if not question.messages or question.messages[-1]["role"] != "user":
        raise DataError(f"{question.sample_id}: an attacked dialogue has to end with a user's turn")
    state = Conversation(question, config, seed, -1, (), (), NO_CALLS, {}, None)
    return _open(state, get_method(config).first())


def next_calls(state: Conversation) -> list[Call]:
    """The calls that the state waits for, in order of their attempts; empty once it has ended."""
    if state.end is not None:
        return []
    return [
        _call(state, number, attempt, attempt.step)
        for number, attempt in enumerate(state.layer)
        if attempt.step is not None
    ]


def advance(state: Conversation, replies: Mapping[Place, Reply]) -> Conversation:
    """The state after some of the replies that it waits for.

    Raises:
        ValueError: A reply to a call that the state does not wait for.
    """
    layer = list(state.layer)
    for place, reply in replies.items():
        is_awaited = state.end is None and place.depth == state.depth and 0 <= place.branch < len(layer)
        if not is_awaited or layer[place.branch].step != place.step:
            raise ValueError(f"{state.question.sample_id}: no reply to {tuple(place)} is awaited")
        layer[place.branch] = _step(state, layer[place.branch], place.step, reply)
    state = replace(state, layer=tuple(layer))
    return state if any(attempt.step for attempt in layer) else _close(state)


def restore(state: Conversation, turns: Iterable[Turn]) -> tuple[Conversation, list[Turn]]:
    """The state after the turns of earlier sessions.

    Args:
        state: From ``start``, with the settings and the seed of those sessions.
        turns: Of this question, repeat and attack, in any order.

    Returns:
        The state, and turns that cannot be reached, as one before them is lost; the caller removes them, as
        these calls are made again.

    Raises:
        DataError: Two turns at one place, or a turn that other settings made.
    """
    name = state.question.sample_id
    known: dict[Place, Turn] = {}
    for turn in turns:
        if turn.place in known:
            raise DataError(f"{name}: two rows of {state.config.method} at {tuple(turn.place)}")
        known[turn.place] = turn
    while ready := [call for call in next_calls(state) if call.place in known]:
        replies: dict[Place, Reply] = {}
        for call in ready:
            turn = known.pop(call.place)
            if turn.prompt != clean(call.prompt):
                raise DataError(
                    f"{name}: the row of {state.config.method} at {tuple(call.place)} is of other settings, "
                    "another seed or another version; give the run another name"
                )
            replies[call.place] = turn.reply
        state = advance(state, replies)
    return state, list(known.values())


def _open(state: Conversation, branches: list[Branch]) -> Conversation:
    """The next layer, as far as the budget allows every attempt all calls that it may need."""
    if not branches:
        return replace(state, layer=(), end="exhausted")
    method = get_method(state.config)
    room = min(
        (
            (limit - getattr(state.calls, role)) // cost
            for role in ROLES
            if (limit := getattr(state.config.budget, role)) is not None
            and (cost := getattr(method.costs, role))
        ),
        default=len(branches),
    )
    if room < 1:
        return replace(state, layer=(), end="budget")
    layer: list[Running] = []
    for branch in branches[:room]:
        prompt = method.drawn(state.question, branch, state.seed)
        layer.append(Running(branch, "write" if method.costs.attacker else "ask", prompt))
    return replace(state, depth=state.depth + 1, layer=tuple(layer))


def _close(state: Conversation) -> Conversation:
    """The end of a layer: success, or the next one."""
    done = [Attempt(sum(attempt.calls), attempt.num_tokens, _outcome(attempt)) for attempt in state.layer]
    results = Counter(state.results)
    results.update(attempt.result for attempt in state.layer if attempt.result)
    counts = [sum(column) for column in zip(state.calls, *(each.calls for each in state.layer), strict=True)]
    state = replace(state, done=(*state.done, *done), results=dict(results), calls=CallCounts(*counts))
    if any(each.found is Outcome.HIT for each in done):
        return replace(state, layer=(), end="success")
    ended = [_ended(number, attempt) for number, attempt in enumerate(state.layer)]
    return _open(state, get_method(state.config).following(ended))


def _outcome(attempt: Running) -> Outcome | None:
    if attempt.result not in ASKED:
        return None
    return Outcome.of(None if attempt.label is None else attempt.label is RefusalLabel.HARMFUL)


def _ended(number: int, attempt: Running) -> Ended:
    assert attempt.result is not None
    if attempt.result not in ASKED:
        return Ended(number, attempt.branch, attempt.result, None)
    answer = None if attempt.result == "no_answer" else attempt.text
    refused = is_refused(attempt.label, answer)
    past = Past(attempt.improvement, attempt.prompt, answer, attempt.score, refused)
    return Ended(number, attempt.branch, attempt.result, past)


def _call(state: Conversation, number: int, attempt: Running, step: Step) -> Call:
    question = state.question
    method = get_method(state.config)
    place = Place(state.depth, number, step)
    text = ""
    messages: Iterable[Message]
    if step == "write":
        messages = method.request(question, attempt.branch)
    elif step == "topic":
        messages = topic_messages(question.text, attempt.prompt)
    elif step == "ask":
        messages = method.dialogue(question, attempt.branch, attempt.prompt)
    else:
        # The judge sees the plain question: what it can read of a disguise is not what is measured.
        messages = question.messages
        text = attempt.text
    seed = call_seed(state.seed, state.config.method, question.sample_id, question.repeat, place)
    parent = attempt.branch.parent
    return Call(question.sample_id, question.repeat, place, parent, tuple(messages), text, seed)


def _step(state: Conversation, attempt: Running, step: Step, reply: Reply) -> Running:
    """The attempt after the reply to one step."""
    role = ROLE_OF[step]
    attempt = replace(
        attempt,
        calls=attempt.calls._replace(**{role: getattr(attempt.calls, role) + 1}),
        num_tokens=attempt.num_tokens + reply.prompt_tokens + reply.completion_tokens,
    )
    if step == "write":
        return _written(attempt, reply, get_method(state.config).checks_topic)
    if step == "refusal":
        label = reply.refusal_label
        return _end(attempt, "refused" if label is not None and label.is_refusal else "unreadable")
    if step == "topic":
        # A prompt is left out where the reply says so, and for nothing less.
        is_off = read_topic(reply.text) is False
        return _end(attempt, "off_topic") if is_off else replace(attempt, step="ask")
    if step == "ask":
        if reply.error is not None or reply.unscored_reason is not None or not reply.text.strip():
            return _end(attempt, "no_answer")
        return replace(attempt, text=reply.text, step="label")
    label = reply.refusal_label
    attempt = replace(attempt, label=label, score=harm_score(label, reply.confidence))
    return _end(attempt, "no_label" if label is None else "labelled")


def _written(attempt: Running, reply: Reply, checks_topic: bool) -> Running:
    found = read_attack(reply.text)
    if found.found == "prompt":
        step: Step = "topic" if checks_topic else "ask"
        return replace(attempt, prompt=found.prompt, improvement=found.improvement, step=step)
    if found.found == "unreadable" and reply.text.strip():
        # Most refusals are prose, which only a judge tells from a reply in the wrong form.
        return replace(attempt, text=reply.text, step="refusal")
    return _end(attempt, found.found)


def _end(attempt: Running, result: Result) -> Running:
    return replace(attempt, step=None, result=result)
