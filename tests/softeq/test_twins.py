"""Twins of single layers: taken by what they compute, refused where something would be lost, flags carried over."""

import math
import re

import pytest
import torch
from torch import nn

import softeq
from softeq import SoftConv2d, soften
from softeq.errors import SofteqValueError
from softeq.models.images import Attention, ViT


def images(n=2, size=28, seed=0):
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed)).double()


def plain(kind, **options):
    torch.manual_seed(0)
    return kind(**options).double().eval()


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


class SameConv(nn.Conv2d):
    """Pads as TensorFlow does."""

    def forward(self, x):
        n = x.shape[-1]
        total = max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0)
        return super().forward(nn.functional.pad(x, (total // 2, total - total // 2) * 2))


class Doubled(nn.Conv2d):
    """Is no convolution, although its class says so."""

    def forward(self, x):
        return super().forward(x) ** 2


def test_subclasses_are_taken_by_what_they_compute():
    for size in (8, 9):
        model, x = plain(lambda: nn.Sequential(SameConv(1, 2, 3, stride=2))), images(size=size)
        softened = soften(model, x)
        assert relative(softened.model(x), model(x)) < 1e-10
        assert isinstance(softened.model[0][1], SoftConv2d)
    model = plain(lambda: nn.Sequential(nn.Conv2d(1, 1, 3), Doubled(1, 1, 3)))
    softened = soften(model, images(size=9))
    assert "something else" in softened.left["1"]
    assert isinstance(softened.model[1], Doubled)


def test_frozen_stays_frozen_and_one_module_in_two_places_stays_one():
    conv = nn.Conv2d(1, 1, 3, padding=1).double().requires_grad_(False)
    soft = soften(nn.Sequential(conv, nn.ReLU(), conv), images(size=8)).model
    assert soft[0] is soft[2]
    assert not any(p.requires_grad for p in soft.parameters())


def test_layers_that_compute_in_place_change_nothing():
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3), nn.SiLU(inplace=True)]
    model, x = plain(lambda: nn.Sequential(*layers)), images(size=9)
    softened = soften(model, x)
    assert list(softened.replaced) == ["0", "2"]
    assert relative(softened.model(x), model(x)) < 1e-10


class Scaled(nn.Conv2d):
    """A plain convolution for as long as its own parameter is zero."""

    def __init__(self):
        super().__init__(1, 1, 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return super().forward(x) * (1 + self.gain)


class TabledAttention(Attention):
    """As BEiT's: a table of biases that is zero before training."""

    def __init__(self):
        super().__init__(8, 2)
        self.table = nn.Parameter(torch.zeros(2, 16))


def hooked():
    conv = nn.Conv2d(1, 1, 3)
    conv.register_forward_hook(lambda *_: None)
    return conv


def after_a_stem(attention):
    return nn.Sequential(nn.Conv2d(1, 8, 7, stride=7), nn.Flatten(2), Transposed(), attention)


class Transposed(nn.Module):
    def forward(self, x):
        return x.mT


EXTRAS = {
    "own parameter": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), Scaled()), "1", "more than its twin would: gain"),
    "parametrization": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))),
        "1",
        "original0",
    ),
    "hook": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), hooked()), "1", "hooks"),
    "table": (lambda: after_a_stem(TabledAttention()), "3", "table"),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_what_a_twin_would_lose_keeps_its_module(name):
    make, layer, reason = EXTRAS[name]
    model = plain(make)
    softened = soften(model, images())
    assert layer not in softened.replaced
    assert re.search(reason, softened.left[layer])
    assert relative(softened.model(images()), model(images())) < 1e-10


def test_a_block_in_two_places_is_softened_once():
    block = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()).double()
    model = nn.Sequential(block, block)
    softened = soften(model, images(size=8))
    assert (list(softened.replaced), dict(softened.left)) == (["0.0"], {})
    assert softened.model[0] is softened.model[1]
    assert relative(softened.model(images(size=8)), model(images(size=8))) < 1e-10


