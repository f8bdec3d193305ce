"""Finite elements on models that are equivariant by construction and on others."""

import copy
from operator import itemgetter

import pytest
import torch
from torch import nn

from softeq import Scalar, T, Vector
from softeq._grid_filters import escnn_at_work
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Cyclic, Dihedral, Lorentz, O, Permutation, SO13p, Z
from softeq.measure.defect import (
    equivariance_error,
    field_element,
    finite_step_curve,
    flip_vertical,
    matrix_element,
    quarter_turn,
    rep_element,
    shift,
)
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import ImageMap, Pick
from softeq.measure.motion.fields import fibre_matrix
from softeq.measure.motion.flows import FLOWS
from softeq.models.dynamics import SoftEMLP
from softeq.pathways import RESIDUAL


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def circular():
    torch.manual_seed(0)
    first, second = (nn.Conv2d(i, o, 3, padding=1, padding_mode="circular") for i, o in ((3, 4), (4, 2)))
    return nn.Sequential(first, nn.GELU(), second).double()


def test_integer_shifts_of_a_circular_convolution_and_of_an_ordinary_one():
    x, element = normal(4, 3, 9, 12), shift(2, -3)
    errors = equivariance_error(circular(), x, element, element)
    assert errors.shape == (4,)
    assert errors.dtype == torch.float64
    assert errors.max() < 1e-12
    ordinary = nn.Conv2d(3, 2, 3, padding=1).double()
    assert equivariance_error(ordinary, x, element, element).min() > 1e-2
    pooled = lambda z: circular()(z).mean((2, 3))
    assert equivariance_error(pooled, x, element).max() < 1e-12
    halved = lambda z: circular()(z)[..., ::2]
    assert equivariance_error(halved, x, shift(4, 1), shift(2, 1)).max() < 1e-12
    with pytest.raises(NotMeasurable, match="different shapes"):
        equivariance_error(halved, x, shift(4, 1), lambda y: y[..., :2])


def test_quarter_turns_of_images_that_are_not_square():
    x = normal(3, 3, 8, 12)
    convolution = nn.Conv2d(3, 2, 3, padding=1).double()
    with torch.no_grad():
        convolution.weight.copy_(sum(convolution.weight.rot90(k, (2, 3)) for k in range(4)))
    turn = quarter_turn(1)
    assert equivariance_error(convolution, x, turn, turn).max() < 1e-12
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(288, 2)).double()
    errors = equivariance_error(fixed, x, turn)  # a flattened image takes the turned one too, and differs
    assert errors.min() > 0.01

    def sized(z):
        if z.shape[2:] != (8, 12):
            raise ValueError("expected 8 x 12")
        return z.mean((2, 3))

    with pytest.raises(NotMeasurable, match=r"not \(3, 3, 12, 8\).*square"):
        equivariance_error(sized, x, turn)
    with pytest.raises(ValueError, match="expected 8"):
        equivariance_error(lambda z: sized(z.mT), x, flip_vertical())


def exact(convolution):
    """A planar escnn convolution as a plain one without escnn's rounding of its bases to float32.

    The mean over the group of ``rho_out(g) W(g^-1 p) rho_in(g)^T``; it must be what W is already, up to float32.
    """
    source, target = convolution.in_type, convolution.out_type
    plain = convolution.eval().export().double()
    elements = source.fibergroup.elements
    mean = torch.zeros_like(plain.weight)
    for g in elements:
        mean += torch.tensordot(fibre_matrix(target, g), field_element(source, g)(plain.weight), 1) / len(elements)
    assert (mean - plain.weight).norm() < 1e-6 * mean.norm()
    plain.weight.data = mean.detach()
    return plain


