"""How long an evaluation's engines on GPUs take for its rows: by the simulation of batch inference."""

import functools
import math
from dataclasses import dataclass

from safe_r1.config import EngineConfig
from safe_r1.inference.batch import dispatch
from safe_r1.inference.engine import max_num_seqs
from safe_r1.inference.kv_cache import kv_capacity
from safe_r1.inference.simulate import BatchRun, lognormal_lengths, simulate_batch
from safe_r1.inference.simulated_engine import BatchRow, EngineRoom
from safe_r1.inference.throughput import EngineSpeed, engine_speed
from safe_r1.models.gpus import Gpu
from safe_r1.models.variant import Variant

# From a disk of the node or a volume.
LOAD_GIB_PER_S = 0.5
ENGINE_START_HOURS = 0.1
# Of vLLM's cache of prompts.
_BLOCK_TOKENS = 16


@dataclass(frozen=True)
class RowGroup:
    """Rows of one benchmark.

    Attributes:
        questions: Its questions.
        repeats: Completions of each; the prompts of all but the first are cached.
        prompt_tokens: Length of a prompt.
        mean_tokens: Mean length of a completion.
        longest: Longest completion.
    """

    questions: int
    repeats: int
    prompt_tokens: int
    mean_tokens: int
    longest: int

    def rows(self) -> list[BatchRow]:
        """The rows in the order of the job: all questions, then all again."""
        lengths = lognormal_lengths(self.questions * self.repeats, self.mean_tokens, self.longest)
        cached = (self.prompt_tokens - 1) // _BLOCK_TOKENS * _BLOCK_TOKENS
        return [
            BatchRow(self.prompt_tokens, length, cached if place >= self.questions else 0)
            for place, length in enumerate(lengths)
        ]


def generate(variant: Variant, engine: EngineConfig, gpu: Gpu, groups: tuple[RowGroup, ...]) -> BatchRun:
    """Simulate the rows on a job's engines, from their start.

    Raises:
        ConfigError: See ``engine_speed`` and ``simulate_batch``.
    """
    capacity = kv_capacity(variant, engine, "gpu")
    slots = max_num_seqs(variant, engine, "gpu")
    sizes = dispatch(slots, engine.batch_size)
    room = EngineRoom(slots, capacity.num_tokens if capacity else math.inf, sizes.rows * sizes.batches)
    speed = engine_speed(variant, engine, gpu)
    start_s = 3600 * ENGINE_START_HOURS + variant.weights_gib() / LOAD_GIB_PER_S
    return _simulate(groups, speed, room, engine.replicas, start_s)


# A campaign asks for the same model and benchmarks before and after fine-tuning.
@functools.lru_cache(maxsize=256)
def _simulate(
    groups: tuple[RowGroup, ...], speed: EngineSpeed, room: EngineRoom, num_engines: int, start_s: float
) -> BatchRun:
    rows = [row for group in groups for row in group.rows()]
    return simulate_batch(rows, speed, room, num_engines, start_s)
