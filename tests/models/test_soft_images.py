"""Soft residual networks and D-Conv: published parameter counts, what is invariant, folding, and what is refused."""

import pytest
import torch
from torch import nn

from softeq import Prior, fold, harden, models, prior_penalty, weight_defect
from softeq.errors import SofteqError, SofteqValueError
from softeq.models.soft_images import DConv, SoftResNet

CONSTRAINTS = ("soft", "hard", "none")


def resnet(constraint, size=(16, 16), **config):
    return models.build("soft-resnet", size=size, width=3, constraint=constraint, **config)


def with_statistics(model, size, channels=1):
    """In float64, with running statistics of one batch and residual pathways that count; in evaluation mode."""
    model = model.double()
    for name, parameter in model.named_parameters():
        if ".residual." in name and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    model.train()(torch.randn(8, channels, *size, dtype=torch.float64))
    return model.eval()


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("constraint", "published"), [("hard", 27_270), ("none", 10_476_734), ("soft", 10_486_022)])
def test_the_published_parameter_counts_for_cifar(constraint, published):
    with torch.device("cpu"):
        model = models.build("d-conv", constraint=constraint)
    assert parameters(model) == published
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("residual", ["local", "lowrank", "dense"])
@pytest.mark.parametrize("name", ["soft-resnet", "d-conv"])
def test_images_of_any_shape_give_logits_and_the_folded_network_gives_the_same(name, residual, constraint):
    size = (7, 10)
    model = models.build(
        name, size=size, in_channels=2, classes=5, width=2, constraint=constraint, residual=residual, rank=2
    )
    model = with_statistics(model, size, 2)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    logits = model(x)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(fold(model)(x), logits, rtol=1e-10, atol=1e-10)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert prior_penalty(model, Prior()).item() > 0
    assert (max(weight_defect(model).values()) == 0) == (constraint == "hard")


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_only_the_hard_network_is_invariant_under_circular_shifts_by_its_stride(constraint):
    torch.manual_seed(0)
    model = with_statistics(resnet(constraint, padding_mode="circular"), (16, 16))
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    y = model(x)
    moved = (model(x.roll((4, 8), (2, 3))) - y).norm() / y.norm()
    assert moved < 1e-12 if constraint == "hard" else moved > 1e-2
    # Control: a shift that is no multiple of the stride changes even the hard network's output.
    assert (model(x.roll(1, 3)) - y).norm() / y.norm() > 1e-4


def test_zeros_at_the_border_tell_the_hard_network_where_things_are():
    torch.manual_seed(0)
    model = with_statistics(resnet("hard"), (16, 16))
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    assert (model(x.roll(4, 3)) - model(x)).norm() / model(x).norm() > 1e-3


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_only_the_features_of_the_hard_d_conv_are_equivariant(constraint):
    torch.manual_seed(0)
    model = DConv((32, 32), 1, width=1, constraint=constraint, residual="local", padding_mode="circular")
    model = with_statistics(model, (32, 32))
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    y = model.features(x)
    error = (model.features(x.roll(16, 3)) - y.roll(1, 3)).norm() / y.norm()
    assert error < 1e-12 if constraint == "hard" else error > 1e-2


def test_the_hardened_soft_network_is_the_hard_one():
    torch.manual_seed(0)
    model = with_statistics(resnet("soft", padding_mode="circular"), (16, 16))
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    hard = harden(model)
    torch.testing.assert_close(hard(x.roll(4, 3)), hard(x))
    assert parameters(hard) == parameters(resnet("hard"))


def test_a_soft_network_starts_near_its_hard_twin():
    torch.manual_seed(0)
    assert 0 < max(weight_defect(resnet("soft")).values()) < 1e-2


def test_a_relu_on_the_logits_is_an_option():
    x = torch.randn(6, 1, 16, 16)
    assert DConv((16, 16), 1, width=1, constraint="hard", clip_logits=True)(x).min() >= 0
    assert DConv((16, 16), 1, width=1, constraint="hard")(x).min() < 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "soft-resnet", "size": 28}, "size: expected the images' .H, W."),
        ({"name": "soft-resnet", "size": (28, 0)}, "size: expected the images' .H, W."),
        ({"name": "soft-resnet", "width": 0}, "width: expected integers of at least 1, got 0"),
        ({"name": "soft-resnet", "blocks": 0}, "blocks: expected integers of at least 1"),
        ({"name": "soft-resnet", "constraint": "firm"}, "constraint: expected 'soft', 'hard' or 'none'"),
        ({"name": "soft-resnet", "residual": "sparse"}, "residual: expected one of"),
        ({"name": "soft-resnet", "size": (4, 4), "padding_mode": "circular"}, "circular padding"),
        ({"name": "soft-resnet", "channels": 3}, "config: soft-resnet cannot be built"),
        ({"name": "d-conv", "size": (28, 28, 1)}, "size: expected the images' .H, W."),
        ({"name": "d-conv", "width": 0}, "width: expected integers of at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(SofteqValueError, match=message):
        models.build(**config)


@pytest.mark.parametrize("shape", [(2, 1, 16, 15), (2, 3, 16, 16), (1, 16, 16)])
def test_images_of_another_size_are_refused(shape):
    for model in (resnet("hard"), DConv((16, 16), 1, width=1, constraint="hard")):
        with pytest.raises(SofteqError, match=r"x: expected shape \(B, 1, 16, 16\), got"):
            model(torch.zeros(shape))


def test_the_package_offers_build_and_matched_alone():
    assert isinstance(resnet("hard"), SoftResNet)
    with pytest.raises(AttributeError, match="no attribute 'make'"):
        _ = models.make
