"""SoftConv1d, 2d and 3d against their definition, written position by position, and the layer contract."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from softeq import Prior, fold, harden, prior_penalty
from softeq.conv import SoftConv1d, SoftConv2d, SoftConv3d

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-11, "rtol": 1e-9}
FORMS = ["dense", "local", "lowrank"]
CONSTRAINTS = ["soft", "hard", "none"]
GEOMETRIES = {
    "3x3 same": {"kernel_size": 3, "size": (5, 5), "padding": 1},
    "not square": {"kernel_size": (3, 2), "size": (4, 7), "padding": (1, 0)},
    "strided": {"kernel_size": 3, "size": (5, 6), "stride": (2, 3), "padding": 1},
    "dilated, circular": {
        "kernel_size": 2,
        "size": (4, 5),
        "dilation": (1, 3),
        "padding": (0, 2),
        "padding_mode": "circular",
    },
    "groups": {"kernel_size": 2, "size": (3, 4), "groups": 2},
    "wider than the image": {"kernel_size": 5, "size": (2, 3), "padding": (2, 3)},
    "one pixel": {"kernel_size": 1, "size": 1},
    "series": {"kernel_size": 3, "size": 7, "stride": 2, "padding": 1, "groups": 2},
    "series, circular": {"kernel_size": 2, "size": 6, "dilation": 2, "padding": 2, "padding_mode": "circular"},
    "volume": {"kernel_size": (2, 1, 3), "size": (3, 2, 4), "stride": (1, 2, 1), "padding": (1, 0, 1)},
    "volume, circular": {"kernel_size": 2, "size": (2, 3, 3), "padding": 1, "groups": 2, "padding_mode": "circular"},
}
KINDS = {"series": SoftConv1d, "volume": SoftConv3d}


def build(geometry="3x3 same", seed=0, channels=(4, 6), **options):
    """A float64 layer, all parameters normal and the residual as large as the kernel."""
    kind = KINDS.get(geometry.split(",")[0], SoftConv2d)
    layer = kind(*channels, **{**GEOMETRIES[geometry], **options}).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, **DOUBLE))
    return layer


def images(layer, n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, layer.in_channels, *layer.size, generator=generator, **DOUBLE)


def by_position(layer, x, kernels):
    """Every output position by itself: its window of the padded input times ``kernels[position]``."""
    window = layer.window
    mode = "constant" if window.mode == "zeros" else window.mode
    x = F.pad(x, [n for n in reversed(window.padding) for _ in range(2)], mode=mode)
    y = x.new_zeros(len(x), layer.out_channels, *layer.out_size)
    for place in itertools.product(*map(range, layer.out_size)):
        seen = x
        for axis, start in enumerate(place):
            step, between, taps = (each[axis] for each in (window.stride, window.dilation, window.kernel))
            seen = seen.index_select(axis + 2, torch.tensor([start * step + u * between for u in range(taps)]))
        pairs = zip(seen.chunk(window.groups, 1), kernels[place].chunk(window.groups, 0), strict=True)
        y[(..., *place)] = torch.cat([s.flatten(1) @ k.flatten(1).T for s, k in pairs], 1)
    return y


def dense(layer, weight, x):
    """A weight ``(out, *out_size, in, *size)`` times the whole input."""
    return (x.flatten(1) @ weight.reshape(-1, x[0].numel()).T).view(len(x), layer.out_channels, *layer.out_size)


def definition(layer, x):
    """The sum of the pathways from the class's docstring alone."""
    y = x.new_zeros(len(x), layer.out_channels, *layer.out_size)
    if "equivariant" in layer.pathways:
        own = layer.pathways["equivariant"]
        y = y + by_position(layer, x, own.weight.expand(*layer.out_size, *own.weight.shape))
        y = y if own.bias is None else y + own.bias.view(-1, *[1] * len(layer.out_size))
    if "residual" in layer.pathways:
        free = layer.pathways["residual"]
        if layer.residual == "dense":
            y = y + dense(layer, free.weight, x)
        elif layer.residual == "local":
            y = y + by_position(layer, x, free.weight)
        else:
            kernels = torch.tensordot(free.coefficients, free.kernels, ([0], [0]))
            y = y + by_position(layer, x, kernels)
        y = y if free.bias is None else y + free.bias
    return y


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_forward_and_gradients_are_those_of_the_definition(geometry, form):
    for constraint in CONSTRAINTS:
        layer = build(geometry, residual=form, constraint=constraint)
        x = images(layer).requires_grad_()
        wanted = [x, *layer.parameters()]
        y, expected = layer(x), definition(layer, x)
        assert y.shape == (3, 6, *layer.out_size)
        torch.testing.assert_close(y, expected, **TIGHT)
        found = torch.autograd.grad(y.sin().sum(), wanted)
        torch.testing.assert_close(found, torch.autograd.grad(expected.sin().sum(), wanted), **TIGHT)
        torch.testing.assert_close(layer(x[0]), y[0], **TIGHT)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_channel_with_kernels_of_its_own_is_that_of_the_definition(form, outputs):
    layer = build("3x3 same", channels=(4, 4 * outputs), groups=4, residual=form, rank=2)
    x = images(layer).requires_grad_()
    wanted, both = [x, *layer.parameters()], (layer(x), definition(layer, x))
    torch.testing.assert_close(*both, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), wanted) for y in both), **TIGHT)
    torch.testing.assert_close(fold(layer)(x), both[0], **TIGHT)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_compiled_merged_and_folded_agree(form, backend):
    layer = build("groups", residual=form)
    x = images(layer).requires_grad_()
    wanted = [x, *layer.parameters()]
    torch._dynamo.reset()
    outputs = [layer(x), torch.compile(layer, backend=backend)(x)]
    torch.testing.assert_close(*outputs, **TIGHT)
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), wanted) for y in outputs), **TIGHT)
    folded = fold(layer)
    torch.testing.assert_close(folded(x), outputs[0], **TIGHT)
    gradients = [torch.autograd.grad(f(x).sin().sum(), x)[0] for f in (folded, layer)]
    torch.testing.assert_close(*gradients, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_merged_weight_and_bias_are_those_of_the_whole_map(geometry, form):
    layer = build(geometry, residual=form)
    x = images(layer)
    linear = layer(x) - layer(torch.zeros_like(x))
    if form == "dense":
        torch.testing.assert_close(dense(layer, layer.weight, x), linear, **TIGHT)
    else:
        torch.testing.assert_close(by_position(layer, x, layer.weight), linear, **TIGHT)
    torch.testing.assert_close(layer.bias.expand_as(linear), layer(torch.zeros_like(x)), **TIGHT)


def test_hard_commutes_with_every_shift_under_circular_padding_and_soft_does_not():
    hard = build("3x3 same", constraint="hard", padding_mode="circular")
    x = images(hard)
    for shift in [(1, 0), (0, 2), (3, 4), (-2, 1)]:
        torch.testing.assert_close(hard(x.roll(shift, (2, 3))), hard(x).roll(shift, (2, 3)), **TIGHT)
    assert hard(x).abs().max() > 0.1
    for form in FORMS:
        soft = build("3x3 same", residual=form, padding_mode="circular")
        moved, expected = soft(x.roll(1, 3)), soft(x).roll(1, 3)
        assert (moved - expected).norm() > 0.1 * expected.norm()


def test_with_zero_padding_hard_commutes_inside():
    hard = build("3x3 same", constraint="hard", size=(8, 9))
    x = F.pad(images(hard)[:, :, 2:6, 2:6], (2, 3, 2, 2))
    torch.testing.assert_close(hard(x.roll((1, 2), (2, 3))), hard(x).roll((1, 2), (2, 3)), **TIGHT)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("form", FORMS)
def test_the_pathways_partition_the_parameters_and_the_penalty_covers_each_once(form, constraint):
    layer = build(residual=form, constraint=constraint)
    keys = {"soft": ["equivariant", "residual"], "hard": ["equivariant"], "none": ["residual"]}[constraint]
    assert list(layer.pathways) == keys
    held = [id(p) for pathway in layer.pathways.values() for p in pathway.parameters()]
    assert sorted(held) == sorted({id(p) for p in layer.parameters()})
    precision = {"equivariant": 0.3, "residual": 2.0}
    expected = sum(precision[k] / 2 * p.square().sum() for k in keys for p in layer.pathways[k].parameters())
    penalty = prior_penalty(nn.Sequential(layer, nn.ReLU()), Prior(**precision))
    torch.testing.assert_close(penalty, expected, **TIGHT)
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}


