"""Norms, pooling and dropout by whole fields: they commute with quarter turns, and what ignores the fields does not."""

import copy

import pytest
import torch
from torch import nn

import softeq
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.fields import FieldBatchNorm, FieldDropout, FieldMaxPool, FieldNorm

gspaces = pytest.importorskip("escnn.gspaces")
from escnn.nn import FieldType  # noqa: E402

C4 = gspaces.rot2dOnR2(4)
MIXED = FieldType(C4, [C4.trivial_repr, C4.irrep(1), C4.regular_repr, C4.irrep(1)])
REGULAR = FieldType(C4, 3 * [C4.regular_repr])
TYPES = pytest.mark.parametrize("fields", [MIXED, REGULAR], ids=["mixed", "regular"])
LAYERS = {
    "batch norm": FieldBatchNorm,
    "norm": FieldNorm,
    "max pool": lambda fields: FieldMaxPool(fields, 2),
}


def draw(fields, n=3, side=6):
    return torch.randn(n, fields.size, side, side, dtype=torch.float64) + 0.7


def turned(x, fields):
    """The fields after a quarter turn."""
    element = C4.fibergroup.element(1)
    rho = torch.as_tensor(fields.representation(element), dtype=torch.float64)
    return torch.einsum("ij,njhw->nihw", rho, torch.rot90(x, 1, (-2, -1)))


def error(layer, x, fields):
    return float((layer(turned(x, fields)) - turned(layer(x), fields)).abs().max())


@TYPES
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_commutes_with_quarter_turns(name, training, fields):
    layer, x = LAYERS[name](fields).double(), draw(fields)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer(x)  # running statistics
    assert error(layer.train(training), x, fields) < 1e-12
    assert not torch.allclose(turned(x, fields), x)


@TYPES
def test_torchs_own_batch_norm_does_not(fields):
    layer, x = nn.BatchNorm2d(fields.size).double(), draw(fields)
    nn.init.normal_(layer.weight)
    assert error(layer, x, fields) > 1e-2


def test_batch_norm_of_trivial_fields_is_torchs():
    fields = FieldType(C4, 5 * [C4.trivial_repr])
    ours, theirs, x = FieldBatchNorm(fields).double(), nn.BatchNorm2d(5).double(), draw(fields)
    for _ in range(3):
        assert torch.allclose(ours(x), theirs(x), atol=1e-12)
        x = 2 * x + 1
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-12)


@TYPES
def test_batch_norm_makes_the_mean_square_of_each_centred_field_one(fields):
    layer, x = FieldBatchNorm(fields, eps=1e-12).double(), draw(fields, n=40)
    y = layer(x)
    square = layer.summed(y.square().mean((0, 2, 3)), 0) / layer.counts(y)
    assert torch.allclose(square, torch.ones_like(square), atol=1e-6)
    assert layer.invariants.coordinates_of(y.mean((0, 2, 3))).abs().max() < 1e-12


@TYPES
def test_batch_norm_folds_to_torchs_own(fields):
    layer, x = FieldBatchNorm(fields).double(), draw(fields)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer(x)
    network = nn.Sequential(layer, nn.ReLU()).eval()
    folded = softeq.fold(network)
    assert type(folded[0]) is nn.BatchNorm2d
    assert torch.allclose(folded(x), network(x), atol=1e-12)
    assert type(softeq.fold(network.train())[0]) is FieldBatchNorm


def test_a_steerable_network_of_these_folds_compiles_and_exports():
    x = torch.randn(2, 1, 8, 8)
    trivial = FieldType(C4, [C4.trivial_repr])
    network = nn.Sequential(
        softeq.SoftR2Conv(trivial, REGULAR, 3, padding=1),
        FieldBatchNorm(REGULAR),
        nn.ReLU(),
        FieldMaxPool(REGULAR, 2),
        FieldNorm(REGULAR),
        FieldDropout(REGULAR, 0.2),
        softeq.SoftR2Conv(REGULAR, trivial, 3, padding=1),
    )
    network(x)
    network.eval()
    folded = softeq.fold(network)
    assert torch.allclose(folded(x), network(x), atol=1e-5)
    exported = torch.export.export(folded, (x,)).module()
    assert torch.allclose(exported(x), network(x), atol=1e-5)
    assert torch.allclose(torch.compile(network, backend="eager")(x), network(x), atol=1e-5)
    assert torch.allclose(copy.deepcopy(network)(x), network(x))


def test_pooling_takes_the_longest_vector_whole():
    fields = FieldType(C4, [C4.irrep(1)])
    x = torch.zeros(1, 2, 2, 2)
    x[0, :, 0, 1] = torch.tensor([-3.0, 1.0])
    x[0, :, 1, 0] = torch.tensor([2.0, 2.0])  # larger in its second entry, shorter in all
    assert FieldMaxPool(fields, 2)(x).flatten().tolist() == [-3.0, 1.0]


def test_dropout_leaves_out_whole_fields_and_keeps_the_mean():
    layer, x = FieldDropout(REGULAR, 0.25), torch.ones(4000, REGULAR.size, 1, 1)
    y = layer(x).view(4000, 3, 4)
    assert ((y == 0).all(2) | (y == 4 / 3).all(2)).all()
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.03
    assert layer.eval()(x) is x


@TYPES
def test_an_image_without_a_batch(fields):
    x = draw(fields)[0]
    for make in (FieldNorm, lambda f: FieldMaxPool(f, 2), lambda f: FieldBatchNorm(f).eval()):
        layer = make(fields).double()
        assert torch.allclose(layer(x), layer(x[None])[0])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: FieldNorm("C4"), SofteqTypeError, "in_type: expected an escnn FieldType"),
        (lambda: FieldNorm(MIXED, eps=-1.0), SofteqValueError, "eps: expected a number between 0 and 1"),
        (lambda: FieldDropout(MIXED, 1.0), SofteqValueError, "p: expected"),
        (lambda: FieldMaxPool(MIXED, 2.5), SofteqTypeError, "kernel_size: expected a whole number"),
        (lambda: FieldMaxPool(MIXED, 2, padding=2), SofteqValueError, "padding: expected at most half"),
        (lambda: FieldNorm(MIXED)(torch.ones(1, 3, 4, 4)), SofteqValueError, r"x: expected floating numbers of shape"),
        (lambda: FieldNorm(MIXED)([1.0]), SofteqTypeError, "x: expected a tensor"),
        (lambda: FieldBatchNorm(MIXED)(torch.ones(1, 9, 1, 1)), SofteqValueError, "expected several values"),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_fields_over_space_are_taken_too():
    space = gspaces.rot2dOnR3(4)
    fields = FieldType(space, [space.trivial_repr, space.regular_repr])
    element = space.fibergroup.element(1)
    layers = FieldBatchNorm(fields), FieldNorm(fields), FieldMaxPool(fields, 2), FieldDropout(fields).eval()
    x = torch.randn(3, fields.size, 4, 4, 4, dtype=torch.float64) + 0.7
    for layer in layers:
        layer = layer.double()
        moved = layer(fields(x).transform(element).tensor)
        assert torch.allclose(moved, fields(layer(x)).transform(element).tensor, atol=1e-6)
        assert layer(x[0]).dim() == 4
    plain = softeq.fold(nn.Sequential(layers[0]).eval())[0]
    assert type(plain) is nn.BatchNorm3d
    assert torch.allclose(plain(x), layers[0](x))
    with pytest.raises(SofteqValueError, match=r"shape \(N, 5, D, H, W\)"):
        layers[0](x[:, :, 0])