@pytest.fixture(scope="module")
def escnn_net():
    """Networks of two escnn convolutions under C4 and D4, with the types of their input and output."""
    from escnn import gspaces
    from escnn import nn as enn

    found = {}
    for name, gspace in {"C4": gspaces.rot2dOnR2(4), "D4": gspaces.flipRot2dOnR2(4)}.items():
        torch.manual_seed(0)
        first = enn.FieldType(gspace, [gspace.trivial_repr] * 2)
        hidden, last = (enn.FieldType(gspace, [gspace.regular_repr] * n) for n in (3, 2))
        with escnn_at_work():
            layers = enn.R2Conv(first, hidden, 3, padding=1), enn.R2Conv(hidden, last, 5, padding=2)
        # A copy: escnn shares its bases between modules, and would keep those of this group in float64.
        rounded = copy.deepcopy(enn.SequentialModule(layers[0], enn.ReLU(hidden), layers[1])).double().eval()
        net = nn.Sequential(exact(layers[0]), nn.ReLU(), exact(layers[1]))
        found[name] = (net, rounded, first, last)
    return found


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_an_escnn_network_under_its_exact_elements_and_an_ordinary_one(escnn_net, name):
    from escnn.nn import GeometricTensor

    net, rounded, first, last = escnn_net[name]
    x = normal(3, 2, 9, 9)
    ordinary = nn.Conv2d(2, last.size, 3, padding=1).double()
    for element in first.gspace.fibergroup.elements:
        if element == first.gspace.fibergroup.identity:
            continue
        move = field_element(first, element), field_element(last, element)
        assert equivariance_error(net, x, *move).max() < 1e-9
        assert equivariance_error(lambda z: rounded(GeometricTensor(z, first)).tensor, x, *move).max() < 1e-5
        assert equivariance_error(ordinary, x, *move).min() > 1e-2
        assert equivariance_error(net, x, move[0], field_element(last, element).then(shift(1, 0))).min() > 1e-2


# Elements on vectors and points


def enlarged(net):
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if RESIDUAL in name.split("."):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("group", [Permutation(4), Z(3), Cyclic(4), Dihedral(3), O(3), SO13p(), Lorentz()], ids=str)
def test_sampled_elements_of_any_group_on_a_hard_network_and_its_soft_twin(group):
    rep_in, rep_out = (2 * Vector + Scalar)(group), (Vector + Scalar + T(2))(group)
    hard, soft = (
        SoftEMLP(rep_in, rep_out, channels=24, layers=1, constraint=constraint).double()
        for constraint in ("hard", "soft")
    )
    x = normal(16, rep_in.size)
    g = group.sample(16, torch.Generator().manual_seed(1))
    elements = rep_element(rep_in, g), rep_element(rep_out, g)
    assert equivariance_error(hard, x, *elements).nan_to_num().max() < 1e-9
    assert equivariance_error(enlarged(soft), x, *elements).nan_to_num().max() > 1e-3
    one = equivariance_error(hard, x[:1], rep_element(rep_in, g[0]), rep_element(rep_out, g[0]))
    assert one.shape == (1,)


def energy(x):
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], offset=1)
    return torch.exp(-(x[..., i, :] - x[..., j, :]).norm(dim=-1)).sum(-1)


def forces(x):
    return -torch.func.grad(lambda z: energy(z).sum())(x)


def test_molecules_under_rigid_motions_of_each_sample():
    x, g = normal(6, 5, 3), O(3).sample(6, torch.Generator().manual_seed(2))
    motion = matrix_element(g, normal(6, 3, seed=3))
    assert equivariance_error(energy, x, motion).max() < 1e-12
    assert equivariance_error(forces, x, motion, matrix_element(g)).max() < 1e-12
    assert equivariance_error(forces, x, motion).min() > 1e-2
    assert equivariance_error(lambda z: energy(z) + z[:, 0, 0], x, motion).min() > 1e-3
    assert equivariance_error(lambda z: z.mean(1), x, motion, motion).max() < 1e-12
    assert equivariance_error(lambda z: z.mean(1), x, motion, matrix_element(g)).min() > 1e-2


def test_one_point_alone_has_no_distances_to_compare():
    one, motion = normal(6, 1, 3), matrix_element(O(3).sample(6, torch.Generator().manual_seed(2)))
    with pytest.raises(NotMeasurable, match="no sample shows anything"):
        equivariance_error(energy, one, motion)
    assert equivariance_error(lambda z: z.norm(dim=-1), one, motion).max() < 1e-12


# What shows nothing, and bad input


