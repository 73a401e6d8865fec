"""Candidates: responses of a teacher as filtered and judged rows, their storage, the choice of the best."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from safe_r1.corpus.filters import apply_filters
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import ROW_SCHEMA, CorpusRow, Drop, TableRow
from safe_r1.corpus.teachers import Response
from safe_r1.inference.requests import EngineResult
from safe_r1.judge.factory import JudgePlan
from safe_r1.models.reasoning import split_reasoning
from safe_r1.records.text import clean
from safe_r1.runs import RunFolder, latest

STAGE = "candidates"
"""Folder of the candidates' shards below the work folder."""
SYNTHESIZE = "synthesize"
"""Stage of the drops."""

CANDIDATE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        pa.field("candidate", pa.int32(), False),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)
"""A row with the response of a candidate, its token counts, and the error if the teacher gave no response."""

CandidateKey = tuple[str, int]
"""Row id and number of a candidate."""


def candidate_key(row: TableRow) -> CandidateKey:
    """Identity of a row of ``CANDIDATE_SCHEMA``."""
    return row["row_id"], row["candidate"]


@dataclass(frozen=True)
class TeacherReply:
    """Reply of a teacher to one call.

    Attributes:
        row_id: The prompt.
        candidate: Number of the call for this prompt, from 0.
        response: Reasoning and answer; None if the call failed, or if the reasoning was not closed.
        drop: Why there is no response; None if there is one, or if a filter is to find the fault.
        error: Error of the call, which is repeated when the job is resumed; None if it succeeded.
    """

    row_id: str
    candidate: int
    response: Response | None
    drop: Drop | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def from_text(cls, key: CandidateKey, text: str, error: str | None, tokens: tuple[int, int]) -> Self:
        """The reply of a language model; ``tokens`` are those of the prompt and of the completion."""
        if error:
            return cls(*key, None, Drop(SYNTHESIZE, "teacher_failed", error[:200]), error, *tokens)
        reasoning, answer = split_reasoning(clean(text))
        response = None if answer is None else Response(reasoning, answer)
        return cls(*key, response, None, None, *tokens)


@dataclass(frozen=True)
class CandidateBuilder:
    """Turns replies of the teacher into filtered and judged rows of ``CANDIDATE_SCHEMA``; picklable.

    Attributes:
        prompts: Row id to prompt.
        recipe: The recipe.
        judge: The judge of the filters.
        teacher: Name of the teacher in the rows.
    """

    prompts: Mapping[str, CorpusRow]
    recipe: CorpusRecipe
    judge: JudgePlan
    teacher: str

    def __call__(self, replies: Sequence[TeacherReply]) -> list[TableRow]:
        """One row per reply, in order."""
        rows = apply_filters([self._row(reply) for reply in replies], self.recipe.filters, self.judge)
        return [
            {
                **row.to_table_row(),
                "candidate": reply.candidate,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "error": reply.error,
            }
            for row, reply in zip(rows, replies, strict=True)
        ]

    def from_engine(self, result: EngineResult) -> TableRow:
        """The finish step of an engine: one row from its result, see ``inference.batch.generate``."""
        row_id, _, number = result["key"].rpartition("\t")
        tokens = (result["prompt_tokens"], result["completion_tokens"])
        [row] = self([TeacherReply.from_text((row_id, int(number)), result["text"], result["error"], tokens)])
        return row

    def _row(self, reply: TeacherReply) -> CorpusRow:
        row = replace(self.prompts[reply.row_id], teacher=self.teacher)
        if reply.drop:
            return row.dropped(reply.drop)
        if reply.response is None:
            # Unclosed reasoning: the filter of that name drops the row.
            return replace(row, reasoning=None, answer="")
        return replace(row, reasoning=reply.response.reasoning, answer=reply.response.answer)


@dataclass(frozen=True)
class CandidateWriter:
    """Writes candidate rows as one shard; runs in Ray's workers."""

    folder: RunFolder

    def __call__(self, rows: Sequence[TableRow]) -> None:
        """The shard is named after its keys, so that a repeated write replaces it."""
        self.folder.write_shard(STAGE, rows, CANDIDATE_SCHEMA, candidate_key)


# The driver reads all candidates; their texts would not fit into its memory.
_LIGHT_COLUMNS = (
    "row_id",
    "candidate",
    "error",
    "kind",
    "degree",
    "drop_stage",
    "drop_reason",
    "prompt_tokens",
    "completion_tokens",
)


def read_candidates(folder: RunFolder) -> list[TableRow]:
    """All candidates without their texts; a later success replaces an error of the same candidate."""
    rows = folder.read_rows(STAGE, pa.schema([CANDIDATE_SCHEMA.field(name) for name in _LIGHT_COLUMNS]))
    return list(latest(rows, candidate_key, lambda row: row["error"] is None).values())


def best_candidates(folder: RunFolder, row_ids: Iterable[str]) -> tuple[dict[str, int], dict[str, Drop]]:
    """Number of the best candidate of each row, and the drop of each row without a usable one.

    The best candidate of a safety prompt is the one with the highest refusal degree, of any other prompt the
    one with the lowest; of equal ones the first.
    """
    by_row: dict[str, list[TableRow]] = defaultdict(list)
    for row in read_candidates(folder):
        by_row[row["row_id"]].append(row)
    best: dict[str, int] = {}
    drops: dict[str, Drop] = {}
    for row_id in row_ids:
        candidates = by_row.get(row_id, [])
        usable = [row for row in candidates if row["drop_stage"] is None]
        if usable:
            best[row_id] = min(usable, key=_preference)["candidate"]
        elif candidates:
            # The row has one drop: the most frequent reason of its candidates.
            reason = Counter(row["drop_reason"] for row in candidates).most_common(1)[0][0]
            detail = f"none of {len(candidates)} candidates was good enough"
            drops[row_id] = Drop(SYNTHESIZE, reason, detail)
    return best, drops


def _preference(row: TableRow) -> tuple[int, int]:
    """Sort key: the best candidate first."""
    # Rows with a reference result are not judged and have no degree.
    degree = row["degree"] or 0
    return -degree if row["kind"] == "safety" else degree, row["candidate"]


def sum_costs(folder: RunFolder) -> dict[str, int]:
    """Number of candidates, and of the tokens that were read and generated for them."""
    rows = read_candidates(folder)
    return {
        "num_candidates": len(rows),
        "num_prompt_tokens": sum(row["prompt_tokens"] or 0 for row in rows),
        "num_completion_tokens": sum(row["completion_tokens"] or 0 for row in rows),
    }
