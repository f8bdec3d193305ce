"""SoftConv1d, 2d and 3d and the plain convolutions that they fold to, harden to and are made from."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq import SofteqTypeError, SofteqValueError, fold, harden, weight_defect
from softeq.conv import SoftConv1d, SoftConv2d, SoftConv3d

from .test_conv import DOUBLE, FORMS, TIGHT, build, images


def test_what_folding_gives():
    hard = fold(build("strided", constraint="hard"))
    assert type(hard) is nn.Conv2d
    dense = fold(build("groups", residual="dense"))
    assert [type(m) for m in dense] == [nn.Flatten, nn.Linear, nn.Unflatten]
    for form, name in (("local", "LocalConv"), ("lowrank", "LowRankConv")):
        layer = build("strided", residual=form).eval()
        plain = fold(nn.Sequential(layer))[0]
        assert type(plain).__name__ == name
        assert not hasattr(plain, "pathways")
        assert not plain.training
        x = images(layer)
        before = layer(x).detach()
        torch.testing.assert_close(plain(x), before, **TIGHT)
        torch.testing.assert_close(plain(x[0]), before[0], **TIGHT)
        exported = torch.export.export(plain, (x,)).module()
        torch.testing.assert_close(exported(x), before, **TIGHT)
        for p in plain.parameters():
            p.data.zero_()
        torch.testing.assert_close(layer(x), before, atol=0, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_harden_keeps_the_convolution(form):
    layer = build("strided", residual=form).eval()
    hard = harden(layer)
    assert (hard.constraint, list(hard.pathways), hard.training) == ("hard", ["equivariant"], False)
    own, x = layer.pathways["equivariant"], images(layer)
    torch.testing.assert_close(hard(x), F.conv2d(x, own.weight, own.bias, (2, 3), 1), **TIGHT)
    torch.testing.assert_close(fold(hard)(x), hard(x), **TIGHT)
    assert weight_defect(hard) == {"": 0.0}
    with pytest.raises(SofteqValueError, match="no equivariant pathway"):
        build(residual=form, constraint="none").hardened()


@pytest.mark.parametrize("form", FORMS)
def test_from_conv_computes_the_same_and_can_leave_it(form):
    conv = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2, padding_mode="circular").double()
    layer = SoftConv2d.from_conv(conv, (6, 7), residual=form)
    x = images(layer)
    torch.testing.assert_close(layer(x), conv(x), **TIGHT)
    assert layer.weight_defect() == 0.0
    layer(x).sin().sum().backward()
    assert any(p.grad.abs().max() > 0 for p in layer.pathways["residual"].parameters())
    same = nn.Conv2d(4, 6, 3, padding="same", bias=False).double()
    torch.testing.assert_close(SoftConv2d.from_conv(same, (6, 7), constraint="hard")(x), same(x), **TIGHT)
    with pytest.raises(SofteqValueError, match="padding='same'"):
        SoftConv2d.from_conv(nn.Conv2d(1, 1, 2, padding="same"), 4)
    with pytest.raises(SofteqTypeError, match="conv: expected an nn"):
        SoftConv2d.from_conv(nn.Linear(1, 1), 4)


def test_a_hard_layer_without_a_size_takes_any():
    hard = SoftConv2d(2, 3, 3, constraint="hard")
    assert hard(torch.zeros(1, 2, 7, 5)).shape == (1, 3, 5, 3)
    assert hard.weight_defect() == 0.0
    with pytest.raises(SofteqValueError, match="copies"):
        _ = hard.copies
    with pytest.raises(SofteqValueError, match="covers 3 x 3"):
        hard(torch.zeros(1, 2, 2, 5))


@pytest.mark.parametrize(("kind", "plain"), [(SoftConv1d, nn.Conv1d), (SoftConv3d, nn.Conv3d)])
def test_series_and_volumes_fold_and_start_from_torch_s_layers(kind, plain):
    conv = plain(4, 6, 3, stride=2, padding=1, groups=2).double()
    x = torch.randn(2, 4, *[5] * kind.dims, **DOUBLE)
    for form in FORMS:
        layer = kind.from_conv(conv, 5, residual=form)
        torch.testing.assert_close(layer(x), conv(x), **TIGHT)
        torch.testing.assert_close(layer(x[0]), conv(x)[0], **TIGHT)
        assert layer.weight_defect() == 0.0
    folded = fold(harden(layer))
    assert type(folded) is plain
    torch.testing.assert_close(folded(x), conv(x), **TIGHT)
    with pytest.raises(SofteqTypeError, match=f"conv: expected an nn.{plain.__name__}, got Conv2d"):
        kind.from_conv(nn.Conv2d(1, 1, 1), 5)
