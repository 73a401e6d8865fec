from typing import Any

import pytest

from safe_r1.report.endpoint import endpoint_notes

ENDPOINT: dict[str, Any] = {
    "model": "m",
    "host": "api.example.com",
    "served_by": {"m fp_1": 10},
    "adapted": {},
    "seeded": True,
    "prompt_tokens": 1000,
    "completion_tokens": 2000,
    "cost": None,
}


def english(**changes: object) -> str:
    return "\n".join(note.en for note in endpoint_notes({**ENDPOINT, **changes}))


def test_an_engine_has_no_notes():
    assert endpoint_notes(None) == endpoint_notes({"adapted": {}}) == []


def test_a_model_that_changed_in_the_middle_is_told():
    assert "changed" not in english()
    assert "changed in the middle (m fp_1: 10, m fp_2: 3)" in english(served_by={"m fp_1": 10, "m fp_2": 3})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "every row was sent with a seed"),
        ({"seeded": False}, "temperature 0, no seeds were sent"),
        ({"adapted": {"seed": "HTTP 400: unknown argument"}}, "the run cannot be repeated"),
    ],
)
def test_whether_a_run_can_be_repeated(changes: dict[str, Any], said: str):
    assert said in english(**changes)


def test_left_out_parameters_and_the_cost_are_named():
    text = english(adapted={"top_p": "HTTP 400: <b>not\nsupported</b>"}, cost=0.0123)
    assert "parameter top_p was not sent as configured (HTTP 400: <b>not supported</b>)" in text
    assert "1,000 prompt and 2,000 completion tokens, as the endpoint counts them, cost 0.0123" in text
