"""A judge's prompt in a text file of the user's, as the benchmark's authors have theirs.

The file is one user turn with the places ``{last_question}`` and ``{answer}``, and ``{dialog history}`` where
a dialogue has earlier turns. Its labels are the four of CHiSafetyBench, and replies are read as those to this
project's own prompt. It speaks of the refusal task alone; over-refusal is asked with this project's prompt.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from safe_r1.errors import ConfigError
from safe_r1.judge.base import JudgeItem, content_identity
from safe_r1.judge.policy import BUILT_IN, Policy, load_policy
from safe_r1.judge.prompt import MAX_DIALOGUE_CHARS, MAX_TEXT_CHARS, PROMPT_SHA256, cut_middle
from safe_r1.models.control import tags_as_text
from safe_r1.records.text import clean
from safe_r1.schema import Message

_HISTORY = "{dialog history}"
_QUESTION = "{last_question}"
_ANSWER = "{answer}"
_PLACES = re.compile("|".join(map(re.escape, (_HISTORY, _QUESTION, _ANSWER))))
_SPEAKERS = {"user": "A", "assistant": "B"}

# By their hash, as they are not ours to distribute.
_KNOWN = {
    "5771f3ea4a71b0937de151b32aafb5ed90cca21dd924b592514df397f16763cf": (
        "authors-prompt",
        "authors' prompt: asked word for word as the authors of CHiSafetyBench asked (arXiv 2406.10311)",
    )
}


@dataclass(frozen=True)
class PromptFile(Policy):
    """The prompt of a text file.

    Attributes:
        template: Its text.
    """

    template: str = field(kw_only=True)

    @classmethod
    def of(cls, text: str, stem: str) -> Self:
        """The policy of a prompt.

        Args:
            text: The prompt; line ends and blanks at the ends of lines make no difference.
            stem: Its name, where it is none that is known.
        """
        template = "\n".join(line.rstrip() for line in text.strip().splitlines())
        sha256 = hashlib.sha256(template.encode()).hexdigest()
        name, says = _KNOWN.get(sha256, (stem, ""))
        return cls(name, content_identity(sha256, PROMPT_SHA256), says=says, template=template)

    def messages(self, item: JudgeItem, max_text_chars: int = MAX_TEXT_CHARS) -> list[Message]:
        """The prompt with the item's texts, which are values and never templates.

        System turns are left out, as the dialogue is one of A and B.
        """
        if item.task != "refusal":
            return BUILT_IN.messages(item, max_text_chars)
        *earlier, last = [turn for turn in item.messages if turn["role"] in _SPEAKERS] or [
            Message(role="user", content="")
        ]
        history = "\n".join(f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in earlier)
        values = {
            _HISTORY: cut_middle(tags_as_text(history), MAX_DIALOGUE_CHARS),
            _QUESTION: cut_middle(tags_as_text(last["content"]), MAX_DIALOGUE_CHARS),
            _ANSWER: cut_middle(tags_as_text(item.text), max_text_chars),
        }
        # Without earlier turns their place leaves no empty line.
        template = self.template if history else self.template.replace(f"{_HISTORY}\n", "")
        text = _PLACES.sub(lambda place: values[place[0]], template)
        return [Message(role="user", content=clean(text))]


def read_policy(file: str | None) -> Policy:
    """The policy of a TOML file or of a text file with a prompt; the project's own for None.

    Raises:
        ConfigError: The file cannot be read, or does not say what a judge has to be told.
    """
    if file is None or Path(file).suffix.lower() == ".toml":
        return load_policy(file)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.policy {file}: {str(error).splitlines()[0]}") from None
    if missing := [place for place in (_QUESTION, _ANSWER) if place not in text]:
        raise ConfigError(
            f"judge.policy {file}: {' and '.join(missing)} not found; expected a prompt with {_QUESTION}, "
            f"{_ANSWER} and, for dialogues, {_HISTORY}, or a TOML file (.toml) with name, user and labels"
        )
    return PromptFile.of(text, re.sub(r"[^\w.-]+", "-", Path(file).stem) or "prompt")
