"""The bytes of single tokens: a character of Chinese is often several tokens, none of which is text."""

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from safe_r1.serve.base import TokenLogprob
from safe_r1.serve.engine_call import TokenScore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenText:
    """Text and bytes of a tokenizer's tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._is_byte_level = "ByteLevel" in str(decoder)
        self._special = frozenset(tokenizer.added_tokens_decoder)
        self.bytes_of = functools.lru_cache(maxsize=65_536)(self._bytes_of)

    def _bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(token, str):
            return b""
        if token_id not in self._special:
            if self._is_byte_level and all(char in _bytes_of_chars() for char in token):
                return bytes(_bytes_of_chars()[char] for char in token)
            if found := _BYTE_TOKEN.fullmatch(token):
                return bytes([int(found[1], 16)])
            # SentencePiece, which writes a space so.
            if not self._is_byte_level:
                return token.replace("▁", " ").encode("utf-8", "replace")
        return token.encode("utf-8", "replace")

    def logprobs(self, scores: Sequence[TokenScore], num_top: int) -> tuple[TokenLogprob, ...]:
        """The engine's scores of some tokens, each with the likeliest others at its place."""
        return tuple(
            self._logprob(token, value, tuple(self._logprob(*each) for each in best[:num_top]))
            for token, value, best in scores
        )

    def _logprob(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        data = self.bytes_of(token)
        return TokenLogprob(data.decode("utf-8", "replace"), data, logprob, top)


@functools.cache
def _bytes_of_chars() -> dict[str, int]:
    """The byte that each character of a byte-level tokenizer stands for.

    Source: byte-level BPE of GPT-2: printable bytes are themselves, the others follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
