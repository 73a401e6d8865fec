"""Answers that are numbers: what they count from is told from all rows of a file together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from safe_r1.benchmarks.own.cells import RowError
from safe_r1.benchmarks.own.choices import NumberAnswer
from safe_r1.benchmarks.own.settings import IndexBase
from safe_r1.errors import DataError
from safe_r1.schema import Sample

# Facts of a sample that waits for the end of the file; no sample has them after that.
_NUMBER = "waiting_number"
_SAME = "waiting_same"
_WHERE = "waiting_where"


@dataclass
class NumberAnswers:
    """What the answers of a file that are numbers have in common, without holding them.

    Attributes:
        count: Such answers.
    """

    count: int = 0
    _num_counting: int = 0
    _num_unclear: int = 0
    _first_unclear: str = ""
    _has_zero: bool = False
    _has_last: bool = False
    _has_too_large: bool = False

    def add(self, answer: NumberAnswer, num_options: int, where: object) -> dict[str, str]:
        """Note one; returns what its sample has to remember until ``settled``."""
        self.count += 1
        self._has_too_large |= answer.number > num_options
        if not answer.same:
            self._num_counting += 1
            self._has_zero |= answer.number == 0
            self._has_last |= answer.number == num_options
        if answer.could_be_another(num_options):
            self._num_unclear += 1
            self._first_unclear = self._first_unclear or f"{where}: {answer.number}"
        return {_NUMBER: str(answer.number), _SAME: answer.same, _WHERE: str(where)}

    def find_base(self, where: str) -> tuple[Literal[0, 1], str]:
        """What the numbers count from, and a note for the user; empty where each is the text of an option.

        Raises:
            DataError: It cannot be told.
        """
        # Where every number is the text of an option, and one is too large to count, all are texts.
        are_texts = not self._num_counting and self._has_too_large
        if self._num_unclear and not are_texts:
            raise DataError(
                f"{where}: in {self._num_unclear} rows the answer is the text of one option and may be the "
                f"number of another (first {self._first_unclear}); --set benchmark.index_base=0 or =1 says "
                "what numbers count from, --set benchmark.index_base=text that they are texts of options"
            )
        if not self._num_counting:
            return 0, ""
        if self._has_zero == self._has_last:
            raise DataError(
                f"{where}: cannot tell whether the answers that are numbers count from 0 or from 1; "
                "--set benchmark.index_base=0 or --set benchmark.index_base=1 says it"
            )
        base = 0 if self._has_zero else 1
        return base, base_note(
            base, "one answer is 0" if base == 0 else "one answer is the number of options"
        )


def base_note(base: IndexBase, reason: str) -> str:
    """For the user: what numbers count from, and why."""
    return f"answers that are numbers count from {base}: {reason}"


def letter_at(number: int, base: IndexBase, letters: Sequence[str]) -> str:
    """Letter of the option that a number counts to.

    Raises:
        RowError: There is no such option.
    """
    place = number - (1 if base == 1 else 0)
    if not 0 <= place < len(letters):
        raise RowError(f"the answer is the number of no option ({number})")
    return letters[place]


def settled(
    samples: Iterable[Sample], base: IndexBase, leave_out: Callable[[str, str], None]
) -> Iterator[Sample]:
    """The samples with the letters that their numbers stand for.

    Args:
        samples: Samples with what ``NumberAnswers.add`` gave among their facts, and others.
        base: What numbers count from.
        leave_out: Called with row and reason where a number is that of no option.
    """
    for sample in samples:
        if _NUMBER not in sample.metadata:
            yield sample
            continue
        metadata = dict(sample.metadata)
        number, same, where = (metadata.pop(name) for name in (_NUMBER, _SAME, _WHERE))
        try:
            # Its text is that of the option that it would count to, or it counts to none.
            metadata["answer"] = same or letter_at(int(number), base, list(sample.options))
        except RowError as error:
            leave_out(where, str(error))
        else:
            yield replace(sample, metadata=metadata)
