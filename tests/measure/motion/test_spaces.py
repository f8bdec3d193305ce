"""Flows on vectors: tangents against finite steps, group laws, and models whose Lie derivative is known to vanish."""

import sys

import pytest
import torch
from e3nn import o3

from softeq import Scalar, T, Vector
from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.groups import SL, SO, Group, Lorentz, O, Permutation, SO13p, Sp
from softeq.measure.errors import NotMeasurable
from softeq.measure.lie_derivative import lie_derivative
from softeq.measure.motion.actions import Invariant, UnderIrreps, UnderRep, Vectors
from softeq.measure.motion.flows import Flow
from softeq.measure.motion.spaces import (
    IrrepsFlow,
    LinearFlow,
    PointFlow,
    RepFlow,
    ZeroFlow,
    group_flows,
    in_lie_algebra,
    irreps_flows,
    point_flows,
)
from softeq.models.dynamics import SoftEMLP
from softeq.pathways import RESIDUAL

IRREPS = "2x0e + 1x1o + 1x1e + 1x2e + 1x3o"


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(error, value):
    return float(error.norm() / value.detach().norm())


FLOWS = {
    **{f.name: (f, (4, 5, 3)) for f in point_flows(3)},
    **{f"planar {f.name}": (f, (4, 5, 2)) for f in point_flows(2)},
    **{f.name: (f, (4, 12)) for f in group_flows((Vector + T(2))(SO(3)))},
    **{f.name: (f, (4, 12)) for f in group_flows((Vector + 2 * T(1, 1) + Vector.dual)(SL(2)))},
    **{f"irreps {f.name}": (f, (4, o3.Irreps(IRREPS).dim)) for f in irreps_flows(IRREPS)},
    "linear": (LinearFlow(normal(6, 6)), (4, 6)),
    "affine points": (PointFlow(normal(3, 3), normal(3, seed=1)), (4, 5, 3)),
    "zero": (ZeroFlow(), (4, 6)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_tangent_is_the_derivative_of_the_flow_and_steps_add_up(name):
    flow, shape = FLOWS[name]
    x, h = normal(*shape), 1e-4
    difference = (flow(x, h) - flow(x, -h)) / (2 * h)
    torch.testing.assert_close(flow.tangent(x), difference, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(flow(flow(x, 0.3), 0.4), flow(x, 0.7), atol=1e-9, rtol=1e-9)
    assert flow(x.float(), 0.3).dtype == flow.tangent(x.float()).dtype == torch.float32
    assert isinstance(flow, Flow)
    assert flow.unit


def test_translations_come_first_and_rotations_are_right_handed():
    names = [flow.name for flow in point_flows(3)]
    assert names == [*(f"translation_{a}" for a in "xyz"), *(f"rotation_{a}" for a in "xyz")]
    assert [flow.name for flow in point_flows(2)] == ["translation_x", "translation_y", "rotation"]
    x_axis, y_axis = torch.eye(3, dtype=torch.float64)[:2]
    torch.testing.assert_close(point_flows(3)[5](x_axis[None], torch.pi / 2), y_axis[None])
    torch.testing.assert_close(point_flows(2)[2](x_axis[None, :2], torch.pi / 2), y_axis[None, :2])
    torch.testing.assert_close(point_flows(3)[1](x_axis[None], 2.0), (x_axis + 2 * y_axis)[None])


def test_one_point_is_a_point_set():
    point = normal(3, 1, 3)
    for flow in point_flows(3):
        assert flow.tangent(point).shape == point.shape


@pytest.mark.parametrize("degree", [0, 1, 2, 5])
@pytest.mark.parametrize("parity", [1, -1])
def test_irreps_move_as_e3nn_says(degree, parity):
    irrep = o3.Irrep(degree, parity)
    A = sum(weight * flow.matrix for weight, flow in zip((0.5, -0.2, 0.3), point_flows(3)[3:], strict=True))
    x = normal(4, irrep.dim)
    expected = x @ irrep.D_from_matrix(torch.linalg.matrix_exp(A)).double().mT
    torch.testing.assert_close(IrrepsFlow(o3.Irreps([irrep]), A)(x, 1.0), expected, atol=1e-5, rtol=1e-5)


def test_generators_of_irreps_close_under_brackets_in_float64():
    x, y, z = (flow.generator for flow in irreps_flows(IRREPS))
    assert (x @ y - y @ x - z).abs().max() < 1e-13
    assert (x + x.mT).abs().max() < 1e-13


class WithResidual(torch.nn.Module):
    """A soft twin with a residual pathway that is no longer small."""

    def __init__(self, rep_in, rep_out):
        super().__init__()
        self.net = SoftEMLP(rep_in, rep_out, channels=24, layers=1, constraint="soft").double()
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                if RESIDUAL in name.split("."):
                    parameter.add_(0.1 * torch.randn_like(parameter))

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("group", [SO(3), O(3), SO13p(), Lorentz(), Sp(2)], ids=str)
def test_hard_network_has_no_derivative_and_its_soft_twin_has(group):
    rep_in, rep_out = (2 * Vector + 3 * Scalar)(group), (Scalar + Vector + T(2))(group)
    hard = SoftEMLP(rep_in, rep_out, channels=24, layers=1, constraint="hard").double()
    soft = WithResidual(rep_in, rep_out)
    x = normal(5, rep_in.size)
    for flow in group_flows(rep_in):
        assert relative(lie_derivative(hard, x, flow, UnderRep(rep_out)), hard(x)) < 1e-9
        assert relative(lie_derivative(soft, x, flow, UnderRep(rep_out)), soft(x)) > 1e-3
        assert relative(lie_derivative(hard, x, flow, Invariant()), hard(x)) > 1e-3


class Tensorial(torch.nn.Module):
    """A hard e3nn network; with `leak`, one coordinate more than the symmetry allows."""

    def __init__(self, leak=0.0):
        super().__init__()
        self.first = o3.Linear("2x0e + 2x1o", "4x0e + 4x1o + 2x2e")
        self.product = o3.FullyConnectedTensorProduct(
            self.first.irreps_out, self.first.irreps_out, "2x0e + 1x1o + 1x2e"
        )
        self.leak = leak

    def forward(self, x):
        hidden = self.first(x)
        return self.product(hidden, hidden) + self.leak * x[..., 2:3]


@pytest.fixture(scope="module")
def hard_e3nn():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn rounds its 3j symbols to the default dtype when it builds
    try:
        torch.manual_seed(0)
        return Tensorial()
    finally:
        torch.set_default_dtype(before)


def test_hard_e3nn_network_has_no_derivative_and_a_leak_shows(hard_e3nn):
    x, out = normal(4, 8), UnderIrreps("2x0e + 1x1o + 1x2e")
    for flow in irreps_flows("2x0e + 2x1o"):
        hard_e3nn.leak = 0.0
        assert relative(lie_derivative(hard_e3nn, x, flow, out), hard_e3nn(x)) < 1e-9
        hard_e3nn.leak = 0.1
        assert relative(lie_derivative(hard_e3nn, x, flow, out), hard_e3nn(x)) > 1e-3
        hard_e3nn.leak = 0.0


def distances(x):
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], offset=1)
    return (x[..., i, :] - x[..., j, :]).norm(dim=-1)


def energy(x):
    return torch.exp(-distances(x)).sum(-1)


def forces(x):
    return -torch.func.grad(lambda z: energy(z).sum())(x)


def in_a_field(x):
    return energy(x) + 0.1 * x[..., 0, :].pow(3).sum(-1)


@pytest.mark.parametrize("flow", point_flows(3), ids=lambda flow: flow.name)
def test_energy_of_distances_is_invariant_and_one_of_coordinates_is_not(flow):
    x = normal(4, 5, 3)
    assert lie_derivative(energy, x, flow).abs().max() < 1e-12
    assert lie_derivative(in_a_field, x, flow).abs().max() > 1e-3


@pytest.mark.parametrize("flow", point_flows(3), ids=lambda flow: flow.name)
def test_forces_turn_as_vectors(flow):
    x = normal(4, 5, 3)
    assert lie_derivative(forces, x, flow, Vectors()).abs().max() < 1e-12
    if flow.unit == "radians":
        assert lie_derivative(forces, x, flow, Invariant()).abs().max() > 1e-3


def test_a_group_without_lie_algebra_points_to_finite_elements():
    with pytest.raises(NotMeasurable, match="equivariance_error"):
        group_flows(Vector(Permutation(3)))


def test_a_generator_outside_the_lie_algebra_is_refused():
    scale = torch.eye(3, dtype=torch.float64)
    assert not in_lie_algebra(Vector(SO(3)), scale)
    with pytest.raises(NotMeasurable, match="not in the Lie algebra of SO"):
        RepFlow(Vector(SO(3)), scale)
    assert not in_lie_algebra(Vector(Permutation(3)), scale)
    assert in_lie_algebra(Vector(Permutation(3)), 0 * scale)


def test_brackets_of_the_given_generators_count_as_the_lie_algebra():
    x, y, z = SO(3).lie_algebra
    two = Group("rotations from two", torch.stack([x, y]), torch.zeros(0, 3, 3))
    assert in_lie_algebra(Vector(two), z)
    assert not in_lie_algebra(Vector(two), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: point_flows(4), SofteqValueError, "dimension"),
        (lambda: group_flows("SO(3)"), SofteqTypeError, "Rep"),
        (lambda: group_flows(Vector), SofteqValueError, "not bound"),
        (lambda: group_flows((0 * Vector)(SO(3))), SofteqValueError, "coordinate"),
        (lambda: RepFlow(Vector(SO(3)), torch.zeros(2, 2)), SofteqValueError, "3, 3"),
        (lambda: LinearFlow(torch.zeros(2, 3)), SofteqValueError, "square"),
        (lambda: LinearFlow(torch.full((2, 2), torch.nan)), SofteqValueError, "NaN"),
        (lambda: PointFlow(torch.zeros(3, 3), torch.zeros(2)), SofteqValueError, "shift"),
        (lambda: IrrepsFlow("1x1o", torch.eye(3)), NotMeasurable, "antisymmetric"),
        (lambda: IrrepsFlow("1x1o", torch.zeros(2, 2)), NotMeasurable, "3 x 3"),
        (lambda: IrrepsFlow("nonsense", torch.zeros(3, 3)), SofteqValueError, "irreps"),
    ],
)
def test_bad_flows_are_refused(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_irreps_without_e3nn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(MissingExtraError, match=r"softeq\[e3nn\]"):
        irreps_flows("1x1o")


@pytest.mark.parametrize("shape", [(4, 5, 2), (3,), ()])
def test_data_of_another_size_is_refused(shape):
    with pytest.raises(SofteqValueError, match="expected floating-point data"):
        point_flows(3)[0].tangent(torch.zeros(shape))
    with pytest.raises(SofteqValueError, match="int64"):
        point_flows(3)[0].tangent(torch.zeros(4, 3, dtype=torch.int64))


def test_a_nan_is_refused_and_a_nan_output_is_not_measurable():
    x = normal(4, 5, 3)
    with pytest.raises(SofteqValueError, match="NaN"):
        lie_derivative(energy, torch.full_like(x, torch.nan), point_flows(3)[0])
    with pytest.raises(NotMeasurable):
        lie_derivative(lambda z: energy(z) * torch.nan, x, point_flows(3)[0])
