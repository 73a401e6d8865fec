"""Judging by a model on an engine of this job: its prompts, how its replies are read, and its stage."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from safe_r1.benchmarks import Benchmark
from safe_r1.config import EngineConfig
from safe_r1.errors import EngineLostError
from safe_r1.evaluation.results import BenchmarkRow, RequestKey
from safe_r1.evaluation.scoring import Writer, left_over, needs_judge, verdict_of_judge
from safe_r1.evaluation.units import ScoringUnit
from safe_r1.inference.batch import generate
from safe_r1.inference.device import pick_device
from safe_r1.inference.early_engine import EarlyEngine
from safe_r1.inference.engine import resolve_engine
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, Sampling
from safe_r1.judge.base import Judgement
from safe_r1.judge.factory import JudgePlan, engine_sampling
from safe_r1.judge.pieces import pieces_for_model, worst
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.models.registry import Variant
from safe_r1.progress import NOTICES
from safe_r1.resources import Cluster, Device, connect, disconnect
from safe_r1.schema import Unscored, Verdict

notices = logging.getLogger(NOTICES)


@dataclass(frozen=True)
class JudgeRequests:
    """The judge's prompts about one unit: a ``RequestBatch``.

    Attributes:
        unit: The unit.
        num_rows: Number of texts; one that is long has several prompts.
        max_tokens: Maximum length of the judge's reply.
        policy: Prompt and labels of the judge.
        benchmark: Its benchmark, which scores some parts by itself; None where every open part is the
            judge's.
    """

    unit: ScoringUnit
    num_rows: int
    max_tokens: int
    policy: Policy = BUILT_IN
    benchmark: Benchmark | None = None

    def read(self) -> Iterator[Request]:
        """The prompts."""
        pending = self.unit.read()
        if self.benchmark is not None:
            [pending] = left_over([self.unit], {self.unit.benchmark: self.benchmark}, needs_judge)
        for each in pending:
            # By the unit's name for it, under which the verdict is written.
            key = replace(each.key, benchmark=self.unit.benchmark)
            pieces = pieces_for_model(each.item)
            for number, piece in enumerate(pieces):
                of_piece = replace(key, piece=number, num_pieces=len(pieces))
                messages = self.policy.messages(piece)
                yield Request(of_piece.to_text(), messages, self.max_tokens, seed=0, names_tags=True)


@dataclass(frozen=True)
class ReadReply:
    """Turns a result of a judging engine into a verdict.

    Attributes:
        variants: Name of the evaluated variant by the unit's benchmark.
        judge: The judge's label.
        policy: Prompt and labels of the judge.
    """

    variants: Mapping[str, str]
    judge: str
    policy: Policy = BUILT_IN

    def __call__(self, result: EngineResult) -> BenchmarkRow[Verdict]:
        """The verdict of a result on a whole text."""
        key = RequestKey.from_text(result["key"])
        return self.row(key, self.judgement(key, result))

    def judgement(self, key: RequestKey, result: EngineResult) -> Judgement:
        """A reply that the engine could not give is unscored, and retried when the run is resumed."""
        if result["error"]:
            return Judgement(None, Unscored.JUDGE_ERROR, result["error"])
        return self.policy.read(result["text"], result["finish_reason"], key.task)

    def row(self, key: RequestKey, judgement: Judgement) -> BenchmarkRow[Verdict]:
        """The verdict with a judgement on the text that a key names."""
        return verdict_of_judge(key, self.variants[key.benchmark], judgement, self.judge)


class JoinPieces:
    """Puts the judgements on the pieces of a text together: one verdict for each text.

    Runs in the driver. The judgements of a text of which some pieces are still being judged are in memory
    alone: a run that ends here judges that text again when it is resumed.
    """

    def __init__(self, read: ReadReply, write: Writer):
        self._read = read
        self._write = write
        self._open: dict[RequestKey, dict[int, Judgement]] = {}
        self._num_further = 0

    def finish(self, result: EngineResult) -> BenchmarkRow[Verdict] | None:
        """The verdict on a text with the last of its pieces, else None."""
        key = RequestKey.from_text(result["key"])
        judgement = self._read.judgement(key, result)
        if key.num_pieces == 1:
            return self._read.row(key, judgement)
        text_key = replace(key, piece=0)
        found = self._open.setdefault(text_key, {})
        found[key.piece] = judgement
        if len(found) < key.num_pieces:
            self._num_further += 1
            return None
        del self._open[text_key]
        return self._read.row(key, worst([found[number] for number in range(key.num_pieces)]))

    def write(self, rows: Sequence[BenchmarkRow[Verdict] | None]) -> None:
        """Write the verdicts among what ``finish`` gave."""
        if verdicts := [row for row in rows if row is not None]:
            self._write(verdicts)

    def texts(self, counts: BatchCounts) -> BatchCounts:
        """Counts of texts from counts of pieces, which ``finish`` has seen before."""
        num_further, self._num_further = self._num_further, 0
        return replace(counts, rows=counts.rows - num_further)


def judge_on_engine(
    judge: JudgePlan,
    requests: Sequence[JudgeRequests],
    read: ReadReply,
    write: Writer,
    has_worked: bool,
    cluster: Cluster | None = None,
    early: EarlyEngine | None = None,
) -> Iterator[BatchCounts]:
    """Judge on an engine of its own; yields counts as rows are judged.

    Args:
        judge: A judge with a model.
        requests: What is judged.
        read: Reads its replies.
        write: Writes verdicts.
        has_worked: Whether it has judged rows of the run before.
        cluster: As it was before the evaluated engine; None: as it is now.
        early: The engine, where it was started already.

    Raises:
        ConfigError, ResourceError: The cluster cannot hold it.
        ModelError, EngineLostError: See ``safe_r1.inference.batch.generate``.
    """
    assert judge.model is not None
    join = JoinPieces(read, write)
    if early is not None:
        num_judged = 0
        try:
            for counts in early.generate(requests, join.finish, join.write, has_worked):
                num_judged += counts.rows
                yield join.texts(counts)
            return
        except EngineLostError as error:
            if num_judged:
                raise
            # Maybe there was less room than it seemed: now it has all of it.
            notices.warning("judge: its engine was lost beside the evaluated one, and starts anew: %s", error)
    # The evaluated engine's placement groups live as long as its driver's connection (ray#64035): without a
    # new one, two tensor-parallel engines would need the GPUs of both.
    disconnect()
    connected = connect()
    engine, device = judge_engine(judge.config.engine, judge.model, cluster or connected)
    sampling = Sampling(**engine_sampling(judge.config))
    results = generate(requests, judge.model, engine, device, sampling, join.finish, join.write, has_worked)
    for counts in results:
        yield join.texts(counts)


def judge_engine(engine: EngineConfig, model: Variant, cluster: Cluster) -> tuple[EngineConfig, Device]:
    """Settings and device of the judge's engine.

    Raises:
        ConfigError, ResourceError: The cluster cannot hold it.
    """
    device = pick_device(model, engine.device, cluster.gpu_total)
    return resolve_engine(model, engine, device, cluster), device
