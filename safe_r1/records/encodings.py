"""The text encoding of a file: UTF-8, or else the one of a few that its bytes fit."""

import codecs
from typing import BinaryIO

from charset_normalizer import from_bytes

_CHUNK = 1 << 20
_SAMPLE_BYTES = 256 << 10
# Below this many bytes besides ASCII the frequencies of characters tell nothing.
_MIN_TELLING_BYTES = 24
UTF_8 = "utf-8-sig"
"""UTF-8 with or without a byte order mark."""
# What Chinese systems write besides UTF-8. GB18030 contains GBK and GB2312.
_OTHERS = ("gb18030", "big5")
_NAMES = {
    "gb18030": "GB18030",
    "big5": "Big5",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
}


def is_utf_8(encoding: str) -> bool:
    """Whether the encoding is UTF-8 in any spelling."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def is_line_wise(encoding: str) -> bool:
    """Whether a line break is the one byte 0x0A, so that bytes can be split into lines undecoded."""
    return not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def detect_encoding(file: BinaryIO, remedy: str = "set `encoding`") -> tuple[str, str]:
    """The encoding of a file, and a note for the user where it is not UTF-8.

    UTF-8 first, strictly. A file most of whose lines are UTF-8 is UTF-8 with damaged lines: reading all of it
    otherwise would spoil the sound ones.

    Args:
        file: Opened in binary mode at its start.
        remedy: How the encoding is set, for the note.
    """
    evidence = _Evidence()
    wide = ""
    head = True
    rest = b""
    while chunk := file.read(_CHUNK):
        if head:
            wide = _utf_16(chunk[:512])
            head = False
            if wide:
                break
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            evidence.add(line)
        if len(rest) > _CHUNK:
            # A document on one line.
            cut = _boundary(rest)
            evidence.add(rest[:cut])
            rest = rest[cut:]
    if wide:
        return wide, _note(wide, remedy)
    evidence.add(rest)
    if not evidence.num_other or evidence.num_utf_8 >= evidence.num_other:
        damaged = f"{evidence.num_other} lines are no UTF-8" if evidence.num_other else ""
        return UTF_8, damaged
    found = _best(bytes(evidence.sample))
    if found is None:
        return UTF_8, f"{evidence.num_other} lines are no UTF-8, and no other encoding fits"
    return found, _note(found, remedy)


def _boundary(text: bytes) -> int:
    """Where a text can be cut, as far behind as is quickly found: always somewhere."""
    # A quotation mark, a comma or a space is never a part of a longer character.
    cut = max(text.rfind(mark) for mark in (b'"', b",", b" ")) + 1
    if cut:
        return cut
    # Nothing but characters: before the last one, if they are UTF-8.
    start = next((back for back in range(1, 5) if text[-back] & 0xC0 != 0x80), 1)
    return len(text) - start


class _Evidence:
    """Lines with other bytes than ASCII, by whether they are UTF-8; a sample of those that are not."""

    def __init__(self) -> None:
        self.num_utf_8 = 0
        self.num_other = 0
        self.sample = bytearray()

    def add(self, line: bytes) -> None:
        if line.isascii():
            return
        try:
            line.decode("utf-8")
            self.num_utf_8 += 1
        except UnicodeDecodeError:
            self.num_other += 1
            if len(self.sample) < _SAMPLE_BYTES:
                self.sample += line[:_SAMPLE_BYTES] + b"\n"


def _utf_16(head: bytes) -> str:
    """The kind of UTF-16 by its byte order mark, or by the zero bytes of Latin letters; empty for none."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if max(zeros) < 4 or min(zeros) > max(zeros) // 8:
        return ""
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _best(sample: bytes) -> str | None:
    """The encoding that the sample fits; None where none does."""
    lines = [line for line in sample.split(b"\n") if line]
    fitting = {name: sum(_fits(line, name) for line in lines) for name in _OTHERS}
    # A few damaged lines must not decide.
    candidates = [name for name in _OTHERS if fitting[name] >= 0.9 * len(lines)]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    sound = b"\n".join(line for line in lines if all(_fits(line, name) for name in _OTHERS))
    if sum(byte > 127 for byte in sound) < _MIN_TELLING_BYTES:
        return candidates[0]
    match = from_bytes(sound, cp_isolation=list(_OTHERS)).best()
    return match.encoding if match and match.encoding in _OTHERS else candidates[0]


def _fits(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _note(encoding: str, remedy: str) -> str:
    return f"read as {_NAMES[encoding]}, as it is no UTF-8 (another one: {remedy})"
