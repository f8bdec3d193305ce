"""Hamiltonian networks: a learned energy whose symplectic gradient is the motion.

Greydanus, Dzamba, Yosinski, "Hamiltonian Neural Networks" (NeurIPS 2019). The energy may be any module: a soft network,
a hard one, or an MLP, which is the unconstrained baseline of Finzi, Benton, Wilson (NeurIPS 2021).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.models.gradients import recordable, recording

Field = Callable[[Tensor], Tensor]
"""An autonomous vector field, ``(B, n)`` to ``(B, n)``."""


class HNN(nn.Module):
    """The vector field (dH/dp, -dH/dq) of a learned Hamiltonian H(q, p).

    Args:
        hamiltonian: maps ``(B, 2n)``, positions and then momenta, to one energy per row, ``(B,)`` or ``(B, 1)``.
    """

    def __init__(self, hamiltonian: nn.Module) -> None:
        super().__init__()
        self.hamiltonian = hamiltonian

    def forward(self, z: Tensor) -> Tensor:
        """``(B, 2n)`` to dz/dt, ``(B, 2n)``; differentiable where gradients are enabled, usable in any mode.

        Raises:
            SofteqValueError: for an odd number of coordinates, or a Hamiltonian with more than one value per row.
        """
        if z.ndim != 2 or z.shape[-1] % 2:
            raise SofteqValueError(f"z: expected shape (B, 2n), positions and momenta, got {tuple(z.shape)}")
        differentiable = torch.is_grad_enabled()
        with recording():
            z = recordable(z)
            point = z if z.requires_grad else z.detach().requires_grad_()
            energy = self.hamiltonian(point)
            if energy.numel() != len(z):
                raise SofteqValueError(
                    f"hamiltonian: expected one energy per row, ({len(z)},) or ({len(z)}, 1), got {tuple(energy.shape)}"
                )
            (gradient,) = torch.autograd.grad(energy.sum(), point, create_graph=differentiable)
        dq, dp = gradient.chunk(2, dim=-1)
        return torch.cat([dp, -dq], dim=-1)


class Trajectories(nn.Module):
    """Initial states to trajectories at fixed times: ``(B, 2n)`` to ``(B, T, 2n)``.

    Args:
        field: the vector field, e.g. an `HNN`.
        times: ``(T,)``, increasing, the initial state's time first.
        step: see `integrate`.
    """

    def __init__(self, field: nn.Module, times: Tensor, *, step: float = 0.2) -> None:
        super().__init__()
        self.field = field
        self.step = step
        self.times: tuple[float, ...] = tuple(_checked_times(times).tolist())

    def forward(self, z0: Tensor) -> Tensor:
        """``(B, 2n)`` to ``(B, T, 2n)``, the initial state included."""
        return integrate(self.field, z0, torch.tensor(self.times, dtype=torch.float64), step=self.step).transpose(0, 1)


def integrate(field: Field, z0: Tensor, times: Tensor, *, step: float = 0.2) -> Tensor:
    """Follow a vector field by the classical Runge-Kutta method of order four, with a fixed step.

    A fixed step costs the same at every call and makes the gradient exact for what is computed, which an adaptive
    solver's is not.

    Args:
        field: ``(B, n)`` to ``(B, n)``.
        z0: the state at ``times[0]``, ``(B, n)``.
        times: ``(T,)``, increasing; units of the problem.
        step: the largest step; each interval is cut into equal steps no longer than this.

    Returns:
        the states at ``times``, ``(T, B, n)``; the first is ``z0``.

    Raises:
        SofteqValueError: for times that do not increase, or a step that is not positive.
    """
    if not step > 0:
        raise SofteqValueError(f"step: expected a positive number, got {step}")
    instants = _checked_times(times).tolist()
    z, states = z0, [z0]
    for start, stop in itertools.pairwise(instants):
        # The tolerance keeps 0.6000000000000001 - 0.4 from costing a second step of length 0.2.
        count = max(1, math.ceil((stop - start) / step - 1e-6))
        h = (stop - start) / count
        for _ in range(count):
            z = _runge_kutta_step(field, z, h)
        states.append(z)
    return torch.stack(states)


def _runge_kutta_step(field: Field, z: Tensor, h: float) -> Tensor:
    k1 = field(z)
    k2 = field(z + (h / 2) * k1)
    k3 = field(z + (h / 2) * k2)
    k4 = field(z + h * k3)
    return z + (h / 6) * (k1 + 2 * (k2 + k3) + k4)


def _checked_times(times: Tensor) -> Tensor:
    if times.ndim != 1 or len(times) < 1 or not bool((times.diff() > 0).all()):
        raise SofteqValueError(f"times: expected shape (T,) with T >= 1 and increasing, got {times.tolist()}")
    return times
