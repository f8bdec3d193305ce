"""Radial functions, harmonics and channel-wise products, each against its definition or e3nn's own."""

import math

import pytest
import torch
from e3nn import o3
from torch.func import hessian, jacrev

from softeq import Prior, fold, harden, prior_penalty, weight_defect
from softeq.errors import SofteqValueError
from softeq.models.molecule_layers import Harmonics, RadialNetwork, SoftChannelwise, natural_irreps


def matrices(irreps, elements):
    """Wigner matrices in float64; e3nn makes them in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return [o3.Irreps(irreps).D_from_matrix(element) for element in elements]
    finally:
        torch.set_default_dtype(before)


def elements():
    torch.manual_seed(3)
    rotations = o3.rand_matrix(4, dtype=torch.float64)
    rotations[::2] *= -1
    return list(rotations)


class TestRadialNetwork:
    PLACES = (torch.tensor([0, 0, 1, 2]), torch.tensor([1, 0]))

    def test_the_basis_is_the_formula(self):
        network = RadialNetwork(4.0, self.PLACES).double()
        r = torch.tensor([[1.3]], dtype=torch.float64)
        x = 1.3 / 4.0
        window = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
        expected = [math.sin(n * math.pi * x) / (2 * x) * window for n in range(1, 9)]
        torch.testing.assert_close(network.basis(r)[0], torch.tensor(expected, dtype=torch.float64))

    def test_weights_and_two_derivatives_vanish_at_the_cutoff_and_beyond(self):
        network = RadialNetwork(4.0, self.PLACES).double()
        weights = lambda r: torch.cat(network(r.view(1, 1)), -1)[0]
        near, inside, beyond = (torch.tensor(r, dtype=torch.float64) for r in (4 - 1e-7, 2.0, 4.5))
        for function in (weights, jacrev(weights), hessian(weights)):
            assert function(near).abs().max() < 1e-4
            assert function(inside).abs().max() > 1e-2
            assert function(beyond).abs().max() == 0

    def test_places_that_share_a_weight_get_one(self):
        first, second = RadialNetwork(4.0, self.PLACES)(torch.rand(5, 1) + 1)
        assert first.shape == (5, 4)
        assert second.shape == (5, 2)
        torch.testing.assert_close(first[:, 0], first[:, 1])
        assert (first[:, 1] - first[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("lmax", [0, 1, 2, 3, 4])
def test_harmonics_are_e3nns(lmax):
    unit = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    expected = o3.spherical_harmonics(list(range(lmax + 1)), unit, normalize=False, normalization="component")
    torch.testing.assert_close(Harmonics(lmax).double()(unit), expected, rtol=1e-12, atol=1e-12)


class TestSoftChannelwise:
    EDGE = natural_irreps(2)

    def turned(self, layer):
        """The largest relative difference between turning before and after."""
        x, y = torch.randn(6, 3, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
        kinds = torch.tensor([kind.dim for _, kind in layer.irreps_out])
        scale = torch.randn(6, 3, len(kinds), dtype=torch.float64).repeat_interleave(kinds, -1)
        worst = 0.0
        for d_in, d_out in zip(matrices(self.EDGE, elements()), matrices(layer.irreps_out, elements()), strict=True):
            moved, expected = layer(x @ d_in.T, y @ d_in.T, scale).detach(), layer(x, y, scale).detach() @ d_out.T
            worst = max(worst, float((moved - expected).abs().max() / expected.abs().max()))
        return worst

    def build(self, constraint):
        return SoftChannelwise(self.EDGE, self.EDGE, self.EDGE, constraint=constraint).double()

    def test_hard_is_equivariant_and_the_others_are_not(self):
        assert self.turned(self.build("hard")) < 1e-12
        assert 1e-5 < self.turned(self.build("soft")) < 0.05
        assert self.turned(self.build("none")) > 0.1

    def test_hard_is_e3nns_product(self):
        layer = self.build("hard")
        # e3nn sorts nothing here: the instructions name the blocks in the layer's own order.
        paths = [
            (i, j, kind)
            for i, (_, a) in enumerate(self.EDGE)
            for j, (_, b) in enumerate(self.EDGE)
            for kind in a * b
            if kind in [k for _, k in self.EDGE]
        ]
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            product = o3.TensorProduct(
                self.EDGE,
                self.EDGE,
                layer.irreps_out,
                [(i, j, out, "uvu", False) for out, (i, j, _) in enumerate(paths)],
                irrep_normalization="component",
                path_normalization="none",
            )
        finally:
            torch.set_default_dtype(before)
        x, y = torch.randn(5, 1, 9, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
        ours = layer(x, y, torch.ones(5, 1, layer.irreps_out.dim, dtype=torch.float64))
        torch.testing.assert_close(ours[:, 0], product(x[:, 0], y), rtol=1e-12, atol=1e-12)

    def test_the_weight_is_exact_after_a_narrow_dtype(self):
        assert self.turned(self.build("hard").bfloat16().double()) < 1e-12

    def test_defect(self):
        assert self.build("hard").weight_defect() < 1e-12
        assert 0 < self.build("soft").weight_defect() < 0.01
        assert 0.5 < self.build("none").weight_defect() < 1
        # A residual that couples as an equivariant map may is none: any pair that reaches the block counts.
        layer = self.build("soft")
        with torch.no_grad():
            residual = layer.pathways["residual"].weight.zero_()
            residual[0, 0, 0] = 5.0
            assert layer.weight_defect() < 1e-12
            residual[0, 1, 0] = 5.0
            assert layer.weight_defect() > 0.1

    def test_contract(self):
        soft = self.build("soft")
        parameters = [p for pathway in soft.pathways.values() for p in pathway.parameters()]
        assert {id(p) for p in parameters} == {id(p) for p in soft.parameters()}
        torch.testing.assert_close(
            prior_penalty(soft, Prior(residual=2.0)), soft.pathways["residual"].weight.square().sum()
        )
        assert set(weight_defect(torch.nn.Sequential(soft))) == {"0"}
        x, y = torch.randn(4, 2, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
        scale = torch.randn(4, 2, soft.irreps_out.dim, dtype=torch.float64)
        torch.testing.assert_close(fold(soft)(x, y, scale), soft(x, y, scale))
        assert not hasattr(fold(soft), "pathways")
        hard = harden(soft)
        assert self.turned(hard) < 1e-12
        assert list(hard.parameters()) == []
        assert soft.state_dict().keys() == {"pathways.residual.weight"}
        with pytest.raises(SofteqValueError, match="no equivariant pathway"):
            harden(self.build("none"))
        with pytest.raises(SofteqValueError, match="no map but zero from 1x0e and 1x0e to 1x1o"):
            SoftChannelwise("0e", "0e", "1o")

    def test_output_has_unit_variance_where_the_inputs_have(self):
        x, y = torch.randn(4000, 8, 9), torch.randn(4000, 9)
        for constraint in ("hard", "none"):
            layer = SoftChannelwise(self.EDGE, self.EDGE, self.EDGE, constraint=constraint)
            out = layer(x, y, torch.ones(1, 1, layer.irreps_out.dim))
            assert float(out.detach().square().mean()) == pytest.approx(1.0, abs=0.15)
