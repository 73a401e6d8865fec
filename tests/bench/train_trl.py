"""TRL's SFTTrainer with its own packing, one side of the training benchmark: ``train_trl.py SETTINGS``.

Without flash attention, its packing lets the documents of a sequence attend to each other; ours does not.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import get_variant
from tests.bench.train import Settings, write_result


class StepTimer(TrainerCallback):
    """Times at which the steps end, and the tokens seen until then."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if not self.marks:
            self.marks.append((time.perf_counter(), 0))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.marks.append((time.perf_counter(), int(state.num_input_tokens_seen)))


def main(settings: Settings) -> None:
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
    timer = StepTimer()
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[timer],
        processing_class=AutoTokenizer.from_pretrained(source),
    )
    trainer.train()
    pairs = itertools.pairwise(timer.marks)
    steps = [(after[1] - before[1], after[0] - before[0]) for before, after in pairs]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    write_result(settings, steps, losses)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
