"""The network benchmark's steps train what they claim, at a tiny width; nothing here is timed."""

import pytest
import torch
from torch.nn.functional import mse_loss

from benchmarks import networks
from softeq import prior_penalty

ARMS = ("MLP, L2", "soft", "hard", "soft, published")


def tiny():
    return networks.arms(channels=30, layers=2)


def test_the_arms():
    assert tuple(tiny()) == ARMS
    assert networks.TWIN in ARMS


@pytest.mark.parametrize("name", ARMS)
def test_loss_is_the_error_plus_the_penalty_per_training_sample(name):
    module, loss = tiny()[name]
    x, y = networks.batch(6)
    if name == networks.TWIN:
        penalty = 0.5 * networks.PRIOR.residual * sum(p.square().sum() for p in module.parameters())
    else:
        penalty = prior_penalty(module, networks.PRIOR)
    torch.testing.assert_close(loss(x, y), mse_loss(module(x), y) + penalty / 1000)


@pytest.mark.parametrize("name", ARMS)
def test_a_step_moves_every_parameter_by_the_learning_rate_at_most(name):
    module, loss = tiny()[name]
    before = [parameter.detach().clone() for parameter in module.parameters()]
    networks.training_step(module, loss, *networks.batch(6))()
    for parameter, old in zip(module.parameters(), before, strict=True):
        moved = (parameter.detach() - old).abs().max()
        assert 0 < moved < 1.1e-5


def test_every_arm_of_full_width_has_the_shape_of_inertia():
    x, y = networks.batch(3)
    module, _ = networks.arms()[networks.TWIN]
    assert sum(p.numel() for p in module.parameters()) == 307_209
    assert module(x).shape == y.shape == (3, 9)


def test_run_gives_a_row_per_arm_with_ratios_to_the_mlp():
    report = networks.run(quick=True, channels=30, rows=6, blocks=2, block_seconds=0.0)
    assert [row.arm for row in report.rows] == list(ARMS)
    assert all((row.ratio is None) == (row.arm == networks.TWIN) for row in report.rows)
    assert report.tables[0].row_count == len(ARMS)
