"""The list of the hashes of a model folder's files: ``SHA256SUMS``, in the form that ``sha256sum`` writes.

``sha256sum --check SHA256SUMS`` in the folder checks it without this project.
"""

import re
from collections.abc import Mapping

from safe_r1.errors import ModelError

HASHES_FILE = "SHA256SUMS"
"""Its name in the folder."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def render_hashes(hashes: Mapping[str, str]) -> bytes:
    """The list of hashes.

    Args:
        hashes: SHA-256 of each file in hexadecimal, by its path in the folder.
    """
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())).encode()


def parse_hashes(content: bytes, place: str) -> dict[str, str]:
    """The hashes in a list, by the path of each file in the folder.

    Args:
        content: Of the list.
        place: Of the folder, for errors.

    Raises:
        ModelError: A line is none of a hash and a name.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ModelError(
                f"{place}: line {number} of {HASHES_FILE} is none of sha256sum's: upload the file again as "
                "it was written, or remove it and nothing is verified by it"
            )
        hashes[found[2].removeprefix("./")] = found[1]
    return hashes
