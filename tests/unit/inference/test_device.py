"""The memory that a machine's GPUs report."""

from pathlib import Path

import pytest

from safe_r1.inference import device


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a program in the place of NVIDIA's."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '81559, 551'", 79.1),
        ("echo '143771, 600'; echo '81559, 551'", 79.1),  # the smallest
        ("echo '[N/A], [N/A]'", None),  # a GPU that shares the machine's memory
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", None),
        ("", None),
    ],
)
def test_memory_as_the_driver_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: float | None
):
    fake_smi(tmp_path, monkeypatch, script)
    found = device._read_gpu_memory_gib()
    assert found == (pytest.approx(expected, abs=0.05) if expected else None)


def test_a_machine_without_the_driver_reports_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device._read_gpu_memory_gib() is None


def test_nobody_is_asked_where_no_node_has_a_known_gpu():
    assert device.cluster_gpu_memory_gib(frozenset()) is None
