"""Compares the rates of CHiSafetyBench's risky questions from the job, the service's endpoint and a batch.

``python -m tests.bench.three_ways --data DIR --output DIR``; DIR is the folder of CHiSafetyBench v1. It is no
benchmark of speed and not part of ``make bench``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH, FILES, MCQ_FILE
from safe_r1.evaluation.results import read_completions, read_verdicts
from safe_r1.metrics.outcomes import REFUSAL_LABELS
from safe_r1.runs import RunFolder
from safe_r1.schema import SAMPLE_SCHEMA
from tests.serving import REPOSITORY, Service, start_service

_ITEMS_PER_ROW = 8

# Answer and label by question.
Answers = dict[str, tuple[str, str | None]]
Item = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of CHiSafetyBench v1")
    parser.add_argument("--output", type=Path, default=Path("bench-results/three-ways"))
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--max-tokens", type=int, default=96)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows, job = _by_job(args)
    flags = ["--variant", args.variant, "--set", f"batches={args.output / 'batches'}"]
    with start_service(flags, args.output / "service.log") as service:
        items = [{"id": row["sample_id"], "messages": row["messages"]} for row in rows]
        body = {"model": service.model, "max_tokens": args.max_tokens}
        response = service.post("/v1/safety/evaluate", body | {"items": items})
        endpoint = _read_items(response.json()["items"])
        batch = _by_batch(service, body, items)
    found: dict[str, dict[str, float]] = {}
    for name, answers in {"job": job, "endpoint": endpoint, "batch": batch}.items():
        found[name] = _rates(answers)
        if name != "job":
            found[f"{name} as job"] = {
                "same_answer": sum(answers[key][0] == job[key][0] for key in job),
                "same_label": sum(answers[key][1] == job[key][1] for key in job),
            }
    text = json.dumps(found, ensure_ascii=False, indent=1)
    (args.output / "three-ways.json").write_text(text + "\n", "utf-8")
    print(text)


def _by_job(args: argparse.Namespace) -> tuple[list[Item], Answers]:
    """The job on the benchmark with a single multiple-choice question, since the loader wants one."""
    data = args.output / "data" / "v1"
    data.mkdir(parents=True, exist_ok=True)
    source = args.data / "v1" if (args.data / "v1").is_dir() else args.data
    for name in FILES:
        shutil.copy(source / name, data / name)
    first = json.loads((source / MCQ_FILE).read_text(encoding="utf-8-sig"))[0]
    only = [first | {"infos": first["infos"][:1]}]
    (data / MCQ_FILE).write_text(json.dumps(only, ensure_ascii=False), encoding="utf-8")
    assert CHISAFETYBENCH.key_path is not None
    key = CHISAFETYBENCH.key_path.read_text("utf-8").splitlines()[0]
    (args.output / "key.jsonl").write_text(key + "\n", "utf-8")
    command = [
        sys.executable,
        "ray_jobs/evaluate.py",
        "--variant",
        args.variant,
        "--data",
        str(data.parent.resolve()),
        "--output",
        str(args.output.resolve()),
        "--benchmark",
        "chisafetybench",
        "--answer-key",
        str((args.output / "key.jsonl").resolve()),
        "--set",
        f"generation.max_tokens={args.max_tokens}",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    [folder] = [
        RunFolder.locate(str(args.output), "main", path.name, "chisafetybench")
        for path in (args.output / "main").iterdir()
    ]
    completions, verdicts = read_completions(folder), read_verdicts(folder)
    rows = [row for row in folder.read_rows("samples", SAMPLE_SCHEMA) if row["task"] == "refusal"]
    keys = [row["sample_id"] for row in rows]
    return rows, {
        key: (completions[(key, 0)]["answer"] or "", (verdicts.get((key, 0, "answer")) or {}).get("label"))
        for key in keys
    }


def _by_batch(service: Service, body: Item, items: list[Item]) -> Answers:
    rows = [
        {
            "custom_id": str(start),
            "method": "POST",
            "url": "/v1/safety/evaluate",
            "body": body | {"items": items[start : start + _ITEMS_PER_ROW]},
        }
        for start in range(0, len(items), _ITEMS_PER_ROW)
    ]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with httpx.Client(base_url=f"{service.url}/v1", timeout=120) as http:
        file = http.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}).json()
        made = http.post(
            "/batches", json={"input_file_id": file["id"], "endpoint": "/v1/safety/evaluate"}
        ).json()
        while made["status"] not in ("completed", "failed", "cancelled", "expired"):
            time.sleep(2)
            made = http.get(f"/batches/{made['id']}").json()
        lines = http.get(f"/files/{made['output_file_id']}/content").text.splitlines()
    return _read_items([item for line in lines for item in json.loads(line)["response"]["body"]["items"]])


def _read_items(items: list[Item]) -> Answers:
    found: Answers = {}
    for item in items:
        [outcome] = item["outcomes"]
        assert item["id"] not in found, f"{item['id']} was answered twice"
        assert outcome["error"] is None, f"{item['id']}: {outcome['error']}"
        found[item["id"]] = (outcome["answer"] or "", outcome["verdicts"]["answer"]["label"])
    return found


def _rates(answers: Answers) -> dict[str, float]:
    labels = Counter(label for _, label in answers.values())
    num_scored = sum(number for label, number in labels.items() if label)
    rates = {
        name: sum(labels[label] for label in wanted) / num_scored for name, wanted in REFUSAL_LABELS.items()
    }
    return {"num_questions": len(answers), "num_scored": num_scored} | {
        name: round(100 * rate, 2) for name, rate in rates.items()
    }


if __name__ == "__main__":
    main()
