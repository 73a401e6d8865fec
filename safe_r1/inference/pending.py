"""Rows that wait for an endpoint, read from their batches as they are needed."""

from collections import deque
from collections.abc import Sequence, Set

from safe_r1.inference.requests import Request, RequestBatch


class Pending:
    """A queue of requests of which one batch is in memory at a time."""

    def __init__(self, batches: Sequence[RequestBatch], answered: Set[str] = frozenset()):
        """Args:
        batches: All rows.
        answered: Keys of those that are not handed out.
        """
        self._batches = deque(batches)
        self._answered = answered
        self._read: deque[Request] = deque()
        self._num_unread = sum(batch.num_rows for batch in batches) - len(answered)

    def __len__(self) -> int:
        return len(self._read) + self._num_unread

    def take(self) -> Request:
        """The next request.

        Raises:
            IndexError: None is left.
        """
        while not self._read and self._batches:
            for request in self._batches.popleft().read():
                if request.key not in self._answered:
                    self._read.append(request)
                    self._num_unread -= 1
        return self._read.popleft()

    def give_back(self, request: Request) -> None:
        """Put a request back to the front."""
        self._read.appendleft(request)
