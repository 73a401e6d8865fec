"""Options of the model that save time or memory and change no gradient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safe_r1.train import loss as loss_module
from safe_r1.train.batches import collate
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.packed import PackedSequence
from safe_r1.train.parallel import ParallelDims


def loss_and_gradients(spec: ModelSpec) -> tuple[float, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 1500, (48,), generator=generator).numpy()
    names = ["safety", "safety"]
    batch = collate([PackedSequence(tokens, [20, 28], [1, 5], names, names)], "cpu", varlen=False)
    model = load_model(spec, ParallelDims(), "cpu")
    loss = model(**batch.model_inputs)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    # Traced and differentiated as on a GPU, but not translated to kernels, which takes minutes on CPU.
    compiled: list[object] = []
    compile_with = torch.compile

    def record(function: Callable[..., object], **options: Any) -> object:
        compiled.append(function)
        return compile_with(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", record)
    loss_module._compiled.cache_clear()
    found, gradients = loss_and_gradients(ModelSpec(str(tiny_llama), compile_layers=True))
    loss_module._compiled.cache_clear()
    # Two layers and the loss.
    assert len(compiled) == 3
    wanted, wanted_gradients = loss_and_gradients(ModelSpec(str(tiny_llama)))
    assert found == pytest.approx(wanted, rel=1e-6)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name])
