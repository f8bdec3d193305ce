"""From configurations to tasks and networks."""

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.data.inertia import inertia_data
from softeq.experiments.physics import problems

from .tiny_configs import tiny


@pytest.mark.parametrize("name", ["inertia", "misspecified-inertia", "spring-pendulum"])
def test_matched_networks_have_the_soft_ones_parameters(name):
    counts = {}
    for variant in ("soft", "none-matched", "hard-matched"):
        model = problems.build_model(tiny(name, variant))
        counts[variant] = sum(p.numel() for p in model.parameters())
    assert counts["none-matched"] == pytest.approx(counts["soft"], rel=0.05)
    assert counts["hard-matched"] == pytest.approx(counts["soft"], rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("key", problems.WIDTHS)
def test_the_widths_that_are_written_down_are_those_that_match(key):
    group, channels, layers = key
    kind = "pendulum" if group == "O2eR3" else "inertia"
    for constraint, width in problems.WIDTHS[key].items():
        assert problems._matched(kind, group, constraint, channels, layers) == width


def test_a_seed_is_another_network():
    first, again, other = (problems.build_model(tiny("inertia", "soft", seed=s)) for s in (0, 0, 1))
    names = [name for name, p in first.named_parameters() if p.numel() > 9 and float(p.detach().std()) > 0]
    for name in names:
        assert torch.equal(first.get_parameter(name), again.get_parameter(name))
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name)), name


def test_all_variants_of_a_seed_share_their_data():
    tasks = [problems.build_task(tiny("modified-inertia", v, seed=2)) for v in ("hard", "none", "hard+cause")]
    for task in tasks:
        assert torch.equal(task.data.x_test, tasks[0].data.x_test)
        assert torch.equal(task.data.y_test, inertia_data(2, modified=True, sizes=(60, 20, 40)).y_test)


def test_misspecified_inertia_has_the_data_of_inertia():
    right, wrong = (problems.build_task(tiny(name, "none")) for name in ("inertia", "misspecified-inertia"))
    assert torch.equal(right.data.y_train, wrong.data.y_train)
    assert [task.rep_in.bound_group.name for task in (right, wrong)] == ["O(3)", "SL(3)"]


@pytest.mark.parametrize("name", ["spring-pendulum", "windy-pendulum"])
def test_the_pendulums_truth_is_its_data(name):
    task = problems.build_task(tiny(name, "none"))
    truth = task.truth(task.data.x_test.double()).float()
    torch.testing.assert_close(truth, task.data.y_test, atol=1e-3, rtol=0)


def test_a_network_told_of_the_cause_is_equivariant_to_both_together():
    model = problems.build_model(tiny("modified-inertia", "hard+cause") | {"dtype": "float64"})
    task = problems.build_task(tiny("modified-inertia", "hard+cause") | {"dtype": "float64"})
    rep_in, rep_out = problems.representations("inertia", "O(3)")
    g = rep_in.bound_group.sample(1, generator=torch.Generator().manual_seed(0))[0]
    x = task.data.x_test[:5]
    before = model(x) @ rep_out.rho(g).T
    model.cause = tuple((g @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).tolist())
    torch.testing.assert_close(model(x @ rep_in.rho(g).T), before)


def test_the_projected_network_starts_as_the_other_form():
    config = tiny("inertia", "soft-projected") | {"dtype": "float64"}
    x = problems.build_task(config).data.x_test[:5]
    both = problems.build_model(tiny("inertia", "soft") | {"dtype": "float64"})
    torch.testing.assert_close(problems.build_model(config)(x), both(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "heat"}, "kind: expected inertia or pendulum, got 'heat'"),
        ({"group": "SU(2)"}, r"group: expected matrices of space, 3 x 3, got SU\(2\), of 4 x 4"),
        ({"group": "O3"}, r"named..O3..: there is no 'O3'"),
    ],
)
def test_unknown_problem_or_group(change, message):
    config = tiny("inertia", "none")
    config["data"] |= change
    with pytest.raises(SofteqValueError, match=message):
        problems.build_task(config)


def test_unknown_network():
    config = tiny("inertia", "none")
    config["network"]["kind"] = "tree"
    with pytest.raises(SofteqValueError, match="expected mlp or emlp, got 'tree'"):
        problems.build_model(config)
