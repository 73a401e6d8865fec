"""The tables of characters and words in ``data/``, and the characters that they are about."""

import functools
import re
from importlib.resources import files

CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Ranges of Chinese characters, for a class of a regular expression."""
RUN = re.compile(f"[{CHINESE}]+")
"""Chinese characters without anything between them."""


def read_lines(name: str) -> list[str]:
    """The lines of a file in ``data/`` without blank ones and comments."""
    text = files("safe_r1.attacks").joinpath("data", name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@functools.cache
def read_pairs(name: str) -> dict[str, str]:
    """A table of two columns that are separated by a space."""
    return dict(line.split(" ", 1) for line in read_lines(name))


@functools.cache
def common_characters() -> str:
    """The 3,755 common characters of GB 2312 (level 1), in its order, which is that of their readings."""
    codes = bytes(code for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) for code in (row, cell))
    # The last row of the level is not full.
    return codes.decode("gb2312", errors="ignore")
