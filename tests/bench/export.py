"""MB/s of an export: random weights in a checkpoint, written as a model folder by one process and by many.

``python -m tests.bench.export FOLDER --layers 24``: 1.0 GB of fp32 weights; the folder is removed afterwards.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import ray
import torch
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import AutoConfig, AutoModelForCausalLM
from upath import UPath

from safe_r1.models.registry import get_variant
from safe_r1.train.checkpoint_storage import open_writer
from safe_r1.train.export import export
from safe_r1.train.export_weights import ExportSpec
from safe_r1.train.spread import RunAll, run_here, run_on_cluster
from tests.tiny_models import make_tiny


def make_checkpoint(folder: Path, num_layers: int) -> tuple[Path, UPath]:
    """A model folder without weights, and a checkpoint of random ones."""
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2560, "num_attention_heads": 8}
    model_folder = make_tiny("llama", folder / "model", num_hidden_layers=1, **sizes)
    config = AutoConfig.from_pretrained(model_folder)
    config.num_hidden_layers = num_layers
    config.save_pretrained(model_folder)
    (model_folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    checkpoint = UPath(folder / "checkpoint")
    save({"model": model.state_dict()}, storage_writer=open_writer(checkpoint), no_dist=True)
    return model_folder, checkpoint


def measure(model: Path, checkpoint: UPath, output: UPath, run_all: RunAll) -> tuple[float, float, float]:
    """Megabytes of the written weights, seconds, and CPU seconds of this process."""
    variant = get_variant(str(model))
    spec = ExportSpec(checkpoint, variant, output, "", dtype=torch.bfloat16, max_file_bytes=10**8)
    started = time.monotonic()
    cpu_started = time.process_time()
    export(spec, lambda progress: None, run_all)
    seconds = time.monotonic() - started
    cpu_seconds = time.process_time() - cpu_started
    return sum(file.stat().st_size for file in output.iterdir()) / 1e6, seconds, cpu_seconds


def main() -> None:
    """Print one line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    arguments = parser.parse_args()
    folder: Path = arguments.folder / "export-bench"
    try:
        model, checkpoint = make_checkpoint(folder, arguments.layers)
        for run_all in (run_here, run_on_cluster):
            # The first run warms the page cache and starts Ray's workers.
            for _ in range(2):
                output = UPath(folder / run_all.__name__)
                megabytes, seconds, cpu_seconds = measure(model, checkpoint, output, run_all)
                print(
                    f"{run_all.__name__}: {megabytes:.0f} MB in {seconds:.2f} s, "
                    f"{megabytes / seconds:.0f} MB/s; {cpu_seconds:.2f} CPU seconds of the driver"
                )
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
