"""The result of an evaluation as a table, CSV or XLSX: one row a model's outcome and judge."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from fastapi import Response

from safe_r1.report.export_files import TABLES
from safe_r1.runs import Row
from safe_r1.serve.schemas import EvaluateRequest, Item, ItemResult, ModelOutcome, PartVerdict

MEDIA_TYPES = {
    "text/csv": "csv",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
"""Media type to the format of ``safe_r1.report.export_files``."""
_PARTS = ("answer", "reasoning")
_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("category", pa.string()),
        ("model", pa.string()),
        ("question", pa.string()),
        ("reasoning", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("judge", pa.string()),
        *(
            (f"{part}_{name}", kind)
            for part in _PARTS
            for name, kind in (
                ("label", pa.string()),
                ("degree", pa.int64()),
                ("confidence", pa.float64()),
                ("unscored_reason", pa.string()),
                ("explanation", pa.string()),
            )
        ),
        ("error", pa.string()),
    ]
)


async def table_response(
    media_type: str,
    request: EvaluateRequest,
    results: Sequence[ItemResult],
    judges: Sequence[str],
    name: str,
    status: int,
) -> Response:
    """The results as a file.

    Args:
        media_type: Of ``MEDIA_TYPES``.
        request: The request, which has the questions.
        results: Results of all items.
        judges: Labels of the judges, that of ``ModelOutcome.verdicts`` first.
        name: Name of the file, without its ending.
        status: HTTP status.
    """
    ending = MEDIA_TYPES[media_type]
    content = await asyncio.to_thread(_write, ending, list(_rows(request, results, judges)))
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.{ending}"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, status, headers, media_type)


def _write(ending: str, rows: list[Row]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"results.{ending}"
        table = TABLES[ending](str(path), _SCHEMA)
        table.write(rows)
        table.close()
        return path.read_bytes()


def _rows(request: EvaluateRequest, results: Sequence[ItemResult], judges: Sequence[str]) -> Iterator[Row]:
    for result in results:
        item = request.items[result.index]
        question = item.dialogue[-1]["content"] if isinstance(item, Item) else ""
        for outcome in result.outcomes:
            for place, judge in enumerate(judges):
                found = outcome.verdicts if place == 0 else outcome.further_verdicts.get(judge, {})
                yield {
                    "index": result.index,
                    "id": result.id,
                    "category": result.category,
                    "question": question,
                    "judge": judge,
                    **_outcome_cells(outcome),
                    **{key: cell for part in _PARTS for key, cell in _cells(part, found.get(part)).items()},
                }


def _outcome_cells(outcome: ModelOutcome) -> Row:
    names = ("model", "reasoning", "answer", "finish_reason", "prompt_tokens", "completion_tokens")
    error = outcome.error
    cells: Row = {name: getattr(outcome, name) for name in names}
    return cells | {"error": f"{error.code}: {error.message}" if error else None}


def _cells(part: str, verdict: PartVerdict | None) -> Row:
    names = ("label", "degree", "confidence", "unscored_reason", "explanation")
    return {f"{part}_{name}": getattr(verdict, name) if verdict else None for name in names}
