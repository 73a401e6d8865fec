"""Linear layers in FP8, emulated on CPU: which they are, what they compute, and what stays as it was."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig
from upath import UPath

from safe_r1.errors import ConfigError
from safe_r1.models.registry import Layout, get_variant
from safe_r1.resources import Cluster
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.config import FinetuneConfig, Fp8Recipe, LoraConfig, OptimizerConfig, PackConfig
from safe_r1.train.export import export
from safe_r1.train.export_weights import ExportSpec
from safe_r1.train.fp8_layers import check_fp8, use_fp8
from safe_r1.train.job import make_job
from safe_r1.train.model import ModelSpec, build_model, load_model
from safe_r1.train.optim import make_optimizer
from safe_r1.train.parallel import ParallelDims
from safe_r1.train.run import make_fingerprint
from safe_r1.train.step import StepResult, train_step
from tests.integration.train_ranks import BATCH, batch_of, rows_of_step
from tests.small_corpus import seed_rows, write_corpus

pytest.importorskip("torchao")
RECIPES: tuple[Fp8Recipe, ...] = ("rowwise", "tensorwise")
NUM_STEPS = 3


def train(folder: Path, fp8: Fp8Recipe | None) -> tuple[nn.Module, torch.optim.Optimizer, list[StepResult]]:
    """Three steps on fixed batches, with a large learning rate."""
    model = load_model(ModelSpec(str(folder), bf16=True, fp8=fp8), ParallelDims(), "cpu")
    optimizer = make_optimizer(model.parameters(), OptimizerConfig(eps=1e-2), "fp32")
    steps = [
        train_step(model, optimizer, [batch_of(rows_of_step(step), 0, BATCH)], ParallelDims(), 1e-2, 1.0)
        for step in range(NUM_STEPS)
    ]
    return model, optimizer, steps


def fp8_layers(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"}


def built(folder: Path, **changes: Any) -> nn.Module:
    config = AutoConfig.from_pretrained(folder, **changes)
    return build_model(config, ModelSpec("", bf16=True, fp8="rowwise"), ParallelDims(), "cpu")


def test_the_layers_matrices_are_in_fp8_and_nothing_else(tiny_qwen2: Path, tiny_deepseek_v3: Path):
    dense = built(tiny_qwen2)
    projections = {f"self_attn.{name}_proj" for name in "qkvo"}
    projections |= {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert fp8_layers(dense) == {f"model.layers.{n}.{name}" for n in (0, 1) for name in projections}
    # The MLP's matrices have a dimension that is no multiple of 16.
    assert {name.rpartition(".")[2] for name in fp8_layers(built(tiny_qwen2, intermediate_size=120))} == {
        f"{name}_proj" for name in "qkvo"
    }
    routed = fp8_layers(built(tiny_deepseek_v3))
    assert any("shared_experts" in name for name in routed)
    assert not [name for name in routed if name.endswith((".gate", ".experts", "lm_head"))]


def fp8(values: Tensor, dim: int | None) -> Tensor:
    """Values rounded to e4m3, whose largest number is 448, with one scale or one along a dimension."""
    largest = values.abs().amax(dim, keepdim=True) if dim is not None else values.abs().amax()
    scale = 448 / largest.double()
    if dim is not None:
        # torchao rounds the scales of rows down to powers of two.
        scale = scale.log2().floor().exp2()
    return (values.double() * scale).clamp(-448, 448).to(torch.float8_e4m3fn).double() / scale


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_layer_multiplies_what_is_rounded_to_fp8(recipe: Fp8Recipe):
    generator = torch.Generator().manual_seed(0)
    model: Any = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(64, 32)])
    inputs = torch.randn(48, 64, generator=generator).bfloat16().requires_grad_()
    # Rows of very different sizes, which one scale does not hold.
    weight = torch.randn(32, 64, generator=generator) * torch.logspace(-4, 0, 32)[:, None]
    model.layers[0].weight = nn.Parameter(weight.bfloat16())
    assert use_fp8(model, recipe, "cpu") == ["layers.0"]
    layer: Any = model.layers[0]
    bias = layer.bias.detach()
    output = layer(inputs)
    along = -1 if recipe == "rowwise" else None
    exact_inputs, exact_weight = inputs.detach().float(), weight.bfloat16().float()
    wanted = fp8(exact_inputs, along) @ fp8(exact_weight, along).T + bias.double()
    exact = exact_inputs.double() @ exact_weight.double().T + bias.double()
    # Rounded to bf16 in the end, and to FP8 before.
    assert difference(output, wanted) < 4e-3
    assert difference(output, exact) > 1e-2
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    # The gradient of each output is one; in the other product the rows of the weight are its columns.
    wanted = torch.ones(48, 32).double() @ fp8(exact_weight, 0 if recipe == "rowwise" else None)
    assert difference(gradient, wanted) < 4e-3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("arch", ["tiny_qwen2", "tiny_deepseek_v3"])
def test_losses_stay_near_those_of_bf16(arch: str, recipe: Fp8Recipe, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(arch)
    model, _, found = train(folder, recipe)
    plain, _, wanted = train(folder, None)
    assert [step.loss for step in found] == pytest.approx([step.loss for step in wanted], rel=0.02)
    assert [step.loss for step in found] != pytest.approx([step.loss for step in wanted], rel=1e-5)
    shapes = {name: (weight.shape, weight.dtype, type(weight)) for name, weight in plain.state_dict().items()}
    assert shapes == {
        name: (weight.shape, weight.dtype, type(weight)) for name, weight in model.state_dict().items()
    }


@pytest.mark.slow
def test_checkpoint_and_export_know_nothing_of_it(tiny_qwen2: Path, tmp_path: Path):
    model, optimizer, _ = train(tiny_qwen2, "rowwise")
    checkpoints = Checkpoints(UPath(tmp_path / "checkpoints"), 0)
    checkpoints.save(model, optimizer, NUM_STEPS, {"validation_loss": 1.0})
    checkpoints.finish()
    again = load_model(ModelSpec(str(tiny_qwen2), bf16=True, fp8="rowwise"), ParallelDims(), "cpu")
    moments = make_optimizer(again.parameters(), OptimizerConfig(eps=1e-2), "fp32")
    assert checkpoints.load_latest(again, moments)
    batch = [batch_of(rows_of_step(NUM_STEPS), 0, BATCH)]
    found, wanted = (
        train_step(*each, batch, ParallelDims(), 1e-2, 1.0) for each in ((again, moments), (model, optimizer))
    )
    assert found == wanted
    output = UPath(tmp_path / "model")
    path = UPath(tmp_path / "checkpoints" / f"step-{NUM_STEPS:06}")
    spec = ExportSpec(path, get_variant(str(tiny_qwen2)), output, "", dtype=torch.bfloat16)
    export(spec, lambda progress: None)
    exported = load_file(tmp_path / "model" / "model.safetensors")
    original = load_file(tiny_qwen2 / "model.safetensors")
    assert {name: weight.shape for name, weight in exported.items()} == {
        name: weight.shape for name, weight in original.items()
    }
    assert {weight.dtype for weight in exported.values()} == {torch.bfloat16}


def test_without_torchao_or_on_an_older_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    model: Any = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(64, 72)])
    with pytest.raises(ConfigError, match="multiples of 16"):
        use_fp8(model, "rowwise", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA RTX A6000")
    with pytest.raises(ConfigError, match=r"^fp8: NVIDIA RTX A6000 has no FP8 .* 8\.9: omit fp8$"):
        use_fp8(model, "rowwise", "cuda")
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ConfigError, match=r"^fp8 needs torchao: pip install torchao, or omit fp8$"):
        use_fp8(model, "rowwise", "cpu")


CONFIG = FinetuneConfig(variant="-", corpus="-", fp8="rowwise")
HOPPER = Layout("h100-80", 8)


@pytest.mark.parametrize(
    ("config", "layout", "is_bf16", "reason"),
    [
        (CONFIG.model_copy(update={"lora": LoraConfig()}), HOPPER, True, "saves nothing with lora"),
        (CONFIG, HOPPER, False, "set dtype=bf16"),
        (CONFIG, replace(HOPPER, tp_size=2), True, "set parallel.tp_size=1"),
        (CONFIG, replace(HOPPER, gpu="a100-80"), True, "a100-80 has no FP8 matrix products"),
    ],
)
def test_settings_that_do_not_go_with_it(config: FinetuneConfig, layout: Layout, is_bf16: bool, reason: str):
    with pytest.raises(ConfigError, match=reason) as caught:
        check_fp8(config, layout, is_bf16)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_that_go_with_it():
    for gpu in ("h20-96", "h200-141", "b200-180", "l40s-48", "cpu"):
        check_fp8(CONFIG, replace(HOPPER, gpu=gpu), is_bf16=True)


@pytest.mark.slow
def test_it_belongs_to_what_makes_a_run_the_same_run(tiny_qwen2: Path, tmp_path: Path):
    rows = seed_rows(2)
    config = FinetuneConfig(
        variant=str(tiny_qwen2),
        corpus=str(write_corpus(tmp_path, {"train": [rows], "validation": [rows]})),
        device="cpu",
        dtype="bf16",
        pack=PackConfig(seq_len=512),
    )
    cluster = Cluster(gpu_total=0, cpu_total=2, memory_gib=16)
    settings = {
        fp8: make_fingerprint(make_job(config.model_copy(update={"fp8": fp8}), cluster))["settings"]
        for fp8 in (None, *RECIPES)
    }
    assert [each.get("fp8", "unset") for each in settings.values()] == ["unset", *RECIPES]
    job = make_job(config.model_copy(update={"fp8": "rowwise"}), cluster)
    assert job.plan.step_settings.fp8 == "rowwise"
    with pytest.raises(ConfigError, match="set dtype=bf16"):
        make_job(config.model_copy(update={"fp8": "rowwise", "dtype": "auto"}), cluster)