def test_samples_that_show_nothing_are_nan_and_never_zero():
    x = normal(3, 2, 5, 5)
    x[1] = 0.7  # a blank image
    errors = equivariance_error(lambda z: z.mean((2, 3)), x, quarter_turn(1))
    assert errors.isnan().tolist() == [False, True, False]
    assert equivariance_error(lambda z: z[:, :, 0], x, quarter_turn(1)).isnan().tolist() == [False, True, False]
    masked = lambda z: z * (z.amax((1, 2, 3), keepdim=True) > 0.7)
    assert equivariance_error(masked, x, flip_vertical(), flip_vertical()).isnan().tolist() == [False, True, False]
    uneven = lambda z: z * torch.arange(5.0)
    assert equivariance_error(uneven, x, quarter_turn(1), quarter_turn(1)).min() > 0.1  # blank, and yet it shows


@pytest.mark.parametrize(
    ("function", "element"),
    [
        (lambda z: 0 * z.mean((2, 3)), quarter_turn(1)),
        (lambda z: z.mean((2, 3)), quarter_turn(4)),
    ],
    ids=["zero", "identity"],
)
def test_nothing_to_show_at_all_is_not_measurable(function, element):
    with pytest.raises(NotMeasurable, match="no sample shows anything"):
        equivariance_error(function, normal(3, 2, 5, 5), element)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda z: z.sum(), "one entry per sample"),
        (lambda z: z.mean(0), "one entry per sample"),
        (lambda z: z.mean((2, 3)) * torch.nan, "NaN"),
        (lambda z: (z,), "pick an entry"),
        (lambda z: z.argmax(1), "int64"),
    ],
)
def test_outputs_that_cannot_be_compared_are_not_measurable(function, match):
    with pytest.raises(NotMeasurable, match=match):
        equivariance_error(function, normal(3, 2, 5, 5), quarter_turn(1))
    with pytest.raises(NotMeasurable, match=match):
        finite_step_curve(function, normal(3, 2, 5, 5), "rotation")


def test_an_entry_of_the_output_is_selected():
    x, f = normal(3, 2, 5, 5), lambda z: {"mean": z.mean((2, 3)), "rest": None}
    assert equivariance_error(f, x, quarter_turn(1), select=itemgetter("mean")).max() < 1e-12
    assert equivariance_error(f, x, quarter_turn(1), select=Pick("mean", ImageMap()).select).max() < 1e-12


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x, f: equivariance_error(f, x, "turn"), SofteqTypeError, "element_in"),
        (lambda x, f: equivariance_error(f, x, quarter_turn(1), 3), SofteqTypeError, "element_out"),
        (lambda x, f: equivariance_error(f, x, FLOWS["rotation"]), SofteqTypeError, "finite_step_curve"),
        (lambda x, f: equivariance_error(f, x * torch.nan, quarter_turn(1)), SofteqValueError, "NaN"),
        (lambda x, f: equivariance_error(f, x[:0], quarter_turn(1)), SofteqValueError, "at least one sample"),
        (lambda x, f: equivariance_error(f, x.long(), quarter_turn(1)), SofteqTypeError, "floating"),
        (lambda x, f: equivariance_error(f, x[:, 0], quarter_turn(1)), SofteqValueError, "moves images"),
        (lambda x, f: finite_step_curve(f, x, "rotation", steps=()), SofteqValueError, "steps"),
        (lambda x, f: finite_step_curve(f, x, "rotation", steps=(0.1, 0.0)), SofteqValueError, "steps"),
        (lambda x, f: finite_step_curve(f, x, "rotation", steps=(torch.inf,)), SofteqValueError, "steps"),
        (lambda x, f: finite_step_curve(f, x, FLOWS), SofteqValueError, "one flow"),
        (lambda x, f: finite_step_curve(f, x, "rotate"), SofteqValueError, "rotation"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(normal(3, 2, 5, 5), lambda z: z.flatten(1).mean(1))


def test_a_module_is_measured_in_evaluation_mode_and_left_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(circular(), nn.Dropout(0.5)).train()
    x, element = normal(3, 3, 6, 6), shift(1, 1)
    assert equivariance_error(net, x, element, element).max() < 1e-12
    assert net.training
    assert not any(parameter.grad is not None for parameter in net.parameters())
