"""Export of a checkpoint: its files, however they are split and wherever they are written."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from upath import UPath

from safe_r1.errors import ModelError, StorageError
from safe_r1.models.fetch import fetch
from safe_r1.models.registry import get_variant
from safe_r1.progress import Progress
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.checkpoint_files import list_checkpoints
from safe_r1.train.export import export
from safe_r1.train.export_weights import ExportSpec
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.parallel import ParallelDims

REPOSITORY = Path(__file__).parents[3]


def make_checkpoint(model_folder: Path, folder: Path) -> UPath:
    model = load_model(ModelSpec(str(model_folder)), ParallelDims(), "cpu")
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(UPath(folder), 0)
    checkpoints.save(model, optimizer, 1, {})
    checkpoints.finish()
    return list_checkpoints(UPath(folder))[0][1]


def make_spec(
    model: Path, checkpoint: UPath, output: Path, max_file_bytes: int, dtype: torch.dtype | None = None
) -> ExportSpec:
    return ExportSpec(
        checkpoint, get_variant(str(model)), UPath(output), "card", dtype=dtype, max_file_bytes=max_file_bytes
    )


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["tiny_qwen2", "tiny_deepseek_v3"])
def test_an_untrained_model_comes_back_whole_and_in_parts(
    arch: str, request: pytest.FixtureRequest, tmp_path: Path
):
    original: Path = request.getfixturevalue(arch)
    checkpoint = make_checkpoint(original, tmp_path / "checkpoints")
    wanted = load_file(original / "model.safetensors")
    for size in (10**9, 200_000):
        output = tmp_path / str(size)
        told: list[Progress] = []
        export(make_spec(original, checkpoint, output, size), told.append)
        files = sorted(output.glob("*.safetensors"))
        assert (len(files) > 1) == (size < 10**9)
        found = {name: tensor for file in files for name, tensor in load_file(file).items()}
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert (told[0].done, told[-1].done, told[-1].total) == (0, len(files), len(files))
        if len(files) > 1:
            index = json.loads((output / "model.safetensors.index.json").read_text())
            assert set(index["weight_map"].values()) == {file.name for file in files}
            assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
        model = AutoModelForCausalLM.from_pretrained(output)
        assert model.config.model_type in original.name


@pytest.mark.slow
def test_it_is_rounded_as_torch_rounds(tiny_qwen2: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_qwen2, tmp_path / "checkpoints")
    export(make_spec(tiny_qwen2, checkpoint, tmp_path / "out", 10**9, torch.bfloat16), lambda progress: None)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(tiny_qwen2 / "model.safetensors").items():
        assert torch.equal(found[name], value.to(torch.bfloat16)), name


@pytest.mark.slow
def test_what_another_export_has_left_is_removed(tiny_qwen2: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_qwen2, tmp_path / "checkpoints")
    output = tmp_path / "out"
    export(make_spec(tiny_qwen2, checkpoint, output, 200_000), lambda progress: None)
    (output / "model-00001-of-00009.safetensors.0123abcd.tmp").write_bytes(b"killed")
    (output / "notes.txt").write_text("mine")
    export(make_spec(tiny_qwen2, checkpoint, output, 10**9), lambda progress: None)
    left = {name for name in hashes(output) if "safetensors" in name}
    assert left == {"model.safetensors"}
    assert (output / "notes.txt").exists()


@pytest.mark.slow
def test_errors_are_one_clear_line(tiny_qwen2: Path, tiny_llama: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_llama, tmp_path / "checkpoints")
    with pytest.raises(ModelError, match=r"lacks \d+ weights of the model"):
        export(make_spec(tiny_qwen2, checkpoint, tmp_path / "out", 10**9), lambda progress: None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        export(make_spec(tiny_llama, checkpoint, tmp_path / "file", 10**9), lambda progress: None)


@pytest.mark.slow
def test_the_list_of_hashes_is_that_of_sha256sum(tiny_qwen2: Path, tmp_path: Path):
    checkpoint = make_checkpoint(tiny_qwen2, tmp_path / "checkpoints")
    output = tmp_path / "out"
    spec = replace(make_spec(tiny_qwen2, checkpoint, output, 200_000), others={"safe_r1.json": b"{}"})
    export(spec, lambda progress: None)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=output,
        capture_output=True,
        text=True,
        check=True,
    )
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert checked == {file.name for file in output.iterdir()} - {"SHA256SUMS"}
    assert {"safe_r1.json", "config.json", "model.safetensors.index.json"} <= checked
    assert len([name for name in checked if name.endswith(".safetensors")]) > 1
    # At a place that is no local disk, it is the same.
    elsewhere = UPath("memory://exports/elsewhere")
    export(replace(spec, output=elsewhere), lambda progress: None)
    assert (elsewhere / "SHA256SUMS").read_bytes() == (output / "SHA256SUMS").read_bytes()


KILLED = """
import os, signal, sys, traceback
from pathlib import Path
from safe_r1.train import export as exporting
from safe_r1.train import export_weights
from tests.unit.train.test_export import make_spec
from upath import UPath

