import pytest
import torch

from softeq import T, equivariant_projector
from softeq.experiments.engine.bookkeeping import generator_for
from softeq.experiments.phenomena import evidence
from softeq.groups import O, O2eR3


def test_the_three_subspaces_are_orthogonal_and_fill_the_maps():
    hard, axis, rest = evidence.spaces()
    assert (len(hard), len(hard) + len(axis) + len(rest)) == (3, 81)
    whole = torch.cat([hard, axis, rest]).flatten(1)
    assert torch.allclose(whole @ whole.T, torch.eye(81, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("kind", ["axis", "free"])
def test_the_truth_breaks_what_it_says(kind):
    weight = evidence.truth({"size": 0.5, "kind": kind}, generator_for(0, 1))
    for group, kept in ((O(3), False), (O2eR3(), kind == "axis")):
        rep = T(2)(group)
        left = (weight - equivariant_projector(rep, rep)(weight)).norm() / weight.norm()
        assert (left < 1e-9) == kept
    assert weight.norm() == pytest.approx(3 * 1.25**0.5)


def test_the_numbers_of_a_run_say_what_the_maps_do():
    """Where the symmetry holds, soft is near hard; where it is broken, hard cannot be right."""
    found = {}
    for arm in ("hard", "soft", "none"):
        config = evidence.configure("smoke", arm, 0)
        found[arm] = evidence.run(config, lambda done, total: None)
    assert found["soft"]["evidence@0-16"] > found["none"]["evidence@0-16"] + 20
    assert abs(found["soft"]["evidence@0-16"] - found["hard"]["evidence@0-16"]) < 3
    assert found["hard"]["excess@.3-16"] > 0.08
    assert found["soft"]["excess@.3-16"] < found["hard"]["excess@.3-16"]
    assert found["hard"]["noise@0-16"] == pytest.approx(0.1, rel=0.2)
