"""Soft linear layers between irreps, against e3nn's own and against dense algebra."""

import copy
import sys

import pytest
import torch
from e3nn import o3
from torch import nn

from softeq import Prior, fold, harden, prior_penalty, weight_defect
from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.irreps import IrrepsProjector, SoftO3Linear

IN = o3.Irreps("3x0e + 2x1o + 1x0o + 2x0e + 1x2e")
OUT = o3.Irreps("2x1o + 4x0e + 1x2e + 1x1e")


def equivariance(layer, x):
    rotations_in, rotations_out = random_rotations_pair(layer)
    return max(
        float((layer(x @ a.T) - layer(x) @ b.T).abs().max() / layer(x).abs().max())
        for a, b in zip(rotations_in, rotations_out, strict=True)
    )


def random_rotations_pair(layer, n=4):
    torch.manual_seed(1)
    matrices = o3.rand_matrix(n, dtype=torch.float64)
    matrices[::2] *= -1
    return layer.irreps_in.D_from_matrix(matrices), layer.irreps_out.D_from_matrix(matrices)


@pytest.fixture
def x():
    return torch.randn(7, IN.dim, dtype=torch.float64)


class TestProjector:
    def test_the_rank_is_that_of_schurs_lemma(self):
        # 0e: 4 x 5, 1o: 2 x 2, 2e: 1 x 1; 0o and 1e have no partner.
        assert IrrepsProjector(IN, OUT).rank == 25

    def test_is_orthogonal_and_idempotent(self):
        projector = IrrepsProjector(IN, OUT).double()
        matrix, other = torch.randn(2, *projector.shape, dtype=torch.float64)
        once = projector(matrix)
        torch.testing.assert_close(projector(once), once, rtol=0, atol=1e-14)
        torch.testing.assert_close((once * other).sum(), (projector(other) * matrix).sum())
        assert float((once - matrix).norm()) > 1

    def test_coordinates_have_the_norm_of_the_map(self):
        projector = IrrepsProjector(IN, OUT).double()
        weight = torch.randn(projector.rank, dtype=torch.float64)
        matrix = projector.matrix(weight)
        torch.testing.assert_close(matrix.norm(), weight.norm())
        torch.testing.assert_close(projector.coordinates_of(matrix), weight)

    def test_is_the_average_over_the_group_of_a_dense_twin(self):
        torch.manual_seed(0)
        matrices = o3.rand_matrix(4000, dtype=torch.float64)
        a, b = (o3.Irreps(i).D_from_matrix(matrices) for i in ("1x0e + 1x1o", "1x1o + 1x0e"))
        matrix = torch.randn(4, 4, dtype=torch.float64)
        averaged = (b.transpose(1, 2) @ matrix @ a).mean(0)
        exact = IrrepsProjector(o3.Irreps("1x0e + 1x1o"), o3.Irreps("1x1o + 1x0e")).double()(matrix)
        assert float((averaged - exact).abs().max()) < 0.1
        assert float((matrix - exact).abs().max()) > 0.2

    def test_a_trip_through_half_precision_leaves_no_rounding(self):
        projector = IrrepsProjector(IN, OUT)
        weight = torch.ones(projector.rank, dtype=torch.float64)
        before = projector.matrix(weight)
        assert torch.equal(projector.half().double().matrix(weight), before)


