"""Verdicts on counts that a user types."""

import re
from collections.abc import Iterable

from safe_r1.errors import ConfigError
from safe_r1.filing.gates import Answers, Verdict, decide
from safe_r1.filing.policy import FilingPolicy
from safe_r1.filing.questions import split_bank

_COUNTS = "HITS/ANSWERS[+MISSING]"
_RESULT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})(?:\+([0-9]{1,9}))?")


def decide_results(given: Iterable[str], policy: FilingPolicy) -> list[tuple[str, Verdict]]:
    """Verdicts on results of people, by key of the bank.

    Args:
        given: ``BANK=HITS/ANSWERS[+MISSING]`` each.
        policy: It has the gates.

    Raises:
        ConfigError: One has another form, or is of a list without a gate.
        DataError: There are more hits than answers.
    """
    found: list[tuple[str, Verdict]] = []
    for text in given:
        key, counts = split_bank(text, policy, "--result", _COUNTS)
        bank = policy.banks.get(key)
        if bank is None:
            raise ConfigError(f"--result {text!r}: there is no gate for {key}")
        answers = read_counts(text, counts)
        num_answers = answers.num_rows + answers.num_missing
        num_sample = bank.gate.sample.value if bank.gate.sample else max(num_answers, 1)
        found.append((key, decide(answers, bank.gate.line, num_sample)))
    return found


def read_counts(text: str, counts: str) -> Answers:
    """Counts of ``HITS/ANSWERS``, with ``+MISSING`` for answers without an outcome.

    Args:
        text: As it was typed, for the message.
        counts: Without the bank.

    Raises:
        ConfigError: It has another form.
        DataError: There are more hits than answers.
    """
    match = _RESULT.fullmatch(counts)
    if match is None:
        raise ConfigError(f"--result {text!r}: expected BANK={_COUNTS}, e.g. refuse=290/300+2")
    hits, num, missing = (int(each or 0) for each in match.groups())
    return Answers(hits, num, missing)
