"""The questions of files and of installed benchmarks, as rows of a policy's banks."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator

from safe_r1.benchmarks import evaluate_schema, get_benchmark
from safe_r1.benchmarks.filing import ASPECTS
from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError
from safe_r1.filing.coverage import BankRow
from safe_r1.filing.policy import FilingPolicy
from safe_r1.schema import Sample
from safe_r1.settings import load_config
from safe_r1.taxonomy import CATEGORIES


def read_questions(given: Iterable[str], policy: FilingPolicy, overrides: list[str]) -> list[BankRow]:
    """The questions that were given for banks; several files of one bank count together.

    Args:
        given: ``BANK=FILE`` each, or the name of a benchmark in place of a file.
        policy: It has the banks.
        overrides: Settings of how files are read, as ``benchmark.sheet=NAME``.

    Raises:
        ConfigError: A bank is unknown, or a setting does not fit.
        DataError: A file cannot be read, or rows of it do not fit.
    """
    config = reading_config(overrides)
    return [row for text in given for row in _read(*split_bank(text, policy, "--questions", "FILE"), config)]


def reading_config(overrides: Iterable[str] = ()) -> EvaluateConfig:
    """Settings by which a team's own questions of a bank are read.

    Args:
        overrides: As ``benchmark.sheet=NAME``.

    Raises:
        ConfigError: One does not fit.
    """
    # A question of a bank has no right option: whether it should be refused is what the bank says.
    return load_config(evaluate_schema(), None, ["benchmark.task=refusal", *overrides], variant="demo")


def split_bank(text: str, policy: FilingPolicy, flag: str, what: str) -> tuple[str, str]:
    """Key of the bank and the rest of ``BANK=...``.

    Raises:
        ConfigError: The text has another form, or the bank is unknown.
    """
    bank, equals, rest = text.partition("=")
    known = policy.banks
    if not equals or bank not in known or not rest:
        raise ConfigError(f"{flag} {text!r}: expected BANK={what} with a BANK of {', '.join(known)}")
    return bank, rest


def _read(bank: str, place: str, config: EvaluateConfig) -> Iterator[BankRow]:
    benchmark = get_benchmark(place, config)
    labels = benchmark.labels
    for sample in benchmark.load():
        # Our own banks have keys, behind their area; in a file the name stands as it was written.
        key = sample.category.rpartition("/")[2]
        known = key in CATEGORIES or key in ASPECTS
        name = key if known else labels.get(sample.category, (sample.category,))[0]
        yield BankRow(bank, name, _question_id(sample))


def _question_id(sample: Sample) -> str:
    """The same for the same dialogue, whatever file it is in, its width of characters and its blanks."""
    turns = [
        (turn["role"], unicodedata.normalize("NFKC", turn["content"]).split()) for turn in sample.messages
    ]
    folded = [(role, "".join(words).casefold()) for role, words in turns]
    text = json.dumps(folded, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()
