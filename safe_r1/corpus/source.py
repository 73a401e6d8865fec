"""Sources of a corpus as a recipe names them: where the records lie, and what their fields mean."""

import difflib
from typing import Literal, Self

from pydantic import Field, model_validator

from safe_r1.language import Language
from safe_r1.records.location import DataLocation
from safe_r1.settings import Settings
from safe_r1.taxonomy import CATEGORIES

ConversationKind = Literal["safety", "reasoning", "benign-sensitive", "general"]
NO_CATEGORY: tuple[ConversationKind, ...] = ("reasoning", "general")
"""Kinds whose rows have no risk category."""


class FieldMapping(Settings):
    """Field names of a source's records; ``a.b`` names a field of a nested object.

    A record has either a ``prompt`` or ``messages``. Its response is one field (``response``, with the
    reasoning in ``<think>`` tags) or two (``reasoning`` and ``answer``); a record without a response is a
    prompt for the teacher.
    """

    prompt: str | None = Field(default=None, description="field with the user's turn")
    input: str | None = Field(default=None, description="field whose text follows the prompt, as in Alpaca")
    history: str | None = Field(
        default=None, description="list of pairs of a user's and an assistant's turn before the prompt"
    )
    system: str | None = Field(default=None, description="field with the system turn")
    messages: str | None = Field(
        default=None, description="list of chat messages; a final assistant message is the response"
    )
    role: str = Field(default="role", description="field of a message that holds its role")
    content: str = Field(default="content", description="field of a message that holds its text")
    response: str | None = Field(
        default=None, description="field with the response, its reasoning in <think> tags"
    )
    reasoning: str | None = Field(default=None, description="field with the reasoning")
    answer: str | None = Field(default=None, description="field with the answer after the reasoning")
    solution: Literal["plain", "gsm8k"] = Field(
        default="plain", description="gsm8k: `answer` holds the steps and `#### RESULT`"
    )
    final: str | None = Field(
        default=None, description="reference result; the boxed result of the answer must equal it"
    )
    category: str | None = Field(default=None, description="label or list of labels of the record")
    id: str | None = Field(default=None, description="the source's own id of the record")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected either `prompt` or `messages`")
        if self.messages and (self.input or self.history):
            raise ValueError("`input` and `history` belong to `prompt`, and not to `messages`")
        if self.response and (self.reasoning or self.answer):
            raise ValueError("expected either `response` or `reasoning` and `answer`")
        return self

    @property
    def fields(self) -> list[str]:
        """Fields that every record must have."""
        mapped = (self.prompt, self.messages, self.response, self.reasoning, self.answer, self.final)
        return [field for field in mapped if field]


class Source(DataLocation):
    """One raw source: its location, the meaning of its fields, and its licence."""

    kind: ConversationKind = Field(
        description="safety, benign-sensitive, reasoning, or general for anything else, which is not judged"
    )
    language: Language | None = Field(
        default=None, description="language of the rows; None: told from each row's question"
    )
    licence: str = Field(description="licence of the source; it has to be among the recipe's licences")
    why: str = Field(default="", description="reason for including this source; shown in the dataset card")
    mapping: FieldMapping | None = Field(
        default=None, description="meaning of the fields; None: recognised record by record"
    )
    category: str | None = Field(default=None, description="taxonomy key for every row of the source")
    # The order of the table matters: see `rows._find_category_key`.
    categories: dict[str, str] = Field(
        default_factory=dict,
        description="the source's labels → taxonomy keys; of several labels of a row the first here counts",
    )
    trusted: bool = Field(
        default=False, description="responses were reviewed by their authors: the judge drops none of them"
    )
    classify: bool = Field(
        default=False, description="derive the category of a row from the signs of the policy cards"
    )
    limit: int | None = Field(default=None, ge=1, description="maximum number of records to read")

    @model_validator(mode="after")
    def _known_categories(self) -> Self:
        for key in filter(None, [self.category, *self.categories.values()]):
            if key not in CATEGORIES:
                near = difflib.get_close_matches(key, CATEGORIES, n=2)
                hint = f", did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"source {self.name!r}: unknown category {key!r}{hint}")
        return self
