"""Soft steerable networks: exact quarter turns and flips of the hard one, none of the others, folding, refusals."""

import sys

import pytest
import torch
from torch import nn

from softeq import Prior, fold, models, prior_penalty, weight_defect
from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.models.soft_steerable import FieldMaximum, SteerableCNN, halving

CONSTRAINTS = ("soft", "hard", "none")


def made(constraint, size=(9, 9), **config):
    torch.manual_seed(0)
    model = SteerableCNN(size, **{"width": 2, "kernel_size": 3, "constraint": constraint} | config).double()
    for name, parameter in model.named_parameters():
        if ".residual." in name:
            nn.init.normal_(parameter, std=0.3)
    model.train()(torch.randn(8, *_input(model), dtype=torch.float64))
    for module in model.modules():  # factors and offsets that are not all alike
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def _input(model):
    return (model.in_channels, *model.size)


def error(model, x, moved):
    y = model(x)
    return ((model(moved) - y).norm() / y.norm()).item()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("size", [9, 10, 14])
@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
def test_only_the_hard_network_is_invariant_under_quarter_turns(group, size, constraint):
    model = made(constraint, (size, size), group=group)
    x = torch.randn(2, 1, size, size, dtype=torch.float64)
    for quarters in (1, 2, 3):
        moved = error(model, x, torch.rot90(x, quarters, (2, 3)))
        assert moved < 1e-9 if constraint == "hard" else moved > 1e-3
    # Control: a flip is no rotation.
    flipped = error(model, x, x.flip(3))
    assert flipped < 1e-9 if (constraint, group) == ("hard", "D4") else flipped > 1e-6


def test_a_plain_batch_norm_would_break_the_invariance():
    model = made("hard", width=1)
    model.features[1] = nn.BatchNorm2d(4).double().eval()
    nn.init.uniform_(model.features[1].weight, 0.5, 1.5)
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    assert error(model, x, torch.rot90(x, 1, (2, 3))) > 1e-3


def test_non_square_images_keep_the_half_turn():
    model = made("hard", (9, 12))
    x = torch.randn(2, 1, 9, 12, dtype=torch.float64)
    assert error(model, x, torch.rot90(x, 2, (2, 3))) < 1e-9


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (7, 10)])
def test_halving_commutes_with_flips_and_rounds_up(size):
    x = torch.randn(1, 2, *size)
    pool = halving(size)
    assert pool(x).shape[2:] == tuple((n + 1) // 2 for n in size)
    for axis in (2, 3):
        torch.testing.assert_close(pool(x.flip(axis)), pool(x).flip(axis))
    torch.testing.assert_close(pool(torch.ones(1, 1, *size)), torch.ones(1, 1, *pool(x).shape[2:]))


def test_regular_fields_are_pooled_as_wholes():
    x, pool = torch.randn(3, 8, 2, 2), FieldMaximum(4)
    turned = x.unflatten(1, (2, 4)).roll(1, 2).flatten(1, 2)
    torch.testing.assert_close(pool(turned), pool(x))
    assert pool(x)[0, 1, 0, 0] == x[0, 4:, 0, 0].max()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_folded_network_gives_the_same_and_every_parameter_learns(constraint):
    model = made(constraint, (7, 10), in_channels=2, classes=5, kernel_size=(5, 3, 1))
    x = torch.randn(3, 2, 7, 10, dtype=torch.float64)
    logits = model(x)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(fold(model)(x), logits, rtol=1e-10, atol=1e-10)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert prior_penalty(model, Prior()).item() > 0
    assert (max(weight_defect(model).values()) < 1e-12) == (constraint == "hard")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"group": "C0"}, "group: expected 'C<n>' or 'D<n>'"),
        ({"group": "SO2"}, "group: expected 'C<n>' or 'D<n>'"),
        ({"group": 4}, "group: expected 'C<n>' or 'D<n>'"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number of at least 1, or three of them, got 4"),
        ({"kernel_size": (5, 3)}, "kernel_size: expected an odd number of at least 1, or three of them, got .5, 3."),
        ({"size": 14}, "size: expected the images' .H, W."),
        ({"width": 0}, "width: expected integers of at least 1, got 0"),
        ({"constraint": "firm"}, "constraint: expected 'soft', 'hard' or 'none'"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(SofteqValueError, match=message):
        models.build("steerable", **config)


def test_images_of_another_size_are_refused():
    with pytest.raises(SofteqError, match=r"x: expected shape \(B, 1, 9, 9\), got \(2, 1, 9, 8\)"):
        made("hard")(torch.zeros(2, 1, 9, 8, dtype=torch.float64))


def test_without_escnn_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "escnn", None)
    with pytest.raises(MissingExtraError, match=r"steerable networks need escnn: pip install 'softeq\[escnn\]'"):
        SteerableCNN()
