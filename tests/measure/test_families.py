"""Forward mode over 36 families of timm models, the smallest member of each at its own resolution, random weights."""

import pytest
import torch

from softeq.measure import Flow, derivatives
from softeq.measure.loading.sources import load_model

# Zero at timm's initialisation, the head or every block: its weights are shaken to say something of its derivative.
ZERO_AT_START = {"mixer", "resmlp", "hiera"}
FAMILIES = {
    "resnet": "resnet10t",
    "convnext": "convnext_atto",
    "swin": "swin_tiny_patch4_window7_224",
    "swinv2_cr": "swinv2_cr_tiny_ns_224",
    "mixer": "mixer_s32_224",
    "efficientnet": "efficientnet_lite0",
    "mobilenetv3": "mobilenetv3_small_050",
    "regnety": "regnety_002",
    "levit": "levit_128s",
    "edgenext": "edgenext_xx_small",
    "resmlp": "resmlp_12_224",
    "poolformer": "poolformer_s12",
    "nfnet": "nf_resnet26",
    "vgg_bn": "vgg11_bn",
    "densenet": "densenet121",
    "fastvit": "fastvit_t8",
    "efficientformerv2": "efficientformerv2_s0",
    "tiny_vit": "tiny_vit_5m_224",
    "repvit": "repvit_m0_9",
    "mambaout": "mambaout_femto",
    "convit": "convit_tiny",
    "vit": "vit_tiny_patch16_224",
    "deit3": "deit3_small_patch16_224",
    "maxvit": "maxvit_rmlp_pico_rw_256",
    "coatnet": "coatnet_pico_rw_224",
    "beit": "beit_base_patch16_224",
    "cait": "cait_xxs24_224",
    "eva02": "eva02_tiny_patch14_224",
    "hiera": "hiera_tiny_224",
    "xcit": "xcit_nano_12_p16_224",
    "pvt_v2": "pvt_v2_b0",
    "mobilevit": "mobilevit_xxs",
    "volo": "volo_d1_224",
    "crossvit": "crossvit_tiny_240",
    "twins": "twins_svt_small",
    "dinov2-reg4": "vit_small_patch14_reg4_dinov2",
}
QUICK = {"resnet", "mobilenetv3", "vit", "convnext", "levit"}
PARAMETERS = [pytest.param(f, id=f, marks=() if f in QUICK else pytest.mark.slow) for f in FAMILIES]


class Straight(Flow):
    """Along a given direction of the input."""

    name, unit, matrix = "straight", "none", None

    def __init__(self, direction):
        self.direction = direction

    def __call__(self, x, t):
        return x + t * self.direction

    def tangent(self, x):
        return self.direction


def test_all_families_are_there():
    assert len(FAMILIES) == 36


def shaken(family, dtype):
    model = load_model(FAMILIES[family], weights="random", dtype=dtype)
    if family in ZERO_AT_START:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model


@pytest.mark.parametrize("family", PARAMETERS)
def test_two_flows_in_one_forward_mode_pass(family):
    model = shaken(family, torch.float32)
    x = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    value, found = derivatives(model.module, x, ["translation_x", "rotation"])
    assert found.shape == (2, *value.shape)
    assert bool(found.isfinite().all())
    assert (found.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in ("vit", "mobilenetv3") else pytest.mark.slow) for f in FAMILIES]
)
def test_against_finite_differences_in_float64(family):
    model = shaken(family, torch.float64)
    x = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction, other = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, found = derivatives(model.module, x, [Straight(direction), Straight(other)])
    right, wrong = [], []
    # Long steps cross the kinks of ReLU, short ones drown in rounding: a derivative must agree at some length.
    for step in (1e-5, 1e-6, 1e-7, 1e-8):
        with torch.no_grad():
            difference = (model.module(x + step * direction) - model.module(x - step * direction)) / (2 * step)
        right.append(float((found[0] - difference).norm() / difference.norm()))
        wrong.append(float((found[1] - difference).norm() / difference.norm()))
    assert min(right) < 1e-5
    assert min(wrong) > 0.1
