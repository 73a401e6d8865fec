"""The jobs that are disturbed, small and with a result that can be compared."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safe_r1.evaluation.results import read_completions, read_verdicts
from safe_r1.runs import RunFolder
from tests.small_corpus import seed_rows, write_corpus
from tests.tiny_models import ANSWERING_TEMPLATE, make_tiny

Result = dict[str, str]
"""Part of a result to a hash of it, or to the values themselves."""

_NUM_QUESTIONS = 24
_NUM_STEPS = 12
# Of every job; the last three have processes of their own.
_RAYS = ("supervisor", "driver", "raylet", "gcs_server", "data worker")


@dataclass(frozen=True)
class Job:
    """One kind of job.

    Attributes:
        arguments: Of the interpreter, without the output.
        read: Its result, from the folder of its output.
        victims: Kinds of process that are killed; see ``tests.chaos.victims``.
    """

    name: str
    arguments: tuple[str, ...]
    read: Callable[[Path], Result]
    victims: tuple[str, ...]

    def command(self, output: Path) -> list[str]:
        """Its command line."""
        return [sys.executable, *self.arguments, "--output", str(output)]


def make_jobs(folder: Path) -> list[Job]:
    """Make the small models and data that the jobs work on.

    Args:
        folder: Where to.
    """
    model = make_tiny("qwen2", folder / "answering", chat_template=ANSWERING_TEMPLATE)
    questions = folder / "questions.jsonl"
    rows = [{"question": f"第 {n} 个问题怎样做？", "task": "refusal"} for n in range(_NUM_QUESTIONS)]
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    texts = seed_rows(24)
    corpus = write_corpus(folder / "corpus", {"train": [texts[::2]], "validation": [texts[1::2]]})
    return [_evaluate(model, questions), _build_corpus(), _finetune(model, corpus), _serve(model)]


def _evaluate(model: Path, questions: Path) -> Job:
    settings = {
        "engine.max_model_len": 1024,
        "engine.max_num_seqs": 8,
        "engine.shard_age_s": 0,
        "engine.cpu_kv_cache_gib": 0.5,
        "generation.max_tokens": 48,
    }
    arguments = ("ray_jobs/evaluate.py", f"--variant={model}", f"--benchmark={questions}", "--repeats=2")

    def read(output: Path) -> Result:
        run = RunFolder.locate(str(output), "main", model.name, questions.stem)
        completions, verdicts = read_completions(run), read_verdicts(run)
        info = run.read_json("run.json") or {}
        return {
            "completions": f"{len(completions)} rows {_hash_rows(completions)}",
            "verdicts": f"{len(verdicts)} rows {_hash_rows(verdicts)}",
            "results": str(info.get("results_sha256")),
        }

    return Job("evaluate", (*arguments, *_sets(settings)), read, (*_RAYS, "engine"))


def _build_corpus() -> Job:
    def read(output: Path) -> Result:
        manifest = json.loads((output / "corpus.json").read_text("utf-8"))
        return {**_hash_files(output, "*.parquet"), "splits": json.dumps(manifest["splits"], sort_keys=True)}

    return Job("build_corpus", ("ray_jobs/build_corpus.py", "--recipe=seeds"), read, _RAYS)


def _finetune(model: Path, corpus: Path) -> Job:
    settings = {
        "pack.seq_len": 1024,
        "global_batch_size": 4,
        "save.every": 3,
        "save.max_validation": 2,
        "optimizer.lr": 1e-3,
        "epochs": 8,
    }
    arguments = ("ray_jobs/finetune.py", f"--variant={model}", f"--corpus={corpus}", "--num-workers=2")

    def read(output: Path) -> Result:
        run = output / "main" / model.name
        lines = map(json.loads, (run / "history.jsonl").read_text("utf-8").splitlines())
        losses = [(line["step"], line.get("loss"), line.get("validation")) for line in lines]
        exported = run / f"{model.name}-safe"
        return {"losses": json.dumps(losses), **_hash_files(exported, "*.safetensors")}

    steps = f"--max-steps={_NUM_STEPS}"
    return Job("finetune", (*arguments, steps, *_sets(settings)), read, (*_RAYS, "training worker"))


def _serve(model: Path) -> Job:
    def read(output: Path) -> Result:
        found = {}
        for line in (output / "rows.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            [item] = row["response"]["body"]["items"]
            [outcome] = item["outcomes"]
            texts = [outcome["reasoning"], outcome["answer"]]
            labels = [f"{part} {found['label']}" for part, found in sorted(outcome["verdicts"].items())]
            found[row["custom_id"]] = json.dumps([*texts, *labels], ensure_ascii=False)
        return found

    arguments = ("-m", "tests.chaos.service_batch", f"--variant={model}")
    return Job("serve", arguments, read, (*_RAYS[:4], "engine", "replica", "ingress"))


def _sets(settings: dict[str, object]) -> list[str]:
    return [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]


def _hash_rows(rows: dict) -> str:
    text = repr(sorted(rows.items(), key=repr))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hash_files(folder: Path, pattern: str) -> Result:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob(pattern))
    }
