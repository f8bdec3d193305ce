"""SoftO3ExternalLinear: e3nn's linear layer with weights from outside as a twin, and what the residual does."""

import pytest
import torch
from e3nn import o3

from softeq import SofteqTypeError, SofteqValueError, fold, harden
from softeq._irreps_external import SoftO3ExternalLinear

IN, OUT = "3x0e + 2x1o + 0o + 2x0e + 2e", "2x1o + 4x0e + 2e + 1e"


@pytest.mark.parametrize("shared", [False, True], ids=["for each sample", "for all samples"])
def test_hard_is_e3nn_s_with_the_same_weights(shared):
    theirs = o3.Linear(IN, OUT, internal_weights=False, shared_weights=shared)
    ours = SoftO3ExternalLinear(IN, OUT, constraint="hard", bias=False)
    assert ours.weight_numel == theirs.weight_numel
    assert list(ours.parameters()) == []
    x, weight = torch.randn(6, ours.irreps_in.dim), torch.randn(*(() if shared else (6,)), ours.weight_numel)
    torch.testing.assert_close(ours(x, weight), theirs(x, weight), atol=1e-5, rtol=1e-5)


def test_standard_normal_weights_give_unit_variance():
    ours = SoftO3ExternalLinear("16x0e + 16x1o", "8x0e + 8x1o", constraint="hard", bias=False)
    x, weight = torch.randn(500, ours.irreps_in.dim), torch.randn(500, ours.weight_numel)
    assert float(ours(x, weight).square().mean()) == pytest.approx(1, abs=0.1)


def test_the_residual_and_the_biases_are_the_layer_s_own_and_the_same_for_all_samples():
    soft = SoftO3ExternalLinear(IN, OUT)
    x = torch.randn(6, soft.irreps_in.dim)
    one, other = torch.randn(2, 6, soft.weight_numel).unbind()
    free = soft.pathways["residual"]
    rest = [soft(x, weight) - harden(soft)(x, weight) for weight in (one, other)]
    torch.testing.assert_close(rest[0], rest[1], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(rest[0], torch.nn.functional.linear(x, free.weight, free.bias), atol=1e-6, rtol=1e-4)
    zero = harden(soft)(x, torch.zeros(soft.weight_numel))
    assert torch.equal(zero, zero[:1].expand_as(zero))
    where = torch.zeros(soft.irreps_out.dim, dtype=torch.bool)
    where[6:10] = True  # the even scalars
    assert bool((zero[0] != 0)[where].all())
    assert not zero[0][~where].any()
    none = SoftO3ExternalLinear(IN, OUT, constraint="none")
    torch.testing.assert_close(none(x), fold(none)(x))


def test_wrong_weights_are_refused_by_name():
    soft = SoftO3ExternalLinear(IN, OUT)
    x = torch.randn(6, soft.irreps_in.dim)
    with pytest.raises(SofteqValueError, match=r"weight: expected shape \(..., 25\), or \(25,\) .*, got none"):
        soft(x)
    with pytest.raises(SofteqValueError, match=r"for all samples, got \(6, 24\)"):
        soft(x, torch.randn(6, 24))
    with pytest.raises(SofteqValueError, match="x: expected shape"):
        soft(x[:, 1:], torch.randn(6, 25))
    with pytest.raises(SofteqTypeError, match="weight: expected real floating-point numbers"):
        soft(x, torch.ones(25, dtype=torch.long))
    with pytest.raises(SofteqValueError, match="no map but zero"):
        SoftO3ExternalLinear("0e", "1o")
