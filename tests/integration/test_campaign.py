"""The campaign's command as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("recipe", "env", "said"),
    [
        ("demo", {"RAY_ADDRESS": "http://127.0.0.1:9"}, "no Jobs server at http://127.0.0.1:9"),
        ("paper", {"HF_TOKEN": ""}, "secret HF_TOKEN is not set"),
        ("papr", {}, "no recipe 'papr': known are demo, paper"),
        ("demo", {"SAFE_R1_OUTPUT": "s3://bucket/x"}, "give one that all nodes share"),
    ],
)
def test_bad_input_is_one_clear_line(recipe: str, env: dict[str, str], said: str, tmp_path: Path):
    output = env.get("SAFE_R1_OUTPUT", str(tmp_path / "out"))
    done = subprocess.run(
        [sys.executable, "ray_jobs/campaign.py", "--recipe", recipe, "--output", output], env=os.environ | env,
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    assert said in done.stdout.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
