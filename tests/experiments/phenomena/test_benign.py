import pytest
import torch

from softeq.experiments.phenomena import benign


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_as_many_labels_as_asked_for_are_drawn_anew():
    y = torch.full((1000,), 3)
    drawn = benign.noisy_labels(y, 0.4, 10, seeded())
    assert (drawn != 3).sum() == pytest.approx(360, abs=25)  # a tenth of 400 draws is the old label
    assert torch.equal(benign.noisy_labels(y, 0.0, 10, seeded()), y)


def test_prior_variances_of_the_merged_weight():
    prior = {"equivariant": 0.1, "residual": 2.0}
    assert benign.prior_variances("hard", prior) == (10.0, 0.0)
    assert benign.prior_variances("soft", prior) == (10.5, 0.5)
    assert benign.prior_variances("none", prior) == (0.5, 0.5)


def test_the_invariant_kernel_is_invariant_and_the_rest_orthogonal_to_it():
    a, b = (torch.randn(n, 2, generator=seeded(n), dtype=torch.float64) for n in (5, 7))
    quarter = torch.stack([-a[:, 1], a[:, 0]], 1)
    assert torch.allclose(benign.invariant_kernel(a, b), benign.invariant_kernel(quarter, b))
    for arm in benign.ARMS:
        _, rest = benign._parts(arm, 0.1, a, b)
        turns = [a, quarter, -a, -quarter]
        assert torch.allclose(sum(benign._parts(arm, 0.1, one, b)[1] for one in turns), torch.zeros(5, 7).double())
    inside, rest = benign._parts("none", 0.1, a, b)
    assert torch.allclose(inside + rest, benign.kernel(a, b))
    assert torch.allclose(benign.truth(a), benign.truth(quarter))


def test_the_processes_interpolate():
    """At the samples themselves the interpolant is the noisy value, so that its error there is the noise's variance."""
    config = benign.configure("smoke", "soft", 0)
    found = benign.process(config, 0.4)
    assert 0 < found["gp_residual_share"] < 1
    assert benign.process({**config, "arm": "hard"}, 0.4)["gp_residual_share"] == 0
    assert "gp_residual_share" not in benign.process(config, 0.0)
    quiet, loud = (benign.process(config, q)["gp_error"] for q in (0.0, 3.0))
    assert loud > quiet
