import pytest
import torch
import torch.nn.functional as F

from safe_r1.train.loss import shift_labels, summed_cross_entropy
from safe_r1.train.packed import IGNORE_INDEX


def example(rows: int = 37, vocabulary: int = 101) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, rows, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, vocabulary, (2, rows), generator=generator)
    labels[0, :20] = IGNORE_INDEX
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_give_the_plain_loss_and_its_gradients(monkeypatch: pytest.MonkeyPatch, chunk_size: int):
    hidden, weight, labels = example()
    # A budget of 1 MiB holds that many rows.
    monkeypatch.setattr("safe_r1.train.loss._BYTES_PER_LOGIT", (1 << 20) // (101 * chunk_size))
    plain = F.cross_entropy(
        (hidden @ weight.T).flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )
    wanted = torch.autograd.grad(plain, (hidden, weight))
    found = summed_cross_entropy(hidden, weight, labels, budget_mib=1)
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    for got, want in zip(torch.autograd.grad(found, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_without_labels_the_loss_is_a_zero_that_reaches_every_parameter():
    hidden, weight, labels = example()
    loss = summed_cross_entropy(hidden, weight, torch.full_like(labels, IGNORE_INDEX), budget_mib=1)
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert all(not gradient.any() for gradient in gradients)


def test_labels_are_shifted_to_the_position_that_predicts_them():
    assert shift_labels(torch.tensor([[5, 6, 7]])).tolist() == [[6, 7, IGNORE_INDEX]]


def test_logits_never_exceed_the_budget():
    hidden, weight, labels = (
        torch.zeros(1, 512, 8),
        torch.zeros(5000, 8),
        torch.zeros(1, 512, dtype=torch.int64),
    )
    largest = 0

    class RecordLargestLogits(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if function is F.linear:
                largest = max(largest, result.numel() * 12)
            return result

    with RecordLargestLogits():
        summed_cross_entropy(hidden.requires_grad_(), weight, labels, budget_mib=4)
    assert 0 < largest <= 4 << 20
