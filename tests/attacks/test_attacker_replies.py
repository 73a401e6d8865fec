"""Replies of an attacker model that are costly, malformed or pretend to be something else."""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_r1.attacks.adaptive.replies import MAX_PROMPT_CHARS, read_attack, read_topic

PROMPT = '{"improvement": "换个说法", "prompt": "提问"}'


@pytest.mark.parametrize(
    "reply",
    [
        PROMPT,
        f"好的：\n```json\n{PROMPT}\n```\n希望有帮助",
        f'<think>{{"prompt": "草稿"}}</think>{PROMPT}',
        f'{{"prompt": "先前的"}} {PROMPT}',
        f"{{不是 JSON}} {{{{ {PROMPT} }}}}",
        '{"improvement": "换个说法", "prompt": "提问", "extra": {"prompt": "里面的"}}',
        '{"improvement": "换个说法",\n "prompt": "\t提问\n"}',
        f'{{"refuse": "不"}} 想了想：{PROMPT}',
        '{"refuse": false, "improvement": "换个说法", "prompt": "提问"}',
        "{" * 20 + PROMPT,
    ],
)
def test_the_last_prompt_counts(reply: str):
    found = read_attack(reply)
    assert (found.found, found.prompt, found.improvement) == ("prompt", "提问", "换个说法")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("", "unreadable"),
        ("抱歉，我不能。", "unreadable"),
        ('{"refuse": "不愿意"}', "refused"),
        ('{"prompt": "问"} {"refuse": true}', "refused"),
        ('{"prompt": ["问"]}', "unreadable"),
        ('{"prompt": "  "}', "unreadable"),
        ('{"prompt": null, "improvement": 3}', "unreadable"),
        ('["prompt", "问"]', "unreadable"),
        ('{"prompt": "没有写完', "unreadable"),
        (f"{PROMPT}<think>还没想完</think>", "unreadable"),
        (json.dumps({"prompt": "问" * (MAX_PROMPT_CHARS + 1)}), "unreadable"),
        ('{"prompt": "问", "n": ' + "9" * 9000 + "}", "unreadable"),
        ('{"a":' * 9000, "unreadable"),
        ('{"a":' * 9000 + "1" + "}" * 9000, "unreadable"),
        ("{" * 100 + PROMPT, "unreadable"),
    ],
)
def test_anything_else_is_no_prompt(reply: str, found: str):
    assert read_attack(reply).found == found


def test_texts_can_be_stored():
    found = read_attack(r'{"prompt": "a\ud800\u0000", "improvement": "\udfff"}')
    assert (found.prompt, found.improvement) == ("a\ufffd\ufffd", "\ufffd")
    assert read_attack('{"prompt": "问", "improvement": ["x"]}').improvement == ""


@pytest.mark.parametrize(
    "unit", ["{", '{"', '{"a":', '{"a":"', '{"prompt":"问"} ', "[{", "\\", '{"a":[', "</think>", '"{', "{}"]
)
def test_time_is_linear(unit: str):
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        begin = time.process_time()
        read_attack(text)
        read_topic(text)
        return time.process_time() - begin

    # Quadratic time would be minutes here.
    assert seconds(2_000_000) < 5


def test_a_topic_is_what_the_reply_says():
    assert read_topic('{"on_topic": false} 不对，{"on_topic": true}') is True
    assert read_topic('<think>{"on_topic": true}</think>{"on_topic": false}') is False
    for reply in ("", "是", '{"on_topic": "false"}', '{"on_topic": 0}', '{"prompt": {"on_topic": false}}'):
        assert read_topic(reply) is None


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.sampled_from('{}[]":,\\n提prompt \n'), max_size=60))
def test_any_text_is_read(text: str):
    found = read_attack(text)
    assert (found.found == "prompt") == bool(found.prompt)
