"""Soft tensor products of irreps."""

import copy

import pytest
import torch
from e3nn import o3
from torch import nn

from softeq import Prior, fold, harden, prior_penalty
from softeq._irreps_products import SoftTensorProduct
from softeq.errors import SofteqTypeError, SofteqValueError

ONE, TWO, WANTED = "4x0e + 3x1o", "1x0e + 1x1o + 1x2e", "4x0e + 2x1o + 2x2e"


pytestmark = pytest.mark.usefixtures("exact_wigner_matrices")


def turned(function, irreps_in, irreps_out, *inputs):
    """The largest relative difference between turning before and after, over a few elements of O(3)."""
    torch.manual_seed(3)
    matrices = o3.rand_matrix(4, dtype=torch.float64)
    matrices[::2] *= -1
    worst = 0.0
    for r in matrices:
        moved = function(*(x @ o3.Irreps(i).D_from_matrix(r).T for x, i in zip(inputs, irreps_in, strict=True)))
        expected = function(*inputs) @ o3.Irreps(irreps_out).D_from_matrix(r).T
        worst = max(worst, float((moved - expected).abs().max() / expected.abs().max()))
    return worst


class TestSoftTensorProduct:
    def test_hard_full_product_is_equivariant_and_soft_is_not(self):
        x1, x2 = torch.randn(6, 13, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
        hard = SoftTensorProduct(ONE, TWO, WANTED, constraint="hard").double()
        assert turned(hard, [ONE, TWO], hard.irreps_out, x1, x2) < 1e-9
        soft = SoftTensorProduct(ONE, TWO, WANTED).double()
        assert 1e-6 < turned(soft, [ONE, TWO], soft.irreps_out, x1, x2) < 0.05
        none = SoftTensorProduct(ONE, TWO, WANTED, constraint="none").double()
        assert turned(none, [ONE, TWO], none.irreps_out, x1, x2) > 0.1

    def test_channelwise_with_weights_from_outside(self):
        hard = SoftTensorProduct(
            ONE, TWO, WANTED, kind="channelwise", constraint="hard", external_weights=True
        ).double()
        x1, x2 = torch.randn(6, 13, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
        weight = torch.randn(6, hard.weight_numel, dtype=torch.float64)
        assert list(hard.parameters()) == []
        assert turned(lambda a, b: hard(a, b, weight), [ONE, TWO], hard.irreps_out, x1, x2) < 1e-9
        # 0e (4 channels) with 0e, 1o, 2e and 1o (3 channels) with them: every block keeps its channels.
        assert {copies for copies, _ in hard.irreps_out} == {4, 3}

    def test_the_sum_of_the_pathways(self):
        soft = SoftTensorProduct(ONE, TWO, WANTED)
        x1, x2 = torch.randn(2, 13), torch.randn(2, 9)
        pairs = soft.pathways["residual"]
        dense = torch.zeros(soft.irreps_out.dim, 13, 9)
        for r, (i, j) in enumerate(
            zip(*(pairs.constants.exact[name].tolist() for name in ("first", "second")), strict=True)
        ):
            dense[:, i, j] += pairs.weight.detach()[:, r]
        expected = soft.pathways["equivariant"](x1, x2) + torch.einsum("oij,bi,bj->bo", dense, x1, x2)
        torch.testing.assert_close(soft(x1, x2), expected)

    def test_every_coordinate_of_both_inputs_is_met(self):
        pairs = SoftTensorProduct(ONE, TWO, WANTED).pathways["residual"]
        assert set(pairs.constants.exact["first"].tolist()) == set(range(13))
        assert set(pairs.constants.exact["second"].tolist()) == set(range(9))

    def test_contract(self):
        soft = SoftTensorProduct(ONE, TWO, WANTED)
        x1, x2 = torch.randn(2, 13), torch.randn(2, 9)
        torch.testing.assert_close(fold(nn.ModuleDict({"a": soft}))["a"](x1, x2), soft(x1, x2))
        torch.testing.assert_close(harden(soft)(x1, x2), soft.pathways["equivariant"](x1, x2))
        torch.testing.assert_close(copy.deepcopy(soft)(x1, x2), soft(x1, x2))
        expected = 0.5 * sum(p.square().sum() for p in soft.pathways["equivariant"].parameters())
        expected = expected + 2 * soft.pathways["residual"].weight.square().sum()
        torch.testing.assert_close(prior_penalty(soft, Prior(equivariant=1.0, residual=4.0)), expected)

    def test_bad_input(self):
        with pytest.raises(SofteqValueError, match="kind"):
            SoftTensorProduct(ONE, TWO, WANTED, kind="half")
        with pytest.raises(SofteqValueError, match="rank"):
            SoftTensorProduct(ONE, TWO, WANTED, rank=0)
        for kind in ("full", "channelwise"):
            with pytest.raises(SofteqValueError, match="no map but zero"):
                SoftTensorProduct("1x0e", "1x0e", "1x1o", kind=kind, constraint="hard")
        soft = SoftTensorProduct(ONE, TWO, WANTED)
        with pytest.raises(SofteqValueError, match="x2: expected shape"):
            soft(torch.randn(2, 13), torch.randn(2, 8))
        with pytest.raises(SofteqValueError, match="weight: expected none"):
            soft(torch.randn(2, 13), torch.randn(2, 9), torch.randn(2, 4))
        outside = SoftTensorProduct(ONE, TWO, WANTED, external_weights=True)
        with pytest.raises(SofteqValueError, match="got none"):
            outside(torch.randn(2, 13), torch.randn(2, 9))
        with pytest.raises(SofteqValueError, match=r"weight: expected shape \(..., \d+\), or .* got \(2, 4\)"):
            outside(torch.randn(2, 13), torch.randn(2, 9), torch.randn(2, 4))
        with pytest.raises(SofteqTypeError, match="weight: expected real floating-point numbers"):
            outside(torch.randn(2, 13), torch.randn(2, 9), torch.ones(outside.weight_numel, dtype=torch.long))

    @pytest.mark.parametrize("kind", ["full", "channelwise"])
    def test_what_no_product_reaches_comes_from_the_residual(self, kind):
        x1, x2 = torch.randn(2, 4, 2).unbind()
        for constraint in ("soft", "none"):
            layer = SoftTensorProduct("2x0e", "2x0e", "3x1o", kind=kind, constraint=constraint)
            y = layer(x1, x2)
            assert (y.shape, layer.irreps_out, layer.weight_numel) == ((4, 9), o3.Irreps("3x1o"), 0)
            torch.testing.assert_close(y, layer.pathways["residual"](x1, x2))
            assert y.norm() > 1e-6
        soft = SoftTensorProduct("2x0e", "2x0e", "3x1o", kind=kind)
        with pytest.raises(SofteqValueError, match="no map but zero"):
            harden(soft)
        torch.testing.assert_close(fold(soft)(x1, x2), soft(x1, x2))
        partly = SoftTensorProduct("2x0e", "2x0e", "0e + 1o", kind="full")
        assert not harden(partly)(x1, x2)[:, 1:].any()
        assert partly(x1, x2)[:, 1:].any()

    def test_weights_for_all_samples_are_those_for_each(self):
        layer = SoftTensorProduct(ONE, TWO, WANTED, external_weights=True)
        x1, x2, weight = torch.randn(5, 13), torch.randn(5, 9), torch.randn(layer.weight_numel)
        torch.testing.assert_close(layer(x1, x2, weight), layer(x1, x2, weight.expand(5, -1)))
        theirs = o3.FullyConnectedTensorProduct(ONE, TWO, WANTED, internal_weights=False, shared_weights=False)
        own = torch.randn(5, layer.weight_numel)
        torch.testing.assert_close(harden(layer)(x1, x2, own), theirs(x1, x2, own), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_from_when_the_product_was_e3nns_own_module_loads():
    """It has the module's constants beside the weight."""
    layer = SoftTensorProduct("2x0e + 1o", "0e + 1o", "2x0e + 1o + 1e", constraint="hard")
    theirs = o3.FullyConnectedTensorProduct(layer.irreps_in1, layer.irreps_in2, layer.irreps_out)
    saved = {f"pathways.equivariant.module.{name}": value for name, value in theirs.state_dict().items()}
    assert len(saved) > 1
    layer.load_state_dict(saved)
    x1, x2 = torch.randn(4, 5), torch.randn(4, 4)
    torch.testing.assert_close(layer(x1, x2), theirs(x1, x2), atol=1e-5, rtol=1e-5)
