import math

import pytest
import torch

from safe_r1.errors import ConfigError
from safe_r1.train.config import OptimizerConfig
from safe_r1.train.optim import clip_gradients, learning_rate, make_optimizer, set_learning_rate


def test_warm_up_then_cosine_by_hand():
    config = OptimizerConfig(lr=1.0, warmup_share=0.2, min_lr_share=0.1)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[5] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 0.5)) / 2)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def descend(states, steps: int = 60) -> float:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 8, generator=generator))
    target = torch.randn(8, 8, generator=generator)
    optimizer = make_optimizer([weight], OptimizerConfig(lr=0.05, weight_decay=0.01), states)
    for _ in range(steps):
        optimizer.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimizer.step()
    return float(((weight - target) ** 2).mean())


def test_moments_in_bf16_go_the_way_of_fp32():
    assert descend("bf16") == pytest.approx(descend("fp32"), rel=0.05)


def test_bf16_takes_half_the_memory_for_moments():
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = make_optimizer([weight], OptimizerConfig(), "bf16")
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert sum(value.nbytes for value in optimizer.state[weight].values() if value.ndim) == 64 * 64 * 4


def test_the_learning_rate_reaches_every_optimizer():
    for states in ("fp32", "bf16", "8bit"):
        weight = torch.nn.Parameter(torch.ones(2, 2))
        optimizer = make_optimizer([weight], OptimizerConfig(weight_decay=0), states)
        set_learning_rate(optimizer, 0.5)
        weight.grad = torch.ones_like(weight)
        with torch.compiler.set_stance("force_eager"):
            optimizer.step()
        assert weight.detach() == pytest.approx(torch.full((2, 2), 0.5), abs=1e-5)


def test_8bit_without_its_library_is_one_clear_line():
    pytest.importorskip("torch")
    try:
        import torchao  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="torchao"):
            make_optimizer([torch.nn.Parameter(torch.ones(2, 2))], OptimizerConfig(), "8bit")


def test_vectors_do_not_decay_and_frozen_ones_take_no_part():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    groups = make_optimizer([matrix, vector, frozen], OptimizerConfig(weight_decay=0.1), "fp32").param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (1, 0.0)]


def test_clipping_by_hand():
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients([first, second], 1.0).item() == pytest.approx(5.0)
    assert first.grad.item() == pytest.approx(0.6)
    clipped = first.grad.clone()
    assert clip_gradients([first, second], 10.0).item() == pytest.approx(1.0, rel=1e-5)
    assert first.grad.equal(clipped)
