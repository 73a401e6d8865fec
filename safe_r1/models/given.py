"""From what a user types to answers that stand beside the questions: ``given`` or ``given:NAME``.

Nothing is generated: the answers are part of the benchmark, and its hash covers them. The name of the model
that gave them stands in run folders and reports.
"""

import re

from safe_r1.errors import ConfigError
from safe_r1.models.prompts import CHAT
from safe_r1.models.variant import Variant

GIVEN = "given"
"""Name of the variant, and its identity: the answers are in the identity of the data."""


def find_given(name: str) -> Variant | None:
    """The variant that a user's text names, where it names given answers.

    Raises:
        ConfigError: The name of the model is empty.
    """
    prefix, colon, model = name.partition(":")
    if prefix != GIVEN:
        return None
    # Letters of all languages, as in the names of endpoints; the name is that of a folder.
    label = re.sub(r"[^\w.-]+", "-", model).strip(".-_")
    if colon and not label:
        raise ConfigError(f"variant {name!r}: expected {GIVEN}, or {GIVEN}:NAME with the name of the model")
    return Variant(name=label or GIVEN, source=GIVEN, family="", kind="given", params_b=0.0, prompt=CHAT)
