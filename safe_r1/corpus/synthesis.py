"""Prompts without a response get one: a teacher writes several, the judge keeps the best or none.

Every candidate is a row of the ``candidates`` shards as soon as it is there, so a job that is killed pays for
none twice.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from safe_r1.corpus.filters import apply_filters
from safe_r1.corpus.ingest import read_counts
from safe_r1.corpus.recipe import Recipe
from safe_r1.corpus.rows import ROW_SCHEMA, Drop, Row
from safe_r1.corpus.teachers import PROMPT_SHA256, Response, compose, teacher_messages
from safe_r1.inference.batch import BatchCounts, Request, Sampling, generate, row_seed
from safe_r1.inference.engine import check_resources
from safe_r1.models.checkpoints import cache_folder, prepare
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.resources import connect, pick_device
from safe_r1.runs import RunFolder, latest

STAGE = "candidates"
_STAGE_OF_DROP = "synthesize"
_CHUNK = 64

CANDIDATE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        pa.field("candidate", pa.int32(), False),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)
"""A row with a candidate's response, what the response cost, and the error where the teacher gave none."""

Flat = dict[str, Any]
Key = tuple[str, int]


def candidate_key(flat: Flat) -> Key:
    """Identity of a candidate."""
    return flat["row_id"], flat["candidate"]


@dataclass(frozen=True)
class Read:
    """A teacher's words to a candidate row: split, filtered and judged; picklable."""

    prompts: Mapping[str, Row]
    recipe: Recipe
    teacher: str

    def __call__(self, replies: Sequence[Flat]) -> list[Flat]:
        """Replies with ``key``, ``text`` (or ``response``), token counts and ``error`` to rows of
        ``CANDIDATE_SCHEMA``.
        """
        rows = [self._row(reply) for reply in replies]
        rows = apply_filters(rows, self.recipe.filters, self.recipe.judge)
        costs = (
            {name: reply[name] for name in ("prompt_tokens", "completion_tokens", "error")}
            for reply in replies
        )
        numbers = (int(reply["key"].split("\t")[1]) for reply in replies)
        return [
            row.to_table_row() | cost | {"candidate": number}
            for row, cost, number in zip(rows, costs, numbers, strict=True)
        ]

    def one(self, reply: Flat) -> Flat:
        """The same for one reply."""
        return self([reply])[0]

    def _row(self, reply: Flat) -> Row:
        row = replace(self.prompts[reply["key"].split("\t")[0]], teacher=self.teacher)
        if reply.get("declined"):
            return row.dropped(Drop(_STAGE_OF_DROP, "teacher_declines", reply["declined"]))
        if reply["error"]:
            return row.dropped(Drop(_STAGE_OF_DROP, "teacher_failed", reply["error"][:200]))
        response = reply.get("response")
        if response is None:
            reasoning, answer = split_reasoning(reply["text"])
            response = Response(reasoning, answer) if answer is not None else None
        # Without a closed reasoning there is no answer; the filters say so.
        return replace(
            row,
            reasoning=response.reasoning if response else None,
            answer=response.answer if response else "",
        )


@dataclass(frozen=True)
class Write:
    """Writes candidate rows as one shard; runs in Ray's workers."""

    folder: RunFolder

    def __call__(self, rows: list[Flat]) -> None:
        """A shard is named after its rows, so that a repeated one replaces itself."""
        self.folder.write_shard(STAGE, rows, CANDIDATE_SCHEMA, candidate_key)


def synthesize(prompts: Sequence[Row], recipe: Recipe, folder: RunFolder) -> Iterator[BatchCounts]:
    """Ask the teacher for every candidate of these prompts that the folder does not have yet."""
    done = {candidate_key(flat) for flat in _read_light(folder) if flat["error"] is None}
    keys = [(row.row_id, number) for row in prompts for number in range(recipe.synthesis.candidates)]
    todo = [key for key in keys if key not in done]
    by_id = {row.row_id: row for row in prompts}
    if not todo:
        return
    if recipe.teacher == "template":
        yield from _by_template(todo, Read(by_id, recipe, "template"), folder)
    elif recipe.teacher == "llm":
        yield from _by_model(todo, by_id, recipe, folder)
    else:
        yield from _by_endpoint(todo, by_id, recipe, folder)


def _by_template(todo: Sequence[Key], read: Read, folder: RunFolder) -> Iterator[BatchCounts]:
    import ray

    chunks = [list(todo[start : start + _CHUNK]) for start in range(0, len(todo), _CHUNK)]
    work = functools.partial(_compose_chunk, read=read, write=Write(folder))
    dataset = ray.data.from_items([{"keys": [list(map(str, key)) for key in chunk]} for chunk in chunks])
    for batch in dataset.map(work).iter_batches(batch_size=1, prefetch_batches=0):
        counts = read_counts(batch)
        yield BatchCounts(counts["rows"], counts["failed"], 0)


