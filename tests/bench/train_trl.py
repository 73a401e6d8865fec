"""One side of the training benchmark: TRL's SFTTrainer with its own packing, ``train_trl.py SETTINGS``.

Its packing lets documents of a sequence see each other where there is no flash attention; ours does not.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import get_variant
from tests.bench.train import write_result


class Watch(TrainerCallback):
    """When each step ended, and how many tokens had been seen."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.marks:
            self.marks.append((time.perf_counter(), 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marks.append((time.perf_counter(), int(state.num_input_tokens_seen)))


def main(settings: dict[str, Any]) -> None:
    source = prepare(get_variant(settings["variant"]))[0].source
    table = pq.read_table(Path(settings["corpus"]) / "train", columns=["messages"])
    rows = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in table.to_pylist()]
    config = SFTConfig(
        output_dir=str(Path(settings["folder"]) / "out"),
        max_steps=settings["steps"],
        max_length=settings["seq_len"],
        packing=True,
        completion_only_loss=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings["batch"],
        gradient_checkpointing=False,
        learning_rate=settings["lr"],
        optim="adamw_torch",
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        bf16=torch.cuda.is_available(),
        fp16=False,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        seed=0,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    watch = Watch()
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[watch],
        processing_class=AutoTokenizer.from_pretrained(source),
    )
    trainer.train()
    pairs = zip(watch.marks, watch.marks[1:], strict=False)
    steps = [(after[1] - before[1], after[0] - before[0]) for before, after in pairs]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    write_result(settings, steps, losses)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
