"""The GPU check: what becomes of a part that hangs, crashes or is skipped, and how the plan is chosen."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from safe_r1.models.gpus import get_gpu
from safe_r1.train.architecture import ARCHITECTURES, from_config
from tests.bench.gpu_check import processes
from tests.bench.gpu_check.gpu import match_gpu
from tests.bench.gpu_check.processes import run_part, run_parts
from tests.bench.gpu_check.rows import Row, exit_code, missing, table

START = (
    "import os, signal, subprocess, sys, time; from pathlib import Path; "
    "from tests.bench.gpu_check.rows import Part; "
    "part = Part('probe', 'cpu', True, Path(sys.argv[1])); "
)


def run_probe(script: str, folder: Path, timeout_s: float = 60.0) -> list[Row]:
    return run_part("probe", [sys.executable, "-c", START + script, str(folder)], timeout_s, folder)


def test_a_part_that_ends_well_gives_its_rows_alone(tmp_path: Path) -> None:
    rows = run_probe("part.measured('speed', '5 TFLOP/s', tflops=5); part.skipped('engine', 'no')", tmp_path)
    assert [row.verdict for row in rows] == ["ok", "skipped"]
    assert rows[0].figures == {"tflops": 5}
    assert exit_code(rows) == 0


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_its_processes_and_keeps_its_rows(tmp_path: Path) -> None:
    # Its child is in a session of its own, as a service is.
    script = (
        "part.measured('first', '1'); "
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        "(Path(sys.argv[1]) / 'pid').write_text(str(child.pid)); time.sleep(600)"
    )
    started = time.monotonic()
    rows = run_probe(script, tmp_path, timeout_s=8.0)
    assert time.monotonic() - started < 30
    assert [(row.what, row.verdict) for row in rows] == [("first", "ok"), ("the whole part", "failed")]
    assert "not done after 8 s" in rows[-1].reason
    pid = int((tmp_path / "pid").read_text())
    # One that nobody waits for stays as a zombie.
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert exit_code(rows) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("part.measured('first', '1'); raise ValueError('no such kernel')", "ValueError: no such kernel"),
        ("part.measured('first', '1'); os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("print('nothing to do')", "measured nothing: nothing to do"),
    ],
)
def test_a_part_that_crashes_or_measures_nothing_has_failed(tmp_path: Path, script: str, reason: str) -> None:
    rows = run_probe(script, tmp_path)
    assert [row.verdict for row in rows[:-1]] == (["ok"] if "first" in script else [])
    assert rows[-1].verdict == "failed"
    assert reason in rows[-1].reason
    assert str(tmp_path / "probe.log") in rows[-1].reason


def test_an_error_inside_a_part_costs_its_row_alone(tmp_path: Path) -> None:
    rows = run_probe(
        "\nfor number in range(2):\n  with part.attempt(f'model {number}'):\n"
        "    if number == 0: raise RuntimeError('out of memory\\nmore')\n"
        "    part.measured('model 1', 'fits')",
        tmp_path,
    )
    assert [(row.what, row.verdict, row.reason) for row in rows] == [
        ("model 0", "failed", "RuntimeError: out of memory"),
        ("model 1", "ok", ""),
    ]


def test_parts_that_the_total_time_leaves_nothing_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[float] = []

    def run(name: str, command: list[str], timeout_s: float, folder: Path) -> list[Row]:
        timeouts.append(timeout_s)
        clock[0] += timeout_s
        return [Row(name, "all", "1")]

    clock = [0.0]
    monkeypatch.setattr(processes, "run_part", run)
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    rows = run_parts(["versions", "attention", "losses"], [], tmp_path, total_s=100.0)
    assert timeouts == [45.0, 55.0]
    assert [row.verdict for row in rows] == ["ok", "ok", "failed"]
    assert "run --only losses" in rows[-1].reason


def test_the_table_has_a_line_for_each_row_and_no_other() -> None:
    rows = [
        Row("versions", "torch", "2.13.0", "at least 2.11"),
        Row("options", "FP8", verdict="failed", reason="a|b\nsecond " + "x" * 500),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "failed: a/b second" in lines[-1]
    assert lines[-1].endswith("… |")


def test_what_is_not_installed_is_named() -> None:
    assert missing("json", "no_such_module_1", "no_such_module_2") == (
        "not installed: no_such_module_1, no_such_module_2"
    )
    assert missing("json") == ""


@pytest.mark.parametrize(
    ("device", "memory_gib", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80"),
        ("NVIDIA H200", 139.8, "h200-141"),
        ("NVIDIA H100 PCIe", 79.1, None),  # another peak
        ("NVIDIA GH200 480GB", 94.5, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9.5, None),
    ],
)
def test_only_a_gpu_that_the_plan_knows_is_compared_with_it(
    device: str, memory_gib: float, name: str | None
) -> None:
    found = match_gpu(device, memory_gib)
    assert (found.name if found else None) == name


@pytest.mark.slow
def test_the_largest_part_of_a_model_that_fits_is_trained() -> None:
    from tests.bench.gpu_check.steps import UnequalError
    from tests.bench.gpu_check.training import choose_plan

    def chosen(memory_gib: float) -> tuple[int, str]:
        gpu = replace(get_gpu("h100-80"), memory_gib=memory_gib)
        plan = choose_plan(ARCHITECTURES["r1-distill-qwen-7b"], gpu, 8192, ("fp32", "bf16", "8bit"))
        assert plan.memory.total <= gpu.usable_gib
        return plan.architecture.num_layers, plan.layout.states

    assert chosen(180) == (28, "fp32")
    assert chosen(100) == (28, "8bit")
    # Fewer layers, and then moments in fp32 again if they fit.
    assert chosen(79.1)[0] == 21
    with pytest.raises(UnequalError):
        chosen(16)


@pytest.mark.slow
def test_the_configuration_of_a_random_model_has_the_dimensions_of_the_table() -> None:
    from tests.hf_config import hf_config

    for name, architecture in ARCHITECTURES.items():
        if name != "demo":
            assert from_config(hf_config(architecture).to_dict()) == architecture


@pytest.mark.slow
def test_bf16_is_within_the_tolerance_and_documents_that_attend_to_each_other_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tests.bench.gpu_check import losses
    from tests.bench.gpu_check.steps import largest_differences, random_batches

    def leaking(*arguments: Any) -> list[Any]:
        batches = random_batches(*arguments)
        positions = torch.arange(sum(losses.LENGTHS))[None]
        return [replace(batch, position_ids=positions) for batch in batches]

    folder = losses.make_model("llama", tmp_path)
    exact = losses.train(folder, "cpu", bf16=False)
    loss, norm = largest_differences(losses.train(folder, "cpu", bf16=True), exact)
    assert 0 < loss < losses.LOSS_TOLERANCE / 2
    assert 0 < norm < losses.NORM_TOLERANCE / 2
    monkeypatch.setattr(losses, "random_batches", leaking)
    loss, _ = largest_differences(losses.train(folder, "cpu", bf16=False), exact)
    assert loss > 2 * losses.LOSS_TOLERANCE


@pytest.mark.slow
def test_parts_import_neither_ray_nor_vllm_unless_they_start_engines() -> None:
    blocked = (
        "import sys\n"
        "for name in ('ray', 'vllm', 'torchao', 'peft'): sys.modules[name] = None\n"
        "from tests.bench.gpu_check import attention, engine, losses, options, service, training, versions\n"
        "from tests.bench.gpu_check import __main__"
    )
    folder = Path(__file__).parents[2]
    assert (
        os.spawnve(  # a process of its own: these modules are imported here already
            os.P_WAIT,
            sys.executable,
            [sys.executable, "-c", blocked],
            os.environ | {"PYTHONPATH": str(folder)},
        )
        == 0
    )