def _compose_chunk(item: Flat, read: Read, write: Write) -> Flat:
    replies = []
    for row_id, number in item["keys"]:
        response = compose(read.prompts[row_id], int(number), read.recipe.seed)
        declined = "" if response else "the template teacher answers risky Chinese prompts alone"
        costs = {"prompt_tokens": 0, "completion_tokens": 0, "error": None}
        replies.append({"key": f"{row_id}\t{number}", "response": response, "declined": declined, **costs})
    rows = read(replies)
    write(rows)
    return {"rows": len(rows), "failed": sum(row["drop_stage"] is not None for row in rows)}


def _by_model(
    todo: Sequence[Key], prompts: Mapping[str, Row], recipe: Recipe, folder: RunFolder
) -> Iterator[BatchCounts]:
    config = recipe.synthesis
    variant, _ = prepare(teacher_variant(recipe))
    cluster = connect()
    device = pick_device(variant, config.engine.device, cluster.gpu_total)
    check_resources(variant, config.engine, device, cluster.gpu_total, cluster.memory_gib)
    requests = [
        Request(
            f"{row_id}\t{number}",
            teacher_messages(prompts[row_id]),
            config.max_tokens,
            row_seed(recipe.seed, row_id, number),
        )
        for row_id, number in todo
    ]
    read = Read(prompts, recipe, f"llm:{variant.name}")
    sampling = Sampling(config.temperature, config.top_p)
    yield from generate(requests, variant, config.engine, device, sampling, _ReadReply(read), Write(folder))


@dataclass(frozen=True)
class _ReadReply:
    """The finish step of an engine that teaches."""

    read: Read

    def __call__(self, row: Flat) -> Flat:
        return self.read.one(row)


def teacher_variant(recipe: Recipe) -> Variant:
    """The model that teaches in the cluster."""
    return get_variant(recipe.synthesis.model) if recipe.synthesis.model else DEFAULT_JUDGE


def _by_endpoint(
    todo: Sequence[Key], prompts: Mapping[str, Row], recipe: Recipe, folder: RunFolder
) -> Iterator[BatchCounts]:
    from safe_r1.inference.endpoint import ChatEndpoint

    config = recipe.synthesis
    endpoint = ChatEndpoint(
        recipe.teacher,
        config.model,
        title="teacher endpoint",
        api_key_variable="SAFE_R1_TEACHER_API_KEY",
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        max_retries=config.max_retries,
        cache_dir=cache_folder() / "teacher",
        salt=PROMPT_SHA256,
        sampling={"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens},
    )
    read, write = Read(prompts, recipe, f"endpoint:{endpoint.model}"), Write(folder)
    for start in range(0, len(todo), _CHUNK):
        chunk = todo[start : start + _CHUNK]
        # The candidate's number keeps the replies to one prompt apart in the cache.
        replies = endpoint.complete(
            [(teacher_messages(prompts[row_id]), str(number)) for row_id, number in chunk]
        )
        rows = read(
            [
                {
                    "key": f"{row_id}\t{number}",
                    "text": reply.text or "",
                    "error": reply.error or None,
                    "prompt_tokens": reply.prompt_tokens,
                    "completion_tokens": reply.completion_tokens,
                }
                for (row_id, number), reply in zip(chunk, replies, strict=True)
            ]
        )
        write(rows)
        yield BatchCounts(
            len(rows),
            sum(row["drop_stage"] is not None for row in rows),
            sum(r.completion_tokens for r in replies),
        )


def _read_light(folder: RunFolder) -> list[Flat]:
    """All candidates without their texts."""
    names = (
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
    rows = folder.read_rows(STAGE, pa.schema([CANDIDATE_SCHEMA.field(name) for name in names]))
    return list(latest(rows, candidate_key, lambda flat: flat["error"] is None).values())


def best_candidates(folder: RunFolder, wanted: Iterable[str]) -> tuple[dict[str, int], dict[str, Drop]]:
    """For every row either its best candidate, or why it has none.

    The best is the one with the highest refusal degree for a risky prompt, the lowest for a harmless one,
    then the first.
    """
    by_row: dict[str, list[Flat]] = defaultdict(list)
    for flat in _read_light(folder):
        by_row[flat["row_id"]].append(flat)
    best: dict[str, int] = {}
    drops: dict[str, Drop] = {}
    for row_id in wanted:
        candidates = by_row.get(row_id, [])
        good = [flat for flat in candidates if flat["drop_stage"] is None]
        if good:
            best[row_id] = min(good, key=_worth)["candidate"]
        elif candidates:
            reason = Counter(flat["drop_reason"] for flat in candidates).most_common(1)[0][0]
            drops[row_id] = Drop(
                _STAGE_OF_DROP, reason, f"none of {len(candidates)} candidates was good enough"
            )
    return best, drops


def _worth(flat: Flat) -> tuple[int, int]:
    degree = flat["degree"] or 0
    return -degree if flat["kind"] == "safety" else degree, flat["candidate"]


def costs(folder: RunFolder) -> dict[str, int]:
    """What all candidates cost: calls, tokens read and written."""
    rows = _read_light(folder)
    names = ("prompt_tokens", "completion_tokens")
    return {
        "num_candidates": len(rows),
        **{f"num_{name}": sum(row[name] or 0 for row in rows) for name in names},
    }
