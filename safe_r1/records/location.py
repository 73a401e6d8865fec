"""Where records are, as settings: a file, folder, glob or URI, or a dataset of the hub."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from safe_r1.errors import ConfigError
from safe_r1.settings import Settings

HUB_PREFIX = "hf:"
HUB_NAME = re.compile(r"hf:(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?P<parts>(?::[\w.-]+){0,2})")
"""``hf:OWNER/NAME[@REVISION][:CONFIG][:SPLIT]``, as users name a dataset of the hub."""
_SPLITS = ("train", "test", "validation", "valid", "dev")

FileFormat = Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "xlsx"]


class DataLocation(Settings):
    """Location of records: ``path`` or ``hub``.

    ``path`` is a file, a folder or a glob, relative to ``--data``; with the prefix ``package:`` it is a file
    that is shipped in ``safe_r1/corpus``.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="name in row ids, reports and the card")
    path: str | None = Field(default=None, description="file, folder, URI, or package:PATH")
    hub: str | None = Field(default=None, description="dataset id on the Hugging Face Hub")
    subset: str | None = Field(default=None, description="hub: configuration of the dataset")
    split: str = Field(default="train", description="hub: split of the dataset")
    revision: str | None = Field(default=None, description="hub: branch, tag or commit")
    format: FileFormat = Field(default="auto", description="auto: from the file name's suffix")
    records: str | None = Field(
        default=None, description="JSON: field that holds the list of records; *: every list of the object"
    )
    sheet: str | None = Field(default=None, description="xlsx: name of the sheet; None: the first with rows")
    encoding: str | None = Field(
        default=None, description="text files: their encoding; None: UTF-8, or else the one that is detected"
    )

    @property
    def label(self) -> str:
        """Begins the messages about it."""
        return f"source {self.name}: "

    def remedy(self, setting: str, value: str) -> str:
        """How its user sets one of these settings, for messages; ``value`` is an example."""
        return f"set `{setting}`"

    @model_validator(mode="after")
    def _has_one_location(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"source {self.name!r}: expected either `path` or `hub`")
        return self


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub as a user names it; the fields are those of ``DataLocation``.

    Attributes:
        has_parts: Whether the name holds a configuration or a split.
    """

    hub: str
    subset: str | None
    split: str
    revision: str | None
    has_parts: bool


def parse_hub(given: str, default_split: str) -> HubDataset:
    """The dataset that a user names, see ``HUB_NAME``.

    Args:
        given: The name.
        default_split: The split where it holds none.

    Raises:
        ConfigError: The name is malformed.
    """
    found = HUB_NAME.fullmatch(given)
    if found is None:
        raise ConfigError(
            f"{given}: expected hf:OWNER/NAME[@REVISION][:CONFIG][:SPLIT], e.g. hf:openai/gsm8k:main:test"
        )
    parts = found["parts"].split(":")[1:]
    # One part alone is the split where it is a usual name of one.
    subset = parts[0] if parts and (len(parts) == 2 or parts[0] not in _SPLITS) else None
    split = parts[-1] if parts and (len(parts) == 2 or subset is None) else default_split
    return HubDataset(found["id"], subset, split, found["revision"], bool(parts))
