"""A conversation as the tokens that are trained on: the prompt exactly as it is served, then what the model
shall say.

An assistant turn is a document of its own, its prompt the dialogue before it as ``safe_r1.models.chat``
renders it for evaluation and serving. The stock template shows earlier turns without their reasoning, so one
text with all turns could not have both: the reasoning of every turn to learn, and every turn after the prefix
that it has when it is served. What serving writes for the model (the turn's opening, and ``<think>\\n`` for
the style ``r1``) is prompt and not learned. Prompt and completion are tokenized apart, because a served model
never sees them in one piece either.

Earlier turns of a dialogue may be someone else's words: only those with their reasoning in ``<think>`` tags
are learned, the others are context.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import DataError, ModelError
from safe_r1.models.chat import load_tokenizer, render
from safe_r1.models.registry import Style, Variant
from safe_r1.runs import read_table, sha256, write_table
from safe_r1.schema import CONVERSATION_SCHEMA, Message
from safe_r1.train.config import PackConfig

TOKENS_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("kind", pa.string()),
        ("turn", pa.int32()),
        ("reason", pa.string()),
        ("was_cut", pa.bool_()),
        ("num_whole", pa.int32()),
        ("num_tokens", pa.int32()),
        ("num_prompt", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
    ]
)
"""A document, or a row without one; ``reason`` says why it is dropped. ``num_whole`` counts the tokens before
a cut.
"""

_COLUMNS = ("row_id", "messages", "kind")
_OPEN, _CLOSE = "<think>", "</think>"
# Any word that no template changes, to find where a template puts the content of a turn.
_PROBE = "safe_r1_probe"


@dataclass(frozen=True)
class Document:
    """One assistant turn and all that it answers.

    Attributes:
        turn: Position of the assistant turn in the conversation.
        input_ids: Tokens of the prompt, then those of the completion with the end of its turn.
        num_prompt: Tokens of the prompt, at least one; all others are learned.
        reason: Why it is dropped; None where it is not.
        was_cut: Its end was left out.
    """

    turn: int
    input_ids: list[int]
    num_prompt: int
    reason: str | None = None
    was_cut: bool = False

    @property
    def is_label(self) -> list[bool]:
        """For each token: is it learned?"""
        return [place >= self.num_prompt for place in range(len(self.input_ids))]


def encode(messages: Sequence[Message], style: Style, tokenizer: Any) -> list[Document]:
    """The documents of a conversation, one for each assistant turn to learn; none where there is no such
    turn.

    Args:
        messages: The conversation; a turn to learn follows a user turn.
        style: How the model is prompted.
        tokenizer: The model's own, with its stock template.

    Raises:
        ModelError: The tokenizer knows no end of a turn.
    """
    turns = [Message(role=turn["role"], content=turn["content"] or "") for turn in messages]
    end = _tokenize(end_of_turn(style, tokenizer), tokenizer)
    return [
        _encode_turn(turns, turn, end, style, tokenizer)
        for turn in range(1, len(turns))
        if _is_target(turns, turn)
    ]


def _is_target(turns: Sequence[Message], turn: int) -> bool:
    if (turns[turn - 1]["role"], turns[turn]["role"]) != ("user", "assistant"):
        return False
    content = turns[turn]["content"]
    return _CLOSE in content or (turn == len(turns) - 1 and bool(content.strip()))


def _encode_turn(turns: list[Message], turn: int, end: list[int], style: Style, tokenizer: Any) -> Document:
    prompt, prefix = render(turns[:turn], style, tokenizer)
    text, reason = turns[turn]["content"], None
    if prefix:
        text = text.lstrip().removeprefix(_OPEN).removeprefix("\n")
        reason = None if _CLOSE in text else "no_reasoning"
    if any(token in text for token in tokenizer.all_special_tokens if token not in (_OPEN, _CLOSE)):
        # An end of turn inside the text would teach to go on after it.
        reason = "control_token"
    return Document(turn, [*prompt, *_tokenize(text, tokenizer), *end], len(prompt), reason)


def _tokenize(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def end_of_turn(style: Style, tokenizer: Any) -> str:
    """What ends an assistant turn: what the model's template writes after its content, up to where generation
    stops.

    Raises:
        ModelError: There is neither such a text nor an end token.
    """
    end, eos = "", tokenizer.eos_token or ""
    if style != "plain" and tokenizer.chat_template:
        turns = [Message(role="user", content="?"), Message(role="assistant", content=_PROBE)]
        end = tokenizer.apply_chat_template(turns, tokenize=False).partition(_PROBE)[2].rstrip()
    if eos and eos in end:
        end = end[: end.index(eos) + len(eos)]
    if not (end or eos):
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no end token: a model could not learn to stop"
        )
    return end or eos


def fit(document: Document, pack: PackConfig) -> Document:
    """What becomes of a document that is longer than a sequence: it is dropped, or loses its end."""
    if document.reason or len(document.input_ids) <= pack.seq_len:
        return document
    if pack.too_long == "drop":
        return replace(document, reason="too_long")
    if document.num_prompt >= pack.seq_len:
        return replace(document, reason="prompt_too_long")
    return replace(document, input_ids=document.input_ids[: pack.seq_len], was_cut=True)


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Hashes of all in a tokenizer that tokens depend on."""
    whole = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.get_vocab()
    return {
        "tokenizer": sha256([whole, tokenizer.special_tokens_map]),
        "template": sha256(tokenizer.chat_template),
    }


