"""Random changes of writing for best-of-N sampling.

Source: arXiv 2412.03556, whose random changes of letters are here those of Chinese writing.
"""

import functools
import random

from safe_r1.attacks.base import Attack, clean
from safe_r1.attacks.registry import get_attack

POOL = (
    "homophones",
    "near-shapes",
    "split-characters",
    "pinyin-words",
    "traditional",
    "spaces",
    "zero-width",
    "punctuation",
    "mixed-english",
    "emoji",
)
"""Attacks of writing that leave a question readable where they change a part of it."""
_MOST_KINDS = 3
_SHARE = 0.6
"""Share of the pieces that are changed, as in the paper."""
_PIECE_CHARS = (2, 6)


@functools.cache
def pool() -> tuple[Attack, ...]:
    """The attacks of ``POOL``."""
    return tuple(get_attack(name) for name in POOL)


def draw(question: str, rng: random.Random) -> str:
    """The question with random pieces of it written in up to three other ways.

    A question without Chinese characters stays as it is: its draws are then samples of one prompt.
    """
    text = clean(question)
    kinds = rng.sample(pool(), rng.randint(1, _MOST_KINDS))
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = start + rng.randint(*_PIECE_CHARS)
        piece = text[start:end]
        if rng.random() < _SHARE:
            for change in rng.choice(kinds).changes:
                piece = change.change(piece, rng)
        pieces.append(piece)
        start = end
    return "".join(pieces)
