"""How well the risk classifier for prompts tells risky from harmless ones.

Usage: ``python -m tests.bench.prompt_risk --data DIR``, where DIR holds ``chisafetybench/v1`` and ``xstest``.
Prints areas under the ROC curve and shares at the shipped threshold. CHiSafetyBench's questions and XSTest's
prompts are not trained on; the harmless seeds are, so they are scored by classifiers that have not seen them.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from safe_r1.judge.train_prompt_risk import Prompt, cross_validated_scores, read_prompts, score, train
from safe_r1.taxonomy import find_category


def read_chisafetybench(folder: Path) -> list[Prompt]:
    """The risky questions, those with a history by their last turn."""
    found = []
    for name in ("without", "with"):
        path = folder / "chisafetybench" / "v1" / f"risky_questions_{name}_dialog_history.json"
        for entry in json.loads(path.read_text(encoding="utf-8")):
            for row in entry.get("infos", [entry]):
                category = find_category(row.get("sub_category") or row["category"])
                text = row["question"] if "question" in row else row["input"]
                found.append(Prompt(text, category.key if category else None))
    return found


def read_xstest(folder: Path) -> tuple[list[Prompt], list[Prompt]]:
    """The unsafe and the safe prompts."""
    with (folder / "xstest" / "xstest_prompts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    unsafe = [Prompt(row["prompt"], "") for row in rows if row["label"] == "unsafe"]
    return unsafe, [Prompt(row["prompt"], None) for row in rows if row["label"] == "safe"]


def _report(name: str, risky: np.ndarray, harmless: np.ndarray) -> None:
    area = roc_auc_score([1] * len(risky) + [0] * len(harmless), [*risky, *harmless])
    print(
        f"{name:<58} AUROC {area:.3f}  {len(risky)} risky, {np.mean(risky > 0):.3f} flagged  "
        f"{len(harmless)} harmless, {np.mean(harmless > 0):.3f} flagged"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args(arguments).data
    prompts = read_prompts()
    seeds = [prompt for prompt in prompts if prompt.source == "harmless seed"]
    others = [prompt for prompt in prompts if prompt.source != "harmless seed"]
    weights = train(prompts)
    risky = score(weights, read_chisafetybench(folder))
    unsafe, safe = (score(weights, each) for each in read_xstest(folder))
    harmless = cross_validated_scores(others, seeds)
    _report("CHiSafetyBench against harmless sensitive questions", risky, harmless)
    _report("XSTest, unsafe against safe", unsafe, safe)
    _report("both together", np.concatenate([risky, unsafe]), np.concatenate([harmless, safe]))


if __name__ == "__main__":
    main()
