"""Every rule on a GPU: its generators are on the CPU, so that the numbers are those of a CPU."""

import io
import math

import pytest
import torch
from torch import nn

from softeq import groups
from softeq.strength import RULES, rule

from .test_rules_in_training import LABELS, OUT, REP, X, Y, network

pytestmark = pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")


def turn(generator):
    g = groups.SO(3).sample(1, generator)[0].double()
    return lambda x: x @ REP.rho(g).to(x).T, lambda y: y @ OUT.rho(g).to(y).T


class Run:
    """A network, its rule and its optimizer on a device."""

    def __init__(self, name, device, dtype=torch.float64, likelihood="gaussian", parametrization="pathways", **more):
        self.model = network(parametrization).to(device, dtype)
        self.x, self.y, self.likelihood = X.to(device, dtype), Y.to(device, dtype), likelihood
        self.labels = LABELS.to(device)
        held = {"held": lambda: self.loss(self.model(self.x[:8]), slice(0, 8))}
        options = {"annealed": {"steps": 12}, "remul": {"action": turn}, "validation": held}
        options["halving"] = held | {"steps": 24}
        # Eigenvectors of Kronecker factors have signs, and a draw of the noise has theirs.
        options["variational"] = {"curvature": "diagonal"}
        self.rule = rule(name, self.model, samples=24, likelihood=likelihood, record=2, **options.get(name, {}) | more)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)

    def loss(self, output, rows):
        if self.likelihood == "categorical":
            return nn.functional.cross_entropy(output, self.labels[rows])
        return nn.functional.mse_loss(output, self.y[rows].to(output.dtype))

    def steps(self, count, cast=False):
        for _ in range(count):
            start = 8 * (self.rule.steps % 3)
            rows = slice(start, start + 8)
            self.optimizer.zero_grad()
            with self.rule.perturbed(), torch.autocast(self.x.device.type, torch.bfloat16, enabled=cast):
                output = self.model(self.x[rows])
                loss = self.loss(output.to(self.y.dtype), rows)
            self.rule.backward(loss, output, target=self.y[rows])
            self.optimizer.step()
            self.rule.step(self.optimizer)
        return self

    @property
    def parameters(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).cpu()

    @property
    def precisions(self):
        return [path.precision for path in getattr(self.rule, "paths", [])]

    def checkpoint(self):
        kept = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "rule": self.rule}
        torch.save({name: part.state_dict() for name, part in parts.items()}, kept)
        return kept

    def resume(self, kept, place):
        kept.seek(0)
        state = torch.load(kept, map_location=place, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rule.load_state_dict(state["rule"])
        return self


def same(one, other, tolerance=1e-6):
    assert one.precisions == pytest.approx(other.precisions, rel=tolerance)
    torch.testing.assert_close(one.parameters, other.parameters, rtol=0, atol=tolerance)
    assert len(one.rule.history) == len(other.rule.history) > 0
    for row, wanted in zip(one.rule.history, other.rule.history, strict=True):
        assert row.keys() == wanted.keys()
        for key, value in row.items():
            assert value == (wanted[key] if isinstance(value, str) else pytest.approx(wanted[key], rel=1e-4, abs=1e-8))


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_what_it_gives_on_a_cpu(name, likelihood, device):
    one, other = (Run(name, place, likelihood=likelihood).steps(12) for place in (device, "cpu"))
    assert all(p.device.type == device for p in one.model.parameters())
    assert all(type(precision) is float for precision in one.precisions)
    same(one, other, 1e-5 if likelihood == "categorical" else 1e-6)  # probabilities of probes are in float32


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
@pytest.mark.parametrize("curvature", ["diagonal", "kfac", "trace"])
@pytest.mark.parametrize("name", ["variational", "mackay", "group-lasso"])
def test_curvatures(name, curvature, parametrization, device):
    form = {"curvature": curvature, "parametrization": parametrization}
    one, other = (Run(name, place, **form).steps(12) for place in (device, "cpu"))
    if (name, curvature) == ("variational", "kfac"):  # see `Run`
        assert all(math.isfinite(precision) and precision > 0 for precision in one.precisions)
    else:
        same(one, other)


@pytest.mark.parametrize("read_on", ["cpu", "same"])
@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_is_read_on_either_device(name, read_on, device):
    one = Run(name, device).steps(7)
    kept = one.checkpoint()
    one.steps(5)
    again = Run(name, device).resume(kept, device if read_on == "same" else "cpu").steps(5)
    same(again, one, 1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["halving", "variational"])
def test_a_fused_optimizer_that_counts_on_the_device_goes_on(name):
    def made():
        run = Run(name, "cuda")
        run.optimizer = torch.optim.Adam(run.model.parameters(), lr=1e-2, fused=True)
        return run

    one = made().steps(7)
    kept = one.checkpoint()
    one.steps(5)
    same(made().resume(kept, "cpu").steps(5), one, 1e-9)


@pytest.mark.parametrize("name", ["variational", "mackay", "group-lasso", "dual", "validation"])
def test_autocast_is_close(name, device):
    exact, cast = Run(name, device, torch.float32).steps(8), Run(name, device, torch.float32).steps(8, cast=True)
    assert all(p.dtype == torch.float32 for p in cast.model.parameters())
    # Adam moves a weight by at most its rate a step, and in another direction where a small gradient is rounded.
    torch.testing.assert_close(cast.parameters, exact.parameters, rtol=0.05, atol=0.05)
    for own, wanted in zip(cast.precisions, exact.precisions, strict=True):
        assert abs(math.log(own / wanted)) < 0.3