class TestSoftO3Linear:
    def test_hard_is_equivariant_and_soft_is_not(self, x):
        hard = SoftO3Linear(IN, OUT, constraint="hard").double()
        assert equivariance(hard, x) < 1e-9
        soft = SoftO3Linear(IN, OUT).double()
        start = equivariance(soft, x)
        assert 1e-6 < start < 0.05
        with torch.no_grad():
            soft.pathways["residual"].weight.mul_(1000)
        assert equivariance(soft, x) > 10 * start

    def test_the_same_map_as_e3nn(self, x):
        linear = o3.Linear(IN, OUT, biases=True).double()
        nn.init.normal_(linear.bias)
        layer = SoftO3Linear.from_e3nn(linear)
        torch.testing.assert_close(layer(x), linear(x), rtol=1e-12, atol=1e-12)
        assert layer.weight_defect() < 1e-12
        assert set(layer.pathways) == {"equivariant", "residual"}

    def test_from_e3nn_refuses_what_is_no_linear(self):
        with pytest.raises(SofteqTypeError, match=r"o3\.Linear"):
            SoftO3Linear.from_e3nn(nn.Linear(3, 3))
        with pytest.raises(SofteqValueError, match="constraint"):
            SoftO3Linear.from_e3nn(o3.Linear(IN, OUT), constraint="none")

    @pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
    def test_starts_with_the_output_size_of_nn_linear(self, constraint):
        torch.manual_seed(0)
        layer = SoftO3Linear("32x0e + 32x1o + 32x2e", "32x0e + 32x1o + 32x2e", constraint=constraint, bias=False)
        outputs = layer(torch.randn(2000, layer.in_features)).split([32, 96, 160], -1)
        for part in outputs:
            assert 0.8 / 3 < float(part.square().mean()) < 1.2 / 3

    def test_hard_and_residual_span_all_maps(self):
        layer = SoftO3Linear("1x0e + 1x1o", "1x1o + 1x0e").double()
        target = torch.randn(4, 4, dtype=torch.float64)
        layer.pathways["equivariant"].weight.data = layer.projector.coordinates_of(target)
        layer.pathways["residual"].weight.data = target - layer.projector(target)
        torch.testing.assert_close(layer.weight, target)

    def test_merged_summed_and_folded_agree_in_values_and_gradients(self, x):
        layer = SoftO3Linear(IN, OUT).double()
        summed = x @ layer.projector.matrix(layer.pathways["equivariant"].weight).T
        summed = summed + x @ layer.pathways["residual"].weight.T + layer.bias
        torch.testing.assert_close(layer(x), summed)
        torch.testing.assert_close(fold(layer)(x), layer(x))
        parameters = list(layer.parameters())
        for a, b in zip(
            torch.autograd.grad(layer(x).square().sum(), parameters),
            torch.autograd.grad(summed.square().sum(), parameters),
            strict=True,
        ):
            torch.testing.assert_close(a, b)

    def test_gradients_check_twice(self):
        layer = SoftO3Linear("1x0e + 1x1o", "1x1o + 1x0e").double()
        y = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer, y)
        assert torch.autograd.gradgradcheck(lambda z: layer(z).square(), y)

    @pytest.mark.slow
    def test_compiled_agrees_in_values_and_gradients(self, x):
        layer = SoftO3Linear(IN, OUT).double()
        compiled = torch.compile(layer)
        torch.testing.assert_close(compiled(x), layer(x))
        parameters = list(layer.parameters())
        eager = torch.autograd.grad(layer(x).square().sum(), parameters)
        for a, b in zip(torch.autograd.grad(compiled(x).square().sum(), parameters), eager, strict=True):
            torch.testing.assert_close(a, b)

    def test_under_autocast_the_weight_is_merged_in_its_own_dtype(self):
        layer = SoftO3Linear(IN, OUT)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(torch.randn(3, IN.dim))
        assert y.dtype == torch.bfloat16

    def test_vmap_and_jvp_pass(self, x):
        layer = SoftO3Linear(IN, OUT).double()
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
        _, tangent = torch.func.jvp(layer, (x,), (x,))
        torch.testing.assert_close(tangent, x @ layer.weight.T)

    def test_state_dicts_and_copies(self, x):
        layer, other = SoftO3Linear(IN, OUT).double(), SoftO3Linear(IN, OUT).double()
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(other(x), layer(x))
        torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))

    def test_the_penalty_prices_both_pathways(self):
        layer = SoftO3Linear(IN, OUT).double()
        prior = Prior(equivariant=2.0, residual=3.0)
        parts = {k: sum(p.square().sum() for p in w.parameters()) for k, w in layer.pathways.items()}
        torch.testing.assert_close(prior_penalty(layer, prior), parts["equivariant"] + 1.5 * parts["residual"])
        assert sum(p.numel() for p in layer.pathways.parameters()) == sum(p.numel() for p in layer.parameters())

    def test_defect_and_harden(self, x):
        layer = SoftO3Linear(IN, OUT).double()
        with torch.no_grad():
            layer.pathways["residual"].weight.mul_(1000)
        assert 0.1 < weight_defect(nn.Sequential(layer))["0"] < 1
        hard = harden(layer)
        assert hard.weight_defect() == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(hard.weight, layer.projector.matrix(layer.pathways["equivariant"].weight))
        with pytest.raises(SofteqValueError, match="no equivariant pathway"):
            harden(SoftO3Linear(IN, OUT, constraint="none"))

    def test_an_irrep_that_the_input_lacks_is_zero_in_the_hard_layer(self):
        hard = SoftO3Linear("2x1o", "2x0e + 1o", constraint="hard", bias=False)
        assert float(hard(torch.randn(3, 6))[:, :2].abs().max()) == 0
        assert float(SoftO3Linear("2x1o", "2x0e + 1o")(torch.randn(3, 6))[:, :2].abs().max()) > 0

    def test_bias_is_on_even_scalars(self):
        hard = SoftO3Linear(IN, OUT, constraint="hard")
        assert hard.pathways["equivariant"].bias.shape == (4,)
        assert int((hard.bias != 0).sum()) == 4
        assert SoftO3Linear(IN, OUT, bias=False).bias is None

    @pytest.mark.parametrize("bad", ["3x9z", 7.5])
    def test_bad_irreps(self, bad):
        with pytest.raises(SofteqValueError, match="irreps_in"):
            SoftO3Linear(bad, "1x0e")

    def test_bad_width_and_constraint(self):
        with pytest.raises(SofteqValueError, match=r"x: expected shape \(\.\.\., 17\)"):
            SoftO3Linear(IN, OUT)(torch.randn(2, 5))
        with pytest.raises(SofteqValueError, match="constraint"):
            SoftO3Linear(IN, OUT, constraint="firm")

    def test_without_e3nn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "e3nn", None)
        with pytest.raises(MissingExtraError, match=r"softeq\[e3nn\]"):
            SoftO3Linear("1x0e", "1x0e")


