"""Soft vision transformers: circular shifts by patches leave the hard one alone and no other; folding; refusals."""

import pytest
import torch
from torch import nn

from softeq import Prior, fold, models, prior_penalty, weight_defect
from softeq.errors import SofteqValueError
from softeq.models.matching import count_parameters

CONSTRAINTS = ("soft", "hard", "none")


def made(constraint, size=(12, 18), **config):
    torch.manual_seed(0)
    options = {"patch": 3, "width": 3, "heads": 2, "depth": 2, "in_channels": 2, "classes": 5} | config
    model = models.build("soft-vit", size=size, constraint=constraint, **options).double()
    for name, parameter in model.named_parameters():
        if ".residual." in name or name.endswith("table"):
            nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("residual", ["dense", "lowrank"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_only_the_hard_network_is_invariant_under_circular_shifts_by_patches(constraint, residual):
    model = made(constraint, periodic=True, residual=residual)
    x = torch.randn(2, 2, 12, 18, dtype=torch.float64)
    y = model(x)
    moved = (model(x.roll((3, -6), (2, 3))) - y).norm() / y.norm()
    assert moved < 1e-12 if constraint == "hard" else moved > 1e-4
    # Controls: part of a patch, and tokens in another order, for which relative positions are no excuse.
    assert (model(x.roll(1, 3)) - y).norm() / y.norm() > 1e-4
    assert (model(torch.cat([x[..., 3:6], x[..., :3], x[..., 6:]], 3)) - y).norm() / y.norm() > 1e-6


def test_without_periods_the_frame_shows():
    model = made("hard")
    x = torch.randn(2, 2, 12, 18, dtype=torch.float64)
    assert (model(x.roll(3, 3)) - model(x)).norm() / model(x).norm() > 1e-5


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_folded_network_gives_the_same_and_every_parameter_learns(constraint):
    model = made(constraint)
    x = torch.randn(3, 2, 12, 18, dtype=torch.float64)
    logits = model(x)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(fold(model)(x), logits, rtol=1e-10, atol=1e-10)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert prior_penalty(model, Prior()).item() > 0
    assert (max(weight_defect(model).values()) < 1e-12) == (constraint == "hard")


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_a_width_is_found_for_a_number_of_parameters(constraint):
    config = {"size": (12, 12), "constraint": constraint}
    model = models.build("soft-vit", width=7, **config)
    assert models.matched("soft-vit", count_parameters(model), **config) == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch": 5}, "size: expected multiples of patch=5, got .28, 28."),
        ({"size": (28, 30)}, "size: expected multiples of patch=4, got .28, 30."),
        ({"size": 28}, "size: expected the images' .H, W."),
        ({"depth": 0}, "depth: expected integers of at least 1, got 0"),
        ({"width": 0}, "width: expected integers of at least 1, got 0"),
        ({"constraint": "firm"}, "constraint: expected 'soft', 'hard' or 'none'"),
        ({"residual": "local"}, "residual: expected one of"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(SofteqValueError, match=message):
        models.build("soft-vit", **config)
