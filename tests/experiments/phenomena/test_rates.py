"""rates: growing rates give the functions of a decay to rounding, also with a decay per pathway, and not otherwise."""

import pytest
import torch

from softeq.experiments.engine import record
from softeq.experiments.phenomena.rates import NormalisedNetwork, configure, decayed, gap, grown, is_residual, run

RATE, STEPS = 0.1, 8


def network(constraint):
    torch.manual_seed(0)
    return NormalisedNetwork(2, constraint, classes=4).double()


def batches():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, 12, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (STEPS, 12), generator=generator)
    return list(zip(x, y, strict=True))


def decays_of(model, equivariant, residual):
    return {name: residual if is_residual(name) else equivariant for name, _ in model.named_parameters()}


def largest_gap(model, ones, others):
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return max(gap(model, a, b, x) for a, b in zip(ones, others, strict=True))


@pytest.mark.parametrize("constraint", ["hard", "soft", "none"])
def test_the_network_does_not_see_the_size_of_a_layers_weights(constraint):
    model, x = network(constraint), batches()[0][0]
    before = model(x)
    with torch.no_grad():
        for k, layer in enumerate((model.hidden, model.last)):
            for p in layer.parameters():
                p.mul_(3.0 + k)
    torch.testing.assert_close(model(x), before)


def test_a_hard_network_is_invariant_under_quarter_turns_and_a_free_one_is_not():
    x = batches()[0][0]
    torch.testing.assert_close(network("hard")(x.rot90(1, (-2, -1))), network("hard")(x))
    assert (network("none")(x.rot90(1, (-2, -1))) - network("none")(x)).abs().max() > 0.1


@pytest.mark.parametrize("constraint", ["hard", "soft", "none"])
def test_one_decay_is_a_growing_rate_to_rounding(constraint):
    model = network(constraint)
    decays = decays_of(model, 0.3, 0.3)
    steps = decayed(model, RATE, decays, batches()), grown(model, RATE, decays, batches())
    assert largest_gap(model, *steps) < 1e-11


def test_two_decays_are_two_growing_rates_and_a_gate_and_not_without_it():
    model = network("soft")
    decays = decays_of(model, 0.1, 1.0)
    assert largest_gap(model, decayed(model, RATE, decays, batches()), grown(model, RATE, decays, batches())) < 1e-11
    ungated = grown(model, RATE, decays, batches(), gated=False)
    assert largest_gap(model, decayed(model, RATE, decays, batches()), ungated) > 1e-3


def test_a_decay_that_nothing_replaces_is_another_training():
    model = network("soft")
    decays = decays_of(model, 0.3, 0.3)
    plain = decayed(model, RATE, dict.fromkeys(decays, 0.0), batches())
    assert largest_gap(model, decayed(model, RATE, decays, batches()), plain) > 1e-3


def test_the_decayed_step_is_that_of_torch():
    model = network("soft")
    (x, y), before = batches()[0], {name: p.detach().clone() for name, p in model.named_parameters()}
    after = next(decayed(model, RATE, decays_of(model, 0.3, 0.3), batches()))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=0.3)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert not torch.equal(before[name], p)
        torch.testing.assert_close(after[name], p.detach())


def test_a_run_records_gaps_accuracies_and_defects():
    pytest.importorskip("sklearn")
    config = configure("smoke", "soft-10", 0)
    config["training"]["steps"] = 3
    found = run(config, lambda done, total: None)
    assert record.decode(record.encode(found)) == found
    assert found["gap_grown@rotated"] < 1e-12 < found["gap_ungated@rotated"]
    assert 0 < found["weight_defect_mean@rotated"] < 1
