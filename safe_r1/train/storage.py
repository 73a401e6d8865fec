"""What a fine-tuning run needs besides GPUs: host memory and disk of a node, room on the volume, and time for
files.
"""

from dataclasses import astuple, dataclass

from safe_r1.models.gpus import Gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.memory import GIB, WEIGHT_BYTES, moment_bytes_on_disk

# Assumption: a worker's Python, torch, CUDA context and NCCL buffers.
PROCESS_GIB = 6.0
# Host memory through which one worker writes its part of a checkpoint, where a copy has no room.
CHECKPOINT_STAGING_GIB = 2.0
# Part of a node's free memory that copies of its workers' states may take.
COPY_SHARE = 0.8
# Assumption: Ray's own processes and object store, and the file cache.
SYSTEM_GIB = 48.0
# Images, compiled kernels and spilled objects of a node.
NODE_DISK_GIB = 150.0
# The two latest checkpoints and the best one stay when the run is over; another one is being written.
NUM_KEPT_CHECKPOINTS = 3
NUM_CHECKPOINTS = NUM_KEPT_CHECKPOINTS + 1
# A corpus as text and as packed token ids.
CORPUS_BYTES_PER_TOKEN = 16
# Assumption: what one node reads from, or writes to, a shared volume or an object store.
READ_GIB_PER_S = 1.0
WRITE_GIB_PER_S = 1.0
# Of bf16 weights, for each node: tasks on all nodes write the files (`train.spread`).
EXPORT_GIB_PER_S = 1.0
# Assumption: from the GPUs of one node to its memory.
COPY_GIB_PER_S = 50.0
# Assumption: processes, process groups and the first step's compilation.
START_S = 180.0


@dataclass(frozen=True)
class HostMemory:
    """Memory of one node in GiB.

    Attributes:
        states: Weights, gradients and moments that are offloaded from the GPUs.
        workers: Its worker processes.
        files: For loading the model or writing a checkpoint, whichever takes more.
        system: Ray and the operating system.
        has_checkpoint_copy: States are copied there, and written while training goes on; otherwise training
            waits.
    """

    states: float
    workers: float
    files: float
    system: float
    has_checkpoint_copy: bool

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.states + self.workers + self.files + self.system


@dataclass(frozen=True)
class VolumeUse:
    """Room that a run takes on the volume or in the bucket, in GiB.

    Attributes:
        model: Files of the original model.
        corpus: Text and packed tokens.
        kept_checkpoints: Checkpoints that stay when the run is over.
        pending_checkpoint: The one that is being written.
        export: The exported model.
    """

    model: float
    corpus: float
    kept_checkpoints: float
    pending_checkpoint: float
    export: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(astuple(self))

    @property
    def written(self) -> float:
        """What the run itself writes, at most."""
        return self.kept_checkpoints + self.pending_checkpoint + self.export

    @property
    def kept(self) -> float:
        """Of that, what stays when the run is over."""
        return self.kept_checkpoints + self.export


def checkpoint_gib(model: Architecture, layout: Layout) -> float:
    """Size of a checkpoint: weights and moments."""
    return model.total_params * (WEIGHT_BYTES + moment_bytes_on_disk(layout.states, model)) / GIB


def host_memory(model: Architecture, layout: Layout, gpu: Gpu, state_gib: float) -> HostMemory:
    """Memory of one node.

    Args:
        model: Dimensions of the model.
        layout: GPUs and sharding.
        gpu: The GPU type, with its node.
        state_gib: States of one GPU, wherever they are.
    """
    workers = min(layout.num_gpus, gpu.per_node)
    # A worker of several reads only its own shard of each tensor; the largest that is read whole is the
    # embedding, as stored and in fp32. A single one loads the whole model in fp32 before it moves it.
    embedding = 2 * WEIGHT_BYTES * model.embedding_params / GIB
    loading = embedding if layout.num_gpus > 1 else WEIGHT_BYTES * model.total_params / GIB
    states = workers * state_gib if layout.cpu_offload else 0.0
    fixed = states + workers * PROCESS_GIB + SYSTEM_GIB
    copy = checkpoint_gib(model, layout) * workers / layout.num_gpus
    is_copied = copy <= COPY_SHARE * (gpu.node_memory_gib - fixed)
    saving = copy if is_copied else workers * CHECKPOINT_STAGING_GIB
    return HostMemory(
        states=states,
        workers=workers * PROCESS_GIB,
        files=max(workers * loading, saving),
        system=SYSTEM_GIB,
        has_checkpoint_copy=is_copied,
    )


def checkpoint_wait_s(
    size_gib: float, saves: int, num_nodes: int, interval_s: float, is_copied: bool
) -> float:
    """Seconds that training waits for its checkpoints.

    Args:
        size_gib: One checkpoint.
        saves: Number of checkpoints.
        num_nodes: Nodes that write.
        interval_s: Training between two of them.
        is_copied: Their states are copied to host memory first.
    """
    write_s = size_gib / (num_nodes * WRITE_GIB_PER_S)
    if not is_copied:
        return saves * write_s
    # One at a time: the next one waits for the last one, and so does the end of training.
    copy_s = size_gib / (num_nodes * COPY_GIB_PER_S)
    return saves * copy_s + (saves - 1) * max(0.0, write_s - interval_s) + write_s


@dataclass(frozen=True)
class RunTime:
    """Seconds of a whole run.

    Attributes:
        start: Processes, and loading the model.
        training: Steps of all epochs.
        validation: Validations.
        checkpoints: Training's waits for its checkpoints.
        export: Export of the model.
    """

    start: float
    training: float
    validation: float
    checkpoints: float
    export: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(astuple(self))
