"""The optimizer step: against plain PyTorch, and without waiting for the device but once."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from safe_r1.train import attention
from safe_r1.train.attention import select_attention
from safe_r1.train.batches import Batch, collate
from safe_r1.train.loss import summed_cross_entropy
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.packed import DUMMY_SEQUENCE, PackedSequence
from safe_r1.train.parallel import ParallelDims
from safe_r1.train.step import train_step, validation_sums

VOCABULARY = 50


class Bigram(nn.Module):
    """Predicts a token from the one before."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, 8, generator=generator))
        self.head = nn.Parameter(torch.randn(VOCABULARY, 8, generator=generator))

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, label_positions: Tensor
    ) -> Tensor:
        hidden = self.embedding[input_ids].flatten(0, 1).index_select(0, label_positions)
        return summed_cross_entropy(hidden, self.head, labels, budget_mib=1)


def packed(*lengths: int, prompt: int = 1) -> PackedSequence:
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator).numpy()
    names = ["safety"] * len(lengths)
    return PackedSequence(tokens, list(lengths), [prompt] * len(lengths), names, names)


def micro_batches(varlen: bool = False, multiple: int = 1) -> list[Batch]:
    parts = [[packed(9, 4), packed(6)], [packed(5, 5, prompt=3), packed(12)], [DUMMY_SEQUENCE]]
    return [collate(part, "cpu", varlen, multiple) for part in parts]


def plain_step(max_norm: float) -> tuple[float, float, Bigram]:
    """Document by document, by torch's own functions."""
    model = Bigram()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses: list[Tensor] = []
    for sequence in (packed(9, 4), packed(6), packed(5, 5, prompt=3), packed(12)):
        tokens = torch.from_numpy(sequence.input_ids).split(sequence.lengths)
        for document, prompt in zip(tokens, sequence.prompt_lengths, strict=True):
            logits = model.embedding[document[prompt - 1 : -1]] @ model.head.T
            losses += F.cross_entropy(logits, document[prompt:], reduction="none")
    mean = torch.stack(losses).mean()
    mean.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return mean.item(), norm.item(), model


@pytest.mark.parametrize("varlen", [False, True])
@pytest.mark.parametrize(("max_norm", "multiple"), [(1e-2, 1), (1e3, 1), (1e3, 16)])
def test_a_step_is_that_of_plain_torch(varlen: bool, max_norm: float, multiple: int):
    model = Bigram()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batches = [
        Batch(b.input_ids, b.position_ids, b.labels, b.label_positions, b.num_tokens)
        for b in micro_batches(varlen, multiple)
    ]
    assert all(batch.input_ids.shape[-1] % multiple == 0 for batch in batches)
    result = train_step(model, optimizer, batches, ParallelDims(), 0.1, max_norm)
    loss, norm, wanted = plain_step(max_norm)
    assert result.failure == ""
    assert (result.loss, result.grad_norm) == pytest.approx((loss, norm), rel=1e-6)
    assert (result.num_labels, result.num_tokens) == (8 + 3 + 5 + 2 + 2 + 11, 41)
    for found, parameter in zip(model.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, parameter)


@pytest.mark.parametrize("max_loss", [None, 0.5])
def test_a_loss_that_is_nan_or_too_high_changes_nothing(max_loss: float | None):
    model = Bigram()
    if max_loss is None:
        with torch.no_grad():
            model.head[3, 3] = math.nan
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_step(model, optimizer, micro_batches(), ParallelDims(), 0.1, 1.0, max_loss)
    assert result.failure
    for found, parameter in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(found, parameter, rtol=0, atol=0, equal_nan=True)


def test_validation_sums_the_losses_of_all_label_tokens():
    loss, num_labels = validation_sums(Bigram(), micro_batches())
    assert num_labels == 31
    assert loss / num_labels == pytest.approx(plain_step(1.0)[0], rel=1e-6)


def test_padding_is_a_document_of_its_own():
    batch = collate([packed(9, 4), packed(6)], "cpu", varlen=True, multiple=16)
    assert batch.boundaries is not None
    assert batch.boundaries["cu_seq_lens_q"].tolist() == [0, 9, 13, 19, 32]
    assert batch.boundaries["max_length_q"] == 13
    assert batch.position_ids[0, 19:].tolist() == list(range(13))
    assert (batch.num_tokens, batch.num_labels) == (19, 16)
    rows = collate([packed(9, 4), packed(6)], "cpu", varlen=False, multiple=16)
    assert rows.position_ids[:, -3:].tolist() == [[0, 1, 2], [7, 8, 9]]


@pytest.mark.slow
def test_the_host_waits_once_in_a_step(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    """On fake tensors, which hold no values: all that asks for one is an error."""
    monkeypatch.setattr(attention, "_KERNEL_DEVICE", "cpu")
    monkeypatch.setattr(attention, "probe_varlen", lambda *_: "")
    select_attention.cache_clear()
    real = load_model(ModelSpec(str(tiny_llama), bf16=True), ParallelDims(), "cpu")
    select_attention.cache_clear()
    waits: list[tuple[int, ...]] = []

    def tolist(tensor: Tensor) -> list[float]:
        waits.append(tuple(tensor.shape))
        # The step is then not taken: an optimizer on CPU counts its steps in tensors there.
        return [math.nan, math.nan]

    on_host = [vars(batch) for batch in micro_batches(varlen=True)]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = fake(real, mode)
        batches = [Batch(**tree_map_only(Tensor, mode.from_tensor, fields)) for fields in on_host]
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        monkeypatch.setattr(FakeTensor, "tolist", tolist)
        result = train_step(model, optimizer, batches, ParallelDims(), 0.1, 1.0)
    assert waits == [(2,)]
    assert result.num_labels == 31


def fake(model: Any, mode: FakeTensorMode) -> Any:
    """The same model with parameters and buffers that hold no values."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.detach())))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, mode.from_tensor(buffer))
    return model
