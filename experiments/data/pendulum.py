"""A double pendulum on springs, in still air or in wind.

Problem of Finzi, Welling, Wilson (ICML 2021), windy version of Finzi, Benton, Wilson (NeurIPS 2021). A state is
z = (x1, x2, p1, p2), four vectors, 12 numbers. Masses, lengths, spring constants and gravity are 1, without units:

    H = (|p1|^2 + |p2|^2) / 2 + (|x1| - 1)^2 / 2 + (|x1 - x2| - 1)^2 + x1_z + x2_z + (x1 + x2) . wind

The second spring has no factor 1/2, as in the published code. In still air H is invariant under the rotations about the
z axis and the reflections that keep it (O(2)); wind breaks that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data.regression import Regression, split

SIZE = 12
WIND = (0.08, 0.05, 0.0)
"""The published wind, 0.01 (8, 5, 0)."""
STILL = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Sampling:
    """How trajectories are drawn and cut; the defaults are the published ones.

    Args:
        systems: initial states drawn, each followed for ``duration``.
        duration: of a trajectory.
        dt: between two recorded states.
        chunk: consecutive states of one sample. A trajectory is cut into disjoint chunks and one of them is kept.
        rtol: relative tolerance of the adaptive Dormand-Prince integration; absolute 1e-5 of it. The whole batch
            shares its steps.
    """

    systems: int = 5000
    duration: float = 30.0
    dt: float = 0.2
    chunk: int = 5
    rtol: float = 1e-4

    def __post_init__(self) -> None:
        if self.systems < 1 or self.chunk < 2:
            raise SofteqValueError(f"expected systems >= 1 and chunk >= 2, got {self.systems} and {self.chunk}")
        if not (self.dt > 0 and self.rtol > 0 and self.duration >= self.chunk * self.dt * (1 - 1e-9)):
            raise SofteqValueError(
                f"expected dt > 0, rtol > 0 and a duration of at least one chunk ({self.chunk} x {self.dt}),"
                f" got dt = {self.dt}, rtol = {self.rtol}, duration = {self.duration}"
            )

    @property
    def chunks(self) -> int:
        """Disjoint chunks in one trajectory."""
        return round(self.duration / self.dt) // self.chunk


def energy(z: Tensor, wind: tuple[float, float, float] = STILL) -> Tensor:
    """The Hamiltonian: ``(..., 12)`` to ``(...)``."""
    x1, x2, p1, p2 = _vectors(z)
    kinetic = ((p1**2).sum(-1) + (p2**2).sum(-1)) / 2
    springs = (x1.norm(dim=-1) - 1) ** 2 / 2 + ((x1 - x2).norm(dim=-1) - 1) ** 2
    return kinetic + springs + ((x1 + x2) * _force(z, wind)).sum(-1)


def velocity(z: Tensor, wind: tuple[float, float, float] = STILL) -> Tensor:
    """The motion dz/dt = (dH/dp, -dH/dx): ``(..., 12)`` to ``(..., 12)``; NaN where a spring has length 0."""
    x1, x2, p1, p2 = _vectors(z)
    between = x1 - x2
    first = (1 - 1 / x1.norm(dim=-1, keepdim=True)) * x1
    second = 2 * (1 - 1 / between.norm(dim=-1, keepdim=True)) * between
    force = _force(z, wind)
    return torch.cat([p1, p2, -(first + second + force), second - force], dim=-1)


def initial_states(n: int, generator: torch.Generator) -> Tensor:
    """``(n, 12)`` in float64: both masses hanging, displaced by 0.2 N(0, 1) per coordinate, momenta 0.4 N(0, 1)."""
    z = torch.randn(n, SIZE, generator=generator, dtype=torch.float64)
    z[:, :6] *= 0.2
    z[:, 6:] *= 0.4
    z[:, 2] -= 1.5
    z[:, 5] -= 3.0
    return z


def simulate(z0: Tensor, times: Tensor, *, wind: tuple[float, float, float] = STILL, rtol: float = 1e-4) -> Tensor:
    """Follow the true motion: ``(n, 12)`` at ``times[0]`` to ``(T, n, 12)`` at ``times``, in the dtype of ``z0``.

    Raises:
        MissingExtraError: torchdiffeq is not installed.
    """
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise MissingExtraError("the pendulum needs torchdiffeq: pip install 'softeq[experiments]'") from error
    with torch.no_grad():
        return odeint(lambda t, z: velocity(z, wind), z0, times.to(z0), rtol=rtol, atol=1e-5 * rtol, method="dopri5")


def chunk_times(sampling: Sampling) -> Tensor:
    """The times of the states of one sample, from 0: ``(chunk,)`` in float64."""
    return torch.arange(sampling.chunk, dtype=torch.float64) * sampling.dt


def trajectories(seed: int, sampling: Sampling, wind: tuple[float, float, float] = STILL) -> Tensor:
    """One chunk of each system's trajectory, at a random place: ``(systems, chunk, 12)`` in float64.

    The default, 5000 systems for 30 time units, runs as one batch: 150 states in memory (72 MB).

    Raises:
        SofteqValueError: for a negative seed.
    """
    if seed < 0:
        raise SofteqValueError(f"seed: expected 0 or more, got {seed}")
    generator = torch.Generator().manual_seed(seed)
    z0 = initial_states(sampling.systems, generator)
    which = torch.randint(sampling.chunks, (sampling.systems,), generator=generator)
    times = torch.arange(sampling.chunks * sampling.chunk, dtype=torch.float64) * sampling.dt
    states = simulate(z0, times, wind=wind, rtol=sampling.rtol)
    cut = states.unflatten(0, (sampling.chunks, sampling.chunk))
    return cut[which, :, torch.arange(sampling.systems)]


def pendulum_data(
    seed: int,
    *,
    wind: tuple[float, float, float] = STILL,
    sizes: tuple[int, int, int] = (500, 500, 500),
    sampling: Sampling | None = None,
    dtype: torch.dtype | None = None,
) -> Regression:
    """The data of one repetition: inputs are the first states of chunks, targets the whole chunks, ``(N, chunk, 12)``.

    The first target equals the input, and counts in the error as in the published code.

    Args:
        seed: of the generator, 0 or more.
        wind: the force per mass that the wind adds to H.
        sizes: systems for training, validation and testing; no system is in two splits.
        sampling: how the trajectories are drawn.
        dtype: of the result (float32 by default); integrated in float64.

    Raises:
        SofteqValueError: for sizes that ask for more systems than there are.
    """
    states = trajectories(seed, sampling or Sampling(), wind)
    return split(states[:, 0], states, sizes).to(dtype=dtype or torch.float32)


def _vectors(z: Tensor) -> tuple[Tensor, ...]:
    if z.shape[-1:] != (SIZE,):
        raise SofteqValueError(f"z: expected shape (..., {SIZE}), two positions and two momenta, got {tuple(z.shape)}")
    return z.split(3, dim=-1)


def _force(z: Tensor, wind: tuple[float, float, float]) -> Tensor:
    return z.new_tensor([wind[0], wind[1], wind[2] + 1.0])
