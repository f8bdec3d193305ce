"""The pendulum's energy, its motion, its symmetry, and how trajectories are cut."""

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.data.pendulum import (
    WIND,
    Sampling,
    chunk_times,
    energy,
    initial_states,
    pendulum_data,
    simulate,
    trajectories,
    velocity,
)
from softeq.groups import SO, O2eR3
from softeq.models.hamiltonian import integrate
from softeq.reps import Vector

SMALL = Sampling(systems=40, duration=6.0)


def states(n=6, seed=0):
    return initial_states(n, torch.Generator().manual_seed(seed))


def moved(z, group, seed=1):
    g = group.sample(len(z), generator=torch.Generator().manual_seed(seed))
    return torch.einsum("bij,bj->bi", (4 * Vector)(group).rho(g), z)


def test_energy_is_the_stated_sum():
    x1, x2 = torch.tensor([0.0, 3.0, -4.0]), torch.tensor([0.0, 3.0, -6.0])
    p1, p2 = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 1.0, 0.0])
    z = torch.cat([x1, x2, p1, p2])
    # kinetic 9/2 + 1/2; springs (5 - 1)^2 / 2 and (2 - 1)^2; gravity -10; wind 0.05 * 6.
    assert energy(z).item() == pytest.approx(5 + 8 + 1 - 10)
    assert energy(z, WIND).item() == pytest.approx(4 + 0.05 * 6)


@pytest.mark.parametrize("wind", [(0.0, 0.0, 0.0), WIND, (0.1, -0.2, 0.3)])
def test_velocity_is_the_symplectic_gradient_of_the_energy(wind):
    z, h = states(), 1e-5
    steps = h * torch.eye(12, dtype=torch.float64)
    gradient = (energy(z[:, None] + steps, wind) - energy(z[:, None] - steps, wind)) / (2 * h)
    expected = torch.cat([gradient[:, 6:], -gradient[:, :6]], dim=-1)
    torch.testing.assert_close(velocity(z, wind), expected, atol=1e-8, rtol=1e-8)


def test_energy_is_invariant_about_z_in_still_air():
    z = states(50)
    torch.testing.assert_close(energy(moved(z, O2eR3())), energy(z))


def test_wind_breaks_the_invariance_about_z():
    z = states(50)
    assert (energy(moved(z, O2eR3()), WIND) - energy(z, WIND)).abs().max() > 0.01


def test_gravity_breaks_the_other_rotations():
    z = states(50)
    assert (energy(moved(z, SO(3))) - energy(z)).abs().max() > 1.0


@pytest.mark.parametrize("wind", [(0.0, 0.0, 0.0), WIND])
def test_accurate_integration_conserves_energy(wind):
    z0 = states(8)
    path = simulate(z0, torch.linspace(0, 10, 11), wind=wind, rtol=1e-10)
    assert path.shape == (11, 8, 12)
    drift = (energy(path, wind) - energy(z0, wind)).abs() / energy(z0, wind).abs()
    assert drift.max() < 1e-6


def test_published_tolerance_is_good_for_a_chunk_and_no_better_than_it_says():
    z0, times = states(50), torch.arange(5) * 0.2
    error = (simulate(z0, times, rtol=1e-4) - simulate(z0, times, rtol=1e-10)).square().mean()
    assert 1e-16 < error < 1e-6


def test_fixed_steps_of_the_networks_are_far_below_their_errors():
    z0, times = states(200), chunk_times(Sampling())
    exact = simulate(z0, times, rtol=1e-10)
    # Networks reach 1e-3 to 1e-4 in the same units.
    assert (integrate(velocity, z0, times, step=0.2) - exact).square().mean() < 1e-7


def test_initial_states_hang_under_each_other():
    z = states(20000)
    mean, std = z.mean(0), z.std(0)
    expected = torch.zeros(12, dtype=torch.float64)
    expected[2], expected[5] = -1.5, -3.0
    torch.testing.assert_close(mean, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.2] * 6 + [0.4] * 6).double(), atol=0.02, rtol=0)


def test_chunks_are_pieces_of_the_trajectories_of_their_own_systems():
    chunks = trajectories(5, SMALL)
    assert chunks.shape == (40, 5, 12)
    full = simulate(initial_states(40, torch.Generator().manual_seed(5)), torch.arange(30) * 0.2)
    starts = full[::5]
    gap = (starts - chunks[:, 0]).abs().amax(-1)
    assert (gap.min(0).values < 1e-12).all()
    assert len(gap.argmin(0).unique()) > 1


def test_data_start_at_their_inputs_and_follow_the_motion():
    data = pendulum_data(0, wind=WIND, sizes=(20, 10, 5), sampling=SMALL, dtype=torch.float64)
    assert data.y_train.shape == (20, 5, 12)
    assert torch.equal(data.y_train[:, 0], data.x_train)
    again = simulate(data.x_test, chunk_times(SMALL), wind=WIND, rtol=1e-10).transpose(0, 1)
    torch.testing.assert_close(again, data.y_test, atol=1e-3, rtol=0)


def test_no_system_is_in_two_splits_and_the_seed_decides():
    data = pendulum_data(0, sizes=(20, 10, 10), sampling=SMALL)
    rows = torch.cat([data.x_train, data.x_validation, data.x_test])
    assert len(torch.unique(rows, dim=0)) == 40
    assert rows.dtype == torch.float32
    assert not torch.equal(data.x_train, pendulum_data(1, sizes=(20, 10, 10), sampling=SMALL).x_train)


def test_published_sampling_is_the_default():
    assert Sampling() == Sampling(systems=5000, duration=30.0, dt=0.2, chunk=5, rtol=1e-4)
    assert Sampling().chunks == 30


@pytest.mark.parametrize(
    "arguments", [{"systems": 0}, {"chunk": 1}, {"dt": 0.0}, {"rtol": -1.0}, {"duration": 0.5}, {"dt": float("nan")}]
)
def test_sampling_refuses(arguments):
    with pytest.raises(SofteqValueError, match="expected"):
        Sampling(**arguments)


def test_more_systems_than_there_are():
    with pytest.raises(SofteqValueError, match="at most 40"):
        pendulum_data(0, sizes=(20, 20, 1), sampling=SMALL)


def test_wrong_number_of_coordinates():
    with pytest.raises(SofteqValueError, match=r"\(\.\.\., 12\)"):
        energy(torch.zeros(3, 6))