def test_a_layer_without_bias():
    for form in FORMS:
        layer = build(residual=form, bias=False)
        assert layer.bias is None
        assert layer(images(layer) * 0).abs().max() == 0
        torch.testing.assert_close(fold(layer)(images(layer)), layer(images(layer)), **TIGHT)
        assert harden(layer).bias is None


@pytest.mark.parametrize("form", FORMS)
def test_it_starts_at_its_hard_twin_with_the_size_of_a_convolution(form):
    x = torch.randn(64, 16, 9, 9)
    plain = nn.Conv2d(16, 32, 3, padding=1, bias=False)(x).detach().std()
    options = {"size": 9, "padding": 1, "residual": form, "bias": False}
    for constraint in CONSTRAINTS:
        layer = SoftConv2d(16, 32, 3, constraint=constraint, **options)
        assert float(layer(x).detach().std() / plain) == pytest.approx(1, abs=0.25), constraint
    soft = SoftConv2d(16, 32, 3, **options)
    difference = (soft(x) - soft.hardened()(x)).norm() / soft(x).norm()
    assert 0 < float(difference.detach()) < 0.01
    assert 0 < soft.weight_defect() < 0.05
    soft(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in soft.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_autocast_and_narrow_dtypes(form):
    layer = build(residual=form).float()
    x = images(layer).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.3, rtol=0.05)
    y.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()) for p in layer.parameters())
    narrow = copy.deepcopy(layer).bfloat16()
    assert narrow(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(narrow(x.bfloat16()).float(), layer(x), atol=0.3, rtol=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_torch_func_deepcopy_and_state_dicts(form):
    layer = build("strided", residual=form)
    x = images(layer)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).sin().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    whole = grad(loss)(parameters, x)
    torch.testing.assert_close({name: g.sum(0) for name, g in each.items()}, whole, **TIGHT)
    assert jacrev(loss, 1)(parameters, x).shape == x.shape
    twin = copy.deepcopy(layer)
    other = build("strided", seed=5, residual=form)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        layer.pathways["residual"].bias.zero_()
    torch.testing.assert_close(twin(x), other(x), atol=0, rtol=0)
    assert not torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("kind", [SoftConv1d, SoftConv3d])
def test_hard_series_and_volumes_commute_with_cyclic_shifts(kind):
    axes = tuple(range(2, 2 + kind.dims))
    layer = kind(2, 3, 3, size=4, padding=1, padding_mode="circular").double()
    x, shift = torch.randn(2, 2, *[4] * kind.dims, **DOUBLE), tuple(range(1, 1 + kind.dims))
    hard = harden(layer)
    torch.testing.assert_close(hard(x.roll(shift, axes)), hard(x).roll(shift, axes), **TIGHT)
    assert (layer(x.roll(shift, axes)) - layer(x).roll(shift, axes)).norm() > 1e-4 * layer(x).norm()


def test_what_checkpoints_say_of_the_layer_stays():
    """Another text and they would be refused."""
    layer = SoftConv2d(2, 2, (3, 5), padding=(1, 2), size=(6, 7))
    assert layer.signature == (
        "Window(kernel=(3, 5), stride=(1, 1), padding=(1, 2), dilation=(1, 1), groups=1, mode='zeros'), size (6, 7)"
    )