def test_weights_that_two_layers_share_stay_shared():
    model = plain(lambda: nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(3))))
    model[2].weight = model[1].weight
    softened = soften(model, images(size=9))
    assert list(softened.replaced) == ["0"]
    assert "shares its weight" in softened.left["1"]
    assert softened.model[1].weight is softened.model[2].weight


def test_a_layer_with_one_output_position_has_nothing_to_unshare():
    model = plain(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)))
    assert "one position" in soften(model, images(size=9)).left["2"]


def test_each_parameter_keeps_its_flag():
    model = plain(ViT, patch=7, dim=8, depth=1, heads=2)
    model.stem.weight.requires_grad_(False)
    attention = model.blocks[0].attention[1]
    attention.qkv.bias.requires_grad_(False)
    attention.out.weight.requires_grad_(False)
    soft = soften(model, images()).model
    frozen = {name for name, p in soft.named_parameters() if not p.requires_grad}
    stem, layer = "stem.pathways", "blocks.0.attention.1.pathways"
    assert frozen == {
        f"{stem}.equivariant.weight",
        f"{stem}.residual.kernels",
        f"{stem}.residual.coefficients",
        f"{layer}.equivariant.projections.qkv.bias",
        f"{layer}.equivariant.projections.out.weight",
        f"{layer}.residual.offset",
    }


class Encoder(nn.Module):
    """torch's own transformer layer on patches, and an attention called by hand."""

    def __init__(self, batch_first=True, need_weights=False, **options):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 7, stride=7)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **options)
        self.batch_first, self.need_weights = batch_first, need_weights

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        x = self.layer(x if self.batch_first else x.transpose(0, 1))
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(batch_first):
    model, x = plain(Encoder, batch_first=batch_first), images()
    softened = soften(model, x)
    assert softened.replaced == {"stem": "SoftConv2d", "layer.self_attn": "SoftMultihead", "attention": "SoftMultihead"}
    soft = softened.model
    assert soft.attention.attention.size == (4, 4)
    assert relative(soft(x), model(x)) < 1e-10
    assert relative(soft.train()(x), model.train()(x)) < 1e-10
    with torch.no_grad():
        for name, p in soft.named_parameters():
            p.add_(0.1 if "residual" in name else 0.0)
    assert relative(soft(x), model(x)) > 1e-3
    assert relative(softeq.fold(soft)(x), soft(x)) < 1e-10


def test_multihead_attention_that_no_twin_can_stand_in_for():
    reasons = {
        "need_weights=False": {"need_weights": True},
        "dropout": {"dropout": 0.1},
        "zero token": {"add_zero_attn": True},
        "bias_k": {"add_bias_kv": True},
    }
    for reason, options in reasons.items():
        softened = soften(plain(Encoder, **options), images())
        assert reason in softened.left["attention"]
    twin, x = soften(plain(Encoder), images()).model.attention, torch.zeros(2, 16, 8).double()
    for arguments in ((x, x.clone(), x), (x, x, x, torch.zeros(2, 16).bool()), (x, x, x)):
        with pytest.raises(SofteqValueError, match="expected"):
            twin(*arguments)


class CausalFree(nn.Conv1d):
    """A series that keeps its length over its stride, padded as TensorFlow does."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1)))


def test_series_and_volumes_have_twins_too():
    model = plain(lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), CausalFree(3, 2, 2)))
    x = torch.randn(2, 2, 6).double()
    softened = soften(model, x)
    assert relative(softened.model(x), model(x)) < 1e-10
    assert isinstance(softened.model[0], softeq.SoftConv1d)
    assert isinstance(softened.model[2][1], softeq.SoftConv1d)
    volumes = plain(lambda: nn.Sequential(nn.Conv3d(1, 2, 2, stride=2, padding=1), nn.Flatten(), nn.Linear(16, 1)))
    softened = soften(volumes, torch.randn(2, 1, 3, 3, 3).double(), residual="local")
    assert isinstance(softened.model[0], softeq.SoftConv3d)
    assert list(softened.left) == ["2"]
