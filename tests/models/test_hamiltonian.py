"""Hamiltonian networks and the fixed-step integrator."""

import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.models.hamiltonian import HNN, Trajectories, integrate
from softeq.models.mlp import MLP


class Oscillator(nn.Module):
    """H = (p^2 + k q^2) / 2 with a learnable k."""

    def __init__(self, k=4.0):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, z):
        q, p = z.chunk(2, -1)
        return (p**2 + self.k * q**2).sum(-1) / 2


def points(n=5, size=4, seed=0):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HNN(MLP(4, 1, channels=16, layers=2).double())


def test_field_is_the_symplectic_gradient():
    z = points()
    torch.testing.assert_close(HNN(Oscillator())(z), torch.cat([z[:, 2:], -4 * z[:, :2]], -1))


def test_energy_of_shape_b_and_b_1_give_the_same_field():
    class Column(Oscillator):
        def forward(self, z):
            return super().forward(z)[:, None]

    torch.testing.assert_close(HNN(Column())(points()), HNN(Oscillator())(points()))


def test_field_conserves_its_own_energy():
    model, z = network(), points()
    gradient = torch.func.jacrev(lambda x: model.hamiltonian(x).squeeze())
    rate = torch.stack([gradient(row) @ field for row, field in zip(z, model(z), strict=True)])
    torch.testing.assert_close(rate, torch.zeros_like(rate), atol=1e-12, rtol=0)


def test_parameters_get_the_right_gradient():
    model, z = HNN(Oscillator()), points()
    model(z).square().sum().backward()
    # d/dk sum (p^2 + k^2 q^2) = 2 k sum q^2
    torch.testing.assert_close(model.hamiltonian.k.grad, 8 * z[:, :2].square().sum())


def test_gradient_with_respect_to_the_state_passes_through():
    z = points(3).requires_grad_()
    assert torch.autograd.gradcheck(network(), (z,))


def test_without_gradients_it_still_works_and_keeps_no_graph():
    model, z = network(), points()
    with torch.no_grad():
        still = model(z)
    assert not still.requires_grad
    torch.testing.assert_close(still, model(z).detach())
    assert not z.requires_grad


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 3, 4)])
def test_shapes_that_are_no_phase_space(shape):
    with pytest.raises(SofteqValueError, match=r"\(B, 2n\)"):
        HNN(Oscillator())(torch.zeros(shape, dtype=torch.float64))


def test_more_than_one_energy():
    with pytest.raises(SofteqValueError, match=r"one energy per row.*\(5, 4\)"):
        HNN(nn.Identity())(points())


def test_integrates_the_oscillator():
    z0, times = points(size=2), torch.tensor([0.0, 0.3, 1.0, 2.5], dtype=torch.float64)
    path = integrate(HNN(Oscillator()), z0, times, step=0.01)
    w, q, p = 2.0, z0[:, 0], z0[:, 1]
    for t, state in zip(times.tolist(), path, strict=True):
        expected = torch.stack(
            [
                q * math.cos(w * t) + p / w * math.sin(w * t),
                p * math.cos(w * t) - w * q * math.sin(w * t),
            ],
            -1,
        )
        torch.testing.assert_close(state, expected, atol=1e-7, rtol=0)


def test_is_of_fourth_order():
    z0, times, field = points(size=2), torch.tensor([0.0, 1.0]), HNN(Oscillator())
    exact = integrate(field, z0, times, step=1e-3)
    coarse, fine = ((integrate(field, z0, times, step=h) - exact).abs().max() for h in (0.1, 0.05))
    assert 14 < coarse / fine < 18


def test_agrees_with_an_adaptive_solver():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    model, z0, times = network(), points(), torch.arange(5, dtype=torch.float64) * 0.2
    with torch.no_grad():
        expected = torchdiffeq.odeint(lambda t, z: model(z), z0, times, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(integrate(model, z0, times, step=0.05), expected, atol=1e-7, rtol=0)


def test_takes_as_few_steps_as_the_largest_step_allows():
    calls = 0

    def field(z):
        nonlocal calls
        calls += 1
        return -z

    times = torch.arange(5, dtype=torch.float64) * 0.2  # 0.6000000000000001 among them
    assert integrate(field, points(), times, step=0.2).shape == (5, 5, 4)
    assert calls == 16
    calls = 0
    integrate(field, points(), times, step=0.15)
    assert calls == 32


def test_trajectories_put_rows_first_and_train_the_field():
    times = torch.arange(3, dtype=torch.float64) * 0.2
    model = Trajectories(network(), times)
    z0 = points()
    out = model(z0)
    assert out.shape == (5, 3, 4)
    assert torch.equal(out[:, 0], z0)
    torch.testing.assert_close(out.transpose(0, 1), integrate(model.field, z0, times))
    out.square().sum().backward()
    # The last bias shifts the energy by a constant, which moves nothing.
    *inner, last_bias = model.parameters()
    assert all(p.grad.abs().max() > 0 for p in inner)
    assert last_bias.grad is None or last_bias.grad.abs().max() == 0


@pytest.mark.parametrize("times", [[0.0, 0.0], [1.0, 0.0], [[0.0, 1.0]], [], [0.0, float("nan")]])
def test_times_must_increase(times):
    with pytest.raises(SofteqValueError, match="times"):
        integrate(lambda z: z, points(), torch.tensor(times))


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_step_must_be_positive(step):
    with pytest.raises(SofteqValueError, match="step"):
        integrate(lambda z: z, points(), torch.tensor([0.0, 1.0]), step=step)
