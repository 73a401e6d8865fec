"""Generation of responses by a teacher: the template teacher, a model in this cluster, or an endpoint.

Every candidate is stored as soon as it is judged, so that a resumed job does not generate it again.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from safe_r1.config import EndpointConfig
from safe_r1.corpus.candidates import (
    SYNTHESIZE,
    CandidateBuilder,
    CandidateKey,
    CandidateWriter,
    TeacherReply,
    candidate_key,
    read_candidates,
)
from safe_r1.corpus.ingest import read_counts
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import CorpusRow, Drop, TableRow
from safe_r1.corpus.teachers import PROMPT_SHA256, compose_response, teacher_messages
from safe_r1.inference.batch import generate
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import resolve_engine
from safe_r1.inference.requests import BatchCounts, Request, Sampling, in_batches, row_seed
from safe_r1.judge.factory import JudgePlan
from safe_r1.models.checkpoints import cache_folder, prepare
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.resources import connect
from safe_r1.runs import RunFolder

# Candidates per shard and per task: what an interrupted task loses at most.
_CHUNK = 64
_DECLINED = Drop(SYNTHESIZE, "teacher_declines", "the template teacher answers risky Chinese prompts alone")


def synthesize(
    prompts: Sequence[CorpusRow], recipe: CorpusRecipe, judge: JudgePlan, folder: RunFolder
) -> Iterator[BatchCounts]:
    """Generate every candidate of these prompts that the folder does not have yet.

    Yields:
        Counts of each batch after it was written.
    """
    # Failed calls are repeated; unusable responses are not, since the same call would give the same text.
    done = {candidate_key(row) for row in read_candidates(folder) if row["error"] is None}
    keys = [(row.row_id, number) for row in prompts for number in range(recipe.synthesis.candidates)]
    todo = [key for key in keys if key not in done]
    if not todo:
        return
    job = _Job(todo, {row.row_id: row for row in prompts}, recipe, judge, CandidateWriter(folder))
    if recipe.teacher == "template":
        yield from _by_template(job)
    elif recipe.teacher == "llm":
        yield from _by_engine(job)
    else:
        yield from _by_endpoint(job)


@dataclass(frozen=True)
class _Job:
    """Candidates to generate, and what every teacher needs for it."""

    todo: Sequence[CandidateKey]
    prompts: Mapping[str, CorpusRow]
    recipe: CorpusRecipe
    judge: JudgePlan
    write: CandidateWriter

    @property
    def chunks(self) -> list[Sequence[CandidateKey]]:
        return [self.todo[start : start + _CHUNK] for start in range(0, len(self.todo), _CHUNK)]

    def builder(self, teacher: str) -> CandidateBuilder:
        return CandidateBuilder(self.prompts, self.recipe, self.judge, teacher)


def _by_template(job: _Job) -> Iterator[BatchCounts]:
    import ray

    compose = functools.partial(_compose_chunk, build=job.builder("template"), write=job.write)
    # A list in Arrow has one type: the number of the candidate becomes a string.
    items = [{"keys": [list(map(str, key)) for key in chunk]} for chunk in job.chunks]
    for batch in ray.data.from_items(items).map(compose).iter_batches(batch_size=1, prefetch_batches=0):
        counts = read_counts(batch)
        yield BatchCounts(counts["rows"], counts["failed"], 0)


def _compose_chunk(item: TableRow, build: CandidateBuilder, write: CandidateWriter) -> dict[str, int]:
    replies: list[TeacherReply] = []
    for row_id, number in item["keys"]:
        response = compose_response(build.prompts[row_id], int(number), build.recipe.seed)
        replies.append(TeacherReply(row_id, int(number), response, None if response else _DECLINED))
    rows = build(replies)
    write(rows)
    return {"rows": len(rows), "failed": _num_dropped(rows)}


def _num_dropped(rows: Sequence[TableRow]) -> int:
    return sum(row["drop_stage"] is not None for row in rows)


def _by_engine(job: _Job) -> Iterator[BatchCounts]:
    recipe = job.recipe
    config = recipe.synthesis
    variant, _ = prepare(teacher_variant(recipe), config.engine.trust_remote_code)
    cluster = connect()
    device = pick_device(variant, config.engine.device, cluster.gpu_total)
    engine = resolve_engine(variant, config.engine, device, cluster)
    requests = [
        Request(
            f"{row_id}\t{number}",
            teacher_messages(job.prompts[row_id]),
            config.max_tokens,
            # A seed per call: the candidates of a prompt differ, and a resumed job gives the same ones.
            row_seed(recipe.seed, row_id, number),
            # The instructions say where to think; a row without them is its own dialogue.
            names_tags=job.prompts[row_id].category is not None,
        )
        for row_id, number in job.todo
    ]
    sampling = Sampling(config.temperature, config.top_p)
    finish = job.builder(f"llm:{variant.name}").from_engine
    yield from generate(in_batches(requests), variant, engine, device, sampling, finish, job.write)


def teacher_variant(recipe: CorpusRecipe) -> Variant:
    """The model of the teacher ``llm``."""
    return get_variant(recipe.synthesis.model) if recipe.synthesis.model else DEFAULT_JUDGE


def _by_endpoint(job: _Job) -> Iterator[BatchCounts]:
    from safe_r1.inference.endpoint import ChatEndpoint
    from safe_r1.inference.endpoint_client import EndpointClient

    config = job.recipe.synthesis
    client = EndpointClient(
        job.recipe.teacher,
        config.model,
        EndpointConfig(
            concurrency=config.concurrency,
            timeout_s=config.timeout_s,
            max_retries=config.max_retries,
            patience_s=0,
        ),
        title="teacher endpoint",
        api_key_variable="SAFE_R1_TEACHER_API_KEY",
        sampling={"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens},
    )
    # Cached replies to another version of the prompt do not count.
    endpoint = ChatEndpoint(client, cache_dir=cache_folder() / "teacher", salt=PROMPT_SHA256)
    build = job.builder(f"endpoint:{endpoint.model}")
    for chunk in job.chunks:
        # The candidate's number keeps the replies to the same prompt apart in the cache.
        answers = endpoint.complete(
            [(teacher_messages(job.prompts[row_id]), str(number)) for row_id, number in chunk]
        )
        replies = [
            TeacherReply.from_text(
                key,
                answer.full_text or "",
                answer.error or None,
                (answer.prompt_tokens, answer.completion_tokens),
            )
            for key, answer in zip(chunk, answers, strict=True)
        ]
        rows = build(replies)
        job.write(rows)
        tokens = sum(answer.completion_tokens for answer in answers)
        yield BatchCounts(len(rows), _num_dropped(rows), tokens)
