"""Depth and number of elements of a JSON text, counted while it is received and before it is parsed.

Parsed, a text of 32 MiB can take a hundred times its size, and one that is deep enough ends the parser.
"""

import itertools
import re

from safe_r1.serve.errors import ApiError

MAX_DEPTH = 100
"""Deepest nesting of arrays and objects in a request; JSON schemas of tools have about twenty."""
_PIECE = 1 << 18
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


class JsonLimits:
    """Counts depth and elements of one text that comes in pieces, in linear time and constant memory.

    Whether the text is JSON is left to the parser, which stops at the first error: up to there the counts are
    right, however the text goes on.
    """

    def __init__(self, max_elements: int, max_depth: int = MAX_DEPTH):
        self._max_elements = max_elements
        self._max_depth = max_depth
        self._depth = 0
        # Of a text without any bracket or comma.
        self._num_elements = 1
        self._is_in_string = False
        self._rest = b""

    def feed(self, content: bytes) -> None:
        """Count the next piece.

        Raises:
            ApiError: 400, too deep, or not UTF-8; 413, too many elements.
        """
        for start in range(0, len(content), _PIECE):
            self._feed(content[start : start + _PIECE])

    def _feed(self, piece: bytes) -> None:
        # Python's parser also reads UTF-16 and UTF-32, where quotes and brackets have other bytes.
        if b"\0" in piece:
            raise ApiError(400, "invalid_json", "the body is not JSON in UTF-8: it has a NUL byte")
        text = self._rest + piece
        self._rest = b""
        if b"\\" in text:
            text = _ESCAPE.sub(b"", text)
            if text.endswith(b"\\"):
                text = text[:-1]
                self._rest = b"\\"
        parts = text.split(b'"')
        # Every second part is a string's content.
        outside = b"".join(parts[self._is_in_string :: 2])
        self._is_in_string ^= len(parts) % 2 == 0
        self._num_elements += sum(map(outside.count, (b"[", b"{", b",")))
        if self._num_elements > self._max_elements:
            message = f"the body has more than {self._max_elements:,} JSON elements"
            raise ApiError(413, "too_many_elements", message)
        steps = map(_STEPS.__getitem__, outside.translate(None, delete=_NO_BRACKETS))
        depths = list(itertools.accumulate(steps, initial=self._depth))
        self._depth = depths[-1]
        if max(depths) > self._max_depth:
            message = f"the body's JSON is nested more than {self._max_depth} deep"
            raise ApiError(400, "json_too_deep", message)