class TestBiasPerBlock:
    BIAS = (False, True, True, False)  # of OUT = "2x1o + 4x0e + 1x2e + 1x1e"

    def test_the_blocks_that_ask_for_one_have_one(self):
        soft = SoftO3Linear(IN, OUT, bias=self.BIAS)
        assert soft.pathways["equivariant"].bias.shape == (4,)
        assert soft.pathways["residual"].bias.shape == (9,)
        where = torch.zeros(OUT.dim, dtype=torch.bool)
        where[6:15] = True
        assert bool((soft.bias != 0)[where].all())
        assert not soft.bias[~where].any()
        x = torch.randn(3, IN.dim)
        torch.testing.assert_close(fold(soft)(x), soft(x))
        torch.testing.assert_close(soft(torch.zeros_like(x)), soft.bias.expand(3, -1))

    def test_hard_is_e3nn_s_with_the_same_biases(self):
        flags = [False, True, False, False]
        theirs = o3.Linear(IN, OUT, biases=flags)
        with torch.no_grad():
            theirs.bias.normal_()
        ours = SoftO3Linear.from_e3nn(theirs, constraint="hard")
        x = torch.randn(3, IN.dim)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        hard = SoftO3Linear(IN, OUT, bias=flags, constraint="hard")
        assert hard.pathways["equivariant"].bias.shape == theirs.bias.shape
        partly = SoftO3Linear("0e", "0e + 0e", bias=[True, False], constraint="hard")
        assert (partly.bias != 0).tolist() == [True, False]

    def test_a_ladder_s_biases_are_on_the_same_blocks(self):
        from softeq.groups import O, O2eR3

        soft = SoftO3Linear("0e", "1o + 0e", bias=[True, False], ladder=[O(3), O2eR3()])
        assert {name: p.bias.shape[0] for name, p in soft.pathways.items()} == {
            "equivariant": 0,
            "O2eR3": 1,
            "residual": 3,
        }
        assert not soft.bias[3:].any()

    def test_what_is_no_list_of_blocks_is_refused(self):
        with pytest.raises(SofteqTypeError, match="bias: expected True, False, or a list of them"):
            SoftO3Linear(IN, OUT, bias=[1, 0, 1, 0])
        with pytest.raises(SofteqValueError, match="bias: expected one of True and False per block"):
            SoftO3Linear(IN, OUT, bias=[True])
        with pytest.raises(SofteqValueError, match="bias: expected False for 2e in a hard layer"):
            SoftO3Linear(IN, OUT, bias=self.BIAS, constraint="hard")
