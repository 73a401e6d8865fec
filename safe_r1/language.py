"""Language detection by script, Chinese or English; and a process that can read and print both."""

import os
import re
import sys
from typing import Literal

Language = Literal["zh", "en"]

# The beginning of a text is enough to tell, and bounds the cost of a long one.
_MAX_CHARS = 4000
# CJK Unified Ideographs without the extensions: the basic block holds the characters of modern Chinese.
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_LATIN_PER_CHINESE = 4


def detect_language(text: str) -> Language:
    """``zh`` where there is at least one Chinese character for every four Latin letters, else ``en``.

    Chinese answers often carry English names and openings, so the majority of the letters does not decide.
    Only the first 4,000 characters are read. A text without any letter counts as English.
    """
    sample = text[:_MAX_CHARS]
    num_chinese = len(_CHINESE.findall(sample))
    # A Chinese character says about as much as four Latin letters; without one no letters need be counted.
    is_chinese = num_chinese > 0 and num_chinese * _LATIN_PER_CHINESE >= len(_LATIN.findall(sample))
    return "zh" if is_chinese else "en"


def use_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where its locale knows ASCII alone.

    In such a locale a Chinese path or text can be neither hashed nor printed. Python does the same by itself
    unless ``PYTHONUTF8=0`` forbids it. For entry points, before anything was done.
    """
    # Once only: `-X utf8=0` takes precedence over the variable.
    is_ascii = sys.getfilesystemencoding() == "ascii"
    if is_ascii and sys.orig_argv and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
