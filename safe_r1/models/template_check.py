"""Holds the chat templates of models to limits of time, memory and length before they are rendered here.

jinja's sandbox keeps a template from the machine, and not from looping or from filling the memory.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from safe_r1.errors import ModelError

_SECONDS = 3
_MEBIBYTES = 1024
# Of a machine that is busy with other things: the limit of the processor's time is the one that counts.
_WALL_S = 60.0
_MAX_CHARS = 1_000_000
_TURNS = (
    ("user", "safe_r1 probe"),
    ("assistant", "<think>\nsafe_r1 probe\n</think>\n\nsafe_r1 probe"),
    ("user", "safe_r1 probe"),
    ("assistant", "safe_r1 probe"),
)
_SYSTEM = ("system", "safe_r1 probe")


def check_templates(templates: object, model: str) -> None:
    """Check a tokenizer's template, or its templates by name.

    Args:
        templates: ``chat_template`` of a tokenizer.
        model: Its name or folder, for the message.

    Raises:
        ModelError: One is no text, or takes more than a few seconds or 1 GiB for a short dialogue.
    """
    if templates is None:
        return
    named = templates.values() if isinstance(templates, Mapping) else [templates]
    for template in named:
        if not isinstance(template, str):
            raise ModelError(
                f"{model}: its chat template is a {type(template).__name__}; expected a text of Jinja"
            )
        if problem := _problem_of(template):
            raise ModelError(f"{model}: its chat template {problem}; use the one of the model's publisher")


@functools.lru_cache(maxsize=64)
def _problem_of(template: str) -> str:
    """Why a template is not rendered in this process; empty where it may be."""
    turns = [{"role": role, "content": content} for role, content in _TURNS]
    system = {"role": _SYSTEM[0], "content": _SYSTEM[1]}
    dialogues = [turns[:1], turns[:2], turns[:3], turns, [system, turns[0]]]
    task = {"template": template, "dialogues": dialogues, "seconds": _SECONDS, "mebibytes": _MEBIBYTES}
    worker = Path(__file__).with_name("template_worker.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(worker)],
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"does not render a short dialogue in {_WALL_S:.0f} s"
    if done.returncode:
        return f"takes more than {_SECONDS} s or {_MEBIBYTES} MiB for a short dialogue"
    if int(done.stdout) > _MAX_CHARS:
        return f"makes {int(done.stdout):,} characters of a short dialogue"
    return ""
