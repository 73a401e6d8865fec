"""lm-evaluation-harness on multiple-choice questions: ``lm_eval_mcq.py WORK.json RESULT.json``.

``WORK.json`` holds ``engine`` (arguments of ``vllm.LLM``), ``questions`` (a JSONL file for
``lm_eval_mcq.yaml``) and ``max_tokens``.
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import yaml


def main(work_file: str, result_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    _name_the_cpu_build()
    # Imported after the patch, and by name: decorators of the harness hide the signatures from type checkers.
    harness = importlib.import_module("lm_eval")
    backend = importlib.import_module("lm_eval.models.vllm_causallms")
    engine = dict(work["engine"])
    model = backend.VLLM(pretrained=engine.pop("model"), batch_size="auto", **engine)
    task = _task(work["questions"], work["max_tokens"])
    results = harness.simple_evaluate(model, tasks=[task], apply_chat_template=True, bootstrap_iters=0)
    samples = sorted(results["samples"]["chisafetybench_mcq"], key=lambda sample: sample["doc_id"])
    result = {
        "exact_match": results["results"]["chisafetybench_mcq"]["exact_match,first-letter"],
        "rows": [{"key": sample["doc"]["key"], "text": sample["resps"][0][0]} for sample in samples],
    }
    Path(result_file).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


def _name_the_cpu_build() -> None:
    """The harness asks for the version of a distribution named vllm; the CPU build's has another name."""
    import vllm
    from vllm.platforms import current_platform

    assert current_platform, "resolved before the patch: resolving it looks at the version too"
    original = importlib.metadata.version
    try:
        original("vllm")
    except importlib.metadata.PackageNotFoundError:
        importlib.metadata.version = lambda distribution_name: (
            vllm.__version__ if distribution_name == "vllm" else original(distribution_name)
        )


def _task(questions: str, max_tokens: int) -> dict[str, Any]:
    task = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    task["dataset_kwargs"] = {"data_files": {"test": questions}}
    task["generation_kwargs"]["max_gen_toks"] = max_tokens
    return task


if __name__ == "__main__":
    main(*sys.argv[1:])