@dataclass(frozen=True)
class Tokenize:
    """A shard of a corpus as a file of ``TOKENS_SCHEMA``; picklable.

    Attributes:
        corpus: Folder of the corpus.
        variant: The model.
        pack: What is too long.
        trust_remote_code: Run code from the model's repository.
    """

    corpus: str
    variant: Variant
    pack: PackConfig
    trust_remote_code: bool

    def __call__(self, target: UPath, shard: str, digest: str) -> None:
        """Tokenize a shard, given with the hash that it had when the corpus was built."""
        variant = self.variant
        tokenizer = load_tokenizer(variant.source, variant.revision, self.trust_remote_code)
        rows = read_shard(UPath(self.corpus) / shard, digest)
        lines = [line for row in rows.to_pylist() for line in self._lines(row, tokenizer)]
        write_table(target, pa.Table.from_pylist(lines, schema=TOKENS_SCHEMA))

    def _lines(self, row: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
        common = {
            "row_id": row["row_id"],
            "kind": row["kind"],
            "was_cut": False,
            "num_whole": 0,
            "num_tokens": 0,
        }
        documents = encode(row["messages"] or [], self.variant.style, tokenizer)
        lines = []
        for whole in documents:
            document = fit(whole, self.pack)
            lines.append(
                common
                | {
                    "turn": document.turn,
                    "reason": document.reason,
                    "was_cut": document.was_cut,
                    "num_whole": len(whole.input_ids),
                    "num_tokens": len(document.input_ids),
                    "num_prompt": document.num_prompt,
                    "input_ids": None if document.reason else document.input_ids,
                }
            )
        return lines or [common | {"reason": "no_assistant_turn"}]


def read_shard(path: UPath, digest: str) -> pa.Table:
    """The columns of a corpus shard that training reads.

    Raises:
        DataError: It is not there, has other columns, or is not the file that the corpus was finished with.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); build the corpus again"
        ) from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            f"{path}: not the file that corpus.json tells of (another SHA-256): build the corpus again"
        )
    schema = pq.read_schema(io.BytesIO(content))
    wrong = [name for name in _COLUMNS if name not in schema.names or schema.field(name).type != _type(name)]
    if wrong:
        raise DataError(
            f"{path}: no column {', '.join(f'{name} ({_type(name)})' for name in wrong)}, got {', '.join(schema.names)}; "
            "expected a corpus of build_corpus"
        )
    return pq.read_table(io.BytesIO(content), columns=list(_COLUMNS))


def _type(name: str) -> pa.DataType:
    return CONVERSATION_SCHEMA.field(name).type


Counts = Counter[tuple[str, str]]
"""Numbers of ``rows``, ``documents``, ``tokens``, ``label_tokens``, ``cut`` by kind of row, and of
``*_dropped`` by reason.
"""


def count_tokens(path: UPath) -> Counts:
    """What a file of ``TOKENS_SCHEMA`` holds. A row counts as dropped where no document of it is left."""
    lines = read_table(path, [name for name in TOKENS_SCHEMA.names if name != "input_ids"]).to_pylist()
    counts: Counts = Counter()
    for _, group in groupby(lines, itemgetter("row_id")):
        row = list(group)
        kept = [line for line in row if line["reason"] is None]
        counts.update([("rows", row[0]["kind"])] if kept else [("rows_dropped", row[0]["reason"])])
        counts.update(
            ("documents_dropped", line["reason"]) for line in row if line["reason"] and line["num_tokens"]
        )
        for line in kept:
            num, kind = line["num_tokens"], line["kind"]
            counts.update(
                {("documents", kind): 1, ("tokens", kind): num, ("cut", kind): int(line["was_cut"])}
            )
            counts["label_tokens", kind] += num - line["num_prompt"]
    return counts


def select(counts: Counts, what: str) -> dict[str, int]:
    """One of the counts, by kind or reason."""
    return {key: num for (name, key), num in sorted(counts.items()) if name == what and num}


def length_range(paths: Iterable[UPath]) -> tuple[int, int]:
    """Tokens of the shortest and of the longest document; zeros where there is none."""
    lengths = [
        num for path in paths for num in read_table(path, ["num_whole"])["num_whole"].to_pylist() if num
    ]
    return min(lengths, default=0), max(lengths, default=0)
