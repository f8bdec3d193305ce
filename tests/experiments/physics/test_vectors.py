import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.physics.vectors import network_of, vector_domain
from softeq.experiments.training.arms import ARMS, Variant
from softeq.experiments.training.comparison import Size
from softeq.groups import O, SO2eR3
from softeq.models.dynamics import SoftEMLP
from softeq.models.mlp import MLP
from softeq.reps import Scalar, Vector

WIDTH = {"channels": 12, "layers": 1, "more": "of the domain's own"}
GROUPS = {"assumed": O(3), "true": SO2eR3()}
DOMAIN = vector_domain(lambda config, point: None, {k: (2 * Vector(g), Scalar(g)) for k, g in GROUPS.items()})
SIZE = Size(1, WIDTH, {}, {})


def built(arm, seed=0):
    network = DOMAIN.network(SIZE, Variant(ARMS[arm]))
    return DOMAIN.build({"network": network, "seed": seed, "device": "cpu", "dtype": "float64"}, None)


def test_networks_are_what_their_arms_say():
    assert network_of(ARMS["none"], WIDTH) == {"kind": "mlp", "channels": 12, "layers": 1}
    hard, soft = (network_of(ARMS[name], WIDTH) for name in ("hard", "soft"))
    assert (hard["kind"], hard["constraint"]) == ("emlp", "hard")
    assert soft == hard | {"constraint": "soft"}
    assert network_of(ARMS["soft-projected"], WIDTH) == soft | {"projected": True}
    assert network_of(ARMS["published+start"], WIDTH)["published"] == ["scale", "bilinear"]


@pytest.mark.parametrize(("arm", "which"), [("hard", "assumed"), ("hard-true", "true")])
def test_a_hard_network_is_invariant_under_the_group_of_its_arm(arm, which):
    model, x = built(arm), torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gap(group):
        g = (2 * Vector)(group).rho(group.sample(1, generator=torch.Generator().manual_seed(1))[0].double())
        return (model(x @ g.T) - model(x)).abs().max().item()

    assert isinstance(model, SoftEMLP)
    assert gap(GROUPS[which]) < 1e-8
    if which == "true":  # and of no larger one
        assert gap(GROUPS["assumed"]) > 1e-6


def test_a_network_comes_from_its_seed():
    first, again, other = (built("none", seed) for seed in (0, 0, 1))
    assert isinstance(first, MLP)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_arms_that_need_more_are_refused():
    for arm in ("hard-matched", "hard+cause"):
        with pytest.raises(SofteqValueError, match="needs a network of its own"):
            DOMAIN.network(SIZE, Variant(ARMS[arm]))
    alone = vector_domain(lambda config, point: None, {"assumed": (Vector(O(3)), Scalar(O(3)))})
    with pytest.raises(SofteqValueError, match="hard-true needs representations of the group that really holds"):
        alone.network(SIZE, Variant(ARMS["hard-true"]))
