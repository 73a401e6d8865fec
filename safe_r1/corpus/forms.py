"""Recognises the form of a training record by its fields: OpenAI's messages, ShareGPT, Alpaca, prompt and
response.

Record by record, as a folder may hold files of several forms.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from safe_r1.corpus.source import FieldMapping

_MESSAGES = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "对话")
_PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input", "问题", "提问", "指令", "题目")
_RESPONSES = ("response", "output", "completion", "answer", "target", "回答", "答案", "回复", "输出")
_REASONINGS = ("reasoning_content", "reasoning", "thinking", "thought", "cot", "推理", "思考", "思维链")
_SYSTEMS = ("system", "system_prompt", "系统")
_INPUTS = ("input", "输入")
_HISTORIES = ("history", "历史")
_IDS = ("id", "uid", "row_id")
_ROLE_NAMES = (("role", "content"), ("from", "value"), ("role", "value"), ("speaker", "text"))


@dataclass(frozen=True)
class Form:
    """The form of a record.

    Attributes:
        name: As users know it.
        mapping: How it is read.
        unused: Its fields that are not read.
    """

    name: str
    mapping: FieldMapping
    unused: tuple[str, ...]


def recognise(record: Mapping[str, object]) -> Form | None:
    """The form of a record; None where its fields tell of none."""
    kinds = tuple(sorted((str(name), _kind(value)) for name, value in record.items()))
    return _recognise(kinds)


def describe(records: Iterable[Mapping[str, object]]) -> Counter[str]:
    """Records by the name of their form, ``unknown`` for those of none."""
    found = (recognise(record) for record in records)
    return Counter(form.name if form else "unknown" for form in found)


def _kind(value: object) -> str:
    """What of a value decides: a text, turns of some field names, or anything else."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        pair = next((pair for pair in _ROLE_NAMES if all(name in value[0] for name in pair)), None)
        return ",".join(pair) if pair else "other"
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return "pairs"
    return "other"


# A file has a few forms, and millions of records.
@functools.lru_cache(maxsize=1024)
def _recognise(kinds: tuple[tuple[str, str], ...]) -> Form | None:
    of_name = dict(kinds)
    texts = [name for name, kind in kinds if kind == "text"]

    def first(names: tuple[str, ...], *without: str | None) -> str | None:
        return next((name for name in names if name in texts and name not in without), None)

    common: dict[str, str | None] = {
        "system": first(_SYSTEMS),
        "id": next((n for n in _IDS if n in of_name), None),
    }
    for name in _MESSAGES:
        role, _, content = of_name.get(name, "").partition(",")
        if content:
            title = "ShareGPT" if role == "from" else "messages"
            return _form(title, of_name, messages=name, role=role, content=content, **common)
    prompt = first(_PROMPTS)
    response = first(_RESPONSES, prompt)
    reasoning = first(_REASONINGS, prompt, response)
    if prompt is None or response is None:
        return None
    answer = {"reasoning": reasoning, "answer": response} if reasoning else {"response": response}
    if prompt in ("instruction", "指令"):
        more = first(_INPUTS, response)
        history = next((name for name in _HISTORIES if of_name.get(name) == "pairs"), None)
        return _form("Alpaca", of_name, prompt=prompt, input=more, history=history, **answer, **common)
    return _form("prompt and response", of_name, prompt=prompt, **answer, **common)


def _form(name: str, fields: Mapping[str, str], **mapping: str | None) -> Form:
    given = {key: value for key, value in mapping.items() if value is not None}
    # Names of fields of a turn are none of the record's.
    used = {value for key, value in given.items() if key not in ("role", "content")}
    unused = tuple(field for field in fields if field not in used)
    return Form(name, FieldMapping.model_validate(given), unused)
