from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safe_r1.train import loss as loss_module
from safe_r1.train.loss import shift_labels, summed_cross_entropy
from safe_r1.train.packed import IGNORE_INDEX

VOCABULARY = 101


def example(
    rows: int = 37, hidden_size: int = 16, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, hidden_size, generator=generator).to(dtype).requires_grad_()
    # Logits of a size around one, as those of a trained model.
    weight = torch.randn(VOCABULARY, hidden_size, generator=generator) / hidden_size**0.5
    weight = weight.to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (rows,), generator=generator)
    return hidden, weight, labels


def in_chunks_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of 1 MiB holds so many rows."""
    monkeypatch.setattr(loss_module, "BYTES_PER_LOGIT", (1 << 20) // (VOCABULARY * rows))


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    # As a training step does, which divides by the number of labels.
    return torch.autograd.grad(loss * 0.37, inputs)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_give_the_plain_loss_and_its_gradients(monkeypatch: pytest.MonkeyPatch, chunk_size: int):
    hidden, weight, labels = example()
    in_chunks_of(chunk_size, monkeypatch)
    plain = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    found = summed_cross_entropy(hidden, weight, labels, budget_mib=1)
    torch.testing.assert_close(found, plain)
    pairs = zip(gradients(found, hidden, weight), gradients(plain, hidden, weight), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_rounding_in_bf16_does_not_grow_with_the_number_of_chunks(
    monkeypatch: pytest.MonkeyPatch, weight_dtype: torch.dtype
):
    hidden, weight, labels = example(rows=1024, hidden_size=64, dtype=torch.bfloat16)
    exact = [part.detach().double().requires_grad_() for part in (hidden, weight)]
    exact_loss = F.cross_entropy(exact[0] @ exact[1].T, labels, reduction="sum")
    exact_gradients = gradients(exact_loss, *exact)
    weight = weight.detach().to(weight_dtype).requires_grad_()
    errors: dict[int, list[float]] = {}
    for num_chunks in (1, 4, 16, 64):
        in_chunks_of(1024 // num_chunks, monkeypatch)
        loss = summed_cross_entropy(hidden, weight, labels, budget_mib=1)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-3)
        found = gradients(loss, hidden, weight)
        assert [part.dtype for part in found] == [torch.bfloat16, weight_dtype]
        errors[num_chunks] = [relative_error(*pair) for pair in zip(found, exact_gradients, strict=True)]
    of_one = errors.pop(1)
    assert max(of_one) < 3e-3
    for found_errors in errors.values():
        assert all(error < 1.05 * one for error, one in zip(found_errors, of_one, strict=True))


def test_without_gradients_none_are_computed(monkeypatch: pytest.MonkeyPatch):
    hidden, weight, labels = example()
    with_gradients = summed_cross_entropy(hidden, weight, labels, budget_mib=1)
    monkeypatch.setattr(loss_module, "_add_product", None)
    with torch.no_grad():
        assert summed_cross_entropy(hidden, weight, labels, budget_mib=1).equal(with_gradients)
    # As under low-rank adapters.
    loss = summed_cross_entropy(hidden, weight.detach(), labels, budget_mib=1)
    [found] = torch.autograd.grad(loss, hidden)
    assert found.any()


def test_without_labels_the_loss_is_a_zero_that_reaches_every_parameter():
    hidden, weight, labels = example()
    loss = summed_cross_entropy(hidden[:0], weight, labels[:0], budget_mib=1)
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_labels_are_shifted_to_the_position_that_predicts_them():
    assert shift_labels(torch.tensor([[5, 6, 7]])).tolist() == [[6, 7, IGNORE_INDEX]]


def test_logits_never_exceed_the_budget():
    hidden, weight, labels = torch.zeros(512, 8), torch.zeros(5000, 8), torch.zeros(512, dtype=torch.int64)
    largest = 0

    class RecordLargestLogits(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if function is F.linear:
                largest = max(largest, result.numel() * 6)
            return result

    with RecordLargestLogits():
        summed_cross_entropy(hidden.requires_grad_(), weight, labels, budget_mib=4)
    assert 0 < largest <= 4 << 20
