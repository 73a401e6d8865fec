"""A batch that a service answers, as a job: the same command again goes on with the same batch.

It ends with exit code 3 where the service has ended by itself, as the jobs do.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from safe_r1.errors import ExitCode
from tests.serving import REPOSITORY, ports

NUM_ROWS = 40
_LIMIT_S = 800.0
_STOP_S = 90.0
_ENDED = ("completed", "failed", "cancelled", "expired")
_SETTINGS = {
    "engine.max_model_len": 1024,
    "engine.max_num_seqs": 4,
    "engine.cpu_kv_cache_gib": 0.5,
}


def main() -> int:
    """Exit code of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", required=True, help="folder of a model")
    parser.add_argument("--output", required=True, type=Path, help="folder of the batch and its rows")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    [port] = ports(1)
    settings = {**_SETTINGS, "batches": str(args.output / "batches")}
    command = [sys.executable, "ray_jobs/serve.py", f"--variant={args.variant}", f"--port={port}"]
    command += [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60) as http:
            return _run_batch(http, process, args.output)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _run_batch(http: httpx.Client, process: "subprocess.Popen[bytes]", output: Path) -> int:
    """Ask until the batch has ended, whatever happens to the service's parts meanwhile."""
    known = output / "batch.json"
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return ExitCode.LOST
        # A part of the service may be lost at any moment: connections break, requests are refused.
        with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
            if not known.exists():
                known.write_text(json.dumps(_begin(http)), "utf-8")
            batch = _get(http, f"/batches/{json.loads(known.read_text('utf-8'))['id']}").json()
            if batch["status"] in _ENDED:
                print(f"batch: {batch['status']}, {batch['request_counts']}", flush=True)
                text = _get(http, f"/files/{batch['output_file_id']}/content").text
                (output / "rows.jsonl").write_text(text, "utf-8")
                return ExitCode.DONE if batch["status"] == "completed" else ExitCode.FAULT
        time.sleep(0.5)
    return ExitCode.FAULT


def _begin(http: httpx.Client) -> Any:
    models = _get(http, "/models").json()["data"]
    body = {"model": models[0]["id"], "max_tokens": 48, "temperature": 0}
    rows = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/safety/evaluate",
            "body": body | {"items": [{"messages": [{"role": "user", "content": f"第 {number} 个问题？"}]}]},
        }
        for number in range(NUM_ROWS)
    ]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    sent = http.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    asked = {"input_file_id": sent.raise_for_status().json()["id"], "endpoint": "/v1/safety/evaluate"}
    return http.post("/batches", json=asked).raise_for_status().json()


def _get(http: httpx.Client, path: str) -> httpx.Response:
    return http.get(path).raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
