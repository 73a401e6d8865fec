"""This project's loop in one process, one side of the training benchmark: ``train_ours.py SETTINGS``."""

import json
import math
import sys
from pathlib import Path

import torch

from safe_r1.resources import connect, disconnect
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import prepare_data
from safe_r1.train.history import read_history
from safe_r1.train.job import make_job, make_spec
from safe_r1.train.loop import Trainer
from tests.bench.train import Settings, write_result


def main(settings: Settings) -> None:
    folder = Path(settings["folder"])
    config = FinetuneConfig.model_validate(
        {
            "variant": settings["variant"],
            "corpus": settings["corpus"],
            "output": str(folder),
            "max_steps": settings["steps"],
            "device": "gpu" if torch.cuda.is_available() else "cpu",
            "global_batch_size": settings["batch"],
            "trackers": (),
            "num_workers": "1",
            "pack": {"seq_len": settings["seq_len"]},
            "optimizer": {"lr": settings["lr"]},
            "parallel": {"activation_checkpointing": False, "micro_batch_size": 1},
            "save": {"every": settings["steps"], "max_validation": 1},
        }
    )
    job = make_job(config, connect())
    data = prepare_data(config.corpus, job.folder.path / "data", job.variant, config.pack, lambda *_: None)
    disconnect()
    Trainer(make_spec(job, data)).run()
    _, *entries = read_history(job.folder.path)
    steps = [(entry.get("num_tokens", 0), entry.get("step_s", 0.0)) for entry in entries]
    write_result(settings, steps, [entry.get("loss", math.nan) for entry in entries])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