model, checkpoint, folder = map(Path, sys.argv[1:])
save_file, write_bytes = export_weights.save_file, exporting.write_bytes

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def in_a_weight_file(tensors, path, metadata):
    save_file(tensors, path, metadata=metadata)
    if "model-00002" in path:
        os.truncate(path, os.path.getsize(path) // 2)
        kill()

def between_two(progress):
    if progress.done == 2:
        kill()

def before_the_configuration(path, content):
    if path.name == "config.json":
        kill()
    write_bytes(path, content)

def before_the_hashes(path, content):
    if path.name == "SHA256SUMS":
        kill()
    write_bytes(path, content)

def export(name, told=lambda progress: None):
    exporting.export(make_spec(model, UPath(checkpoint), folder / name, 200_000), told)

def export_and_die(moment):
    if moment is in_a_weight_file:
        export_weights.save_file = moment
    elif moment is not between_two:
        exporting.write_bytes = moment
    export(moment.__name__, *([moment] if moment is between_two else []))

# With it all modules are imported; each process that is killed is a copy of this one.
export("undisturbed")
for moment in (in_a_weight_file, between_two, before_the_configuration, before_the_hashes):
    child = os.fork()
    if not child:
        try:
            export_and_die(moment)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
"""


@pytest.mark.slow
def test_after_a_kill_the_same_export_gives_the_same_bytes(tiny_qwen2: Path, tmp_path: Path):
    # Each replaces an export of the same model with other values, as a run that goes on does.
    before = shutil.copytree(tiny_qwen2, tmp_path / "before")
    weights = load_file(before / "model.safetensors")
    save_file(
        {name: value + 1 for name, value in weights.items()}, before / "model.safetensors", {"format": "pt"}
    )
    older = tmp_path / "older"
    export(
        make_spec(before, make_checkpoint(before, tmp_path / "earlier"), older, 200_000),
        lambda progress: None,
    )
    moments = ["in_a_weight_file", "between_two", "before_the_configuration", "before_the_hashes"]
    exports = tmp_path / "exports"
    for moment in moments:
        shutil.copytree(older, exports / moment)
    checkpoint = make_checkpoint(tiny_qwen2, tmp_path / "checkpoints")
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_qwen2), str(checkpoint), str(exports)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    wanted = hashes(exports / "undisturbed")
    for moment in moments:
        folder = exports / moment
        assert len({str(hashes(each)) for each in (folder, older, exports / "undisturbed")}) == 3, moment
        # Read from a URI, the mixture of two exports is refused.
        system = fsspec.filesystem("memory")
        system.put(f"{folder}/", f"/killed/{moment}/", recursive=True)
        with pytest.raises(ModelError, match=r"model-0000\d-of-\d+\.safetensors has not the SHA-256"):
            fetch(f"memory://killed/{moment}", "", weights=True)
        system.rm("/killed", recursive=True)
        export(make_spec(tiny_qwen2, checkpoint, folder, 200_000), lambda progress: None)
        assert hashes(folder) == wanted, moment
