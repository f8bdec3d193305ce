"""Checks for tests, ours and users' own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.reps import Rep, check_same_group

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}
"""The relative error up to which a computation in this dtype counts as exact. Written once, here."""


def equivariance_errors(
    function: Callable[[Tensor], Tensor],
    rep_in: Rep,
    rep_out: Rep,
    *,
    samples: int = 16,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Tensor:
    """``||f(rho_in(g) x) - rho_out(g) f(x)|| / ||f||`` for random x and g, ``(samples,)``.

    ``||f||`` is the larger of the two norms; where both are zero the error is zero. Group elements and inputs (standard
    normal) come from ``seed``; the group acts in float64 on the CPU and ``function`` sees ``dtype`` on ``device``.

    Raises:
        SofteqValueError: reps of different groups, or outputs of another shape or with NaN or inf.
    """
    group = check_same_group(rep_in, rep_out)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, rep_in.size, generator=generator, dtype=torch.float64)
    g = group.sample(samples, generator)
    moved = torch.einsum("nij,nj->ni", rep_in.rho(g), x)
    with torch.no_grad():
        f_x, f_moved = (function(z.to(device, dtype)).double().cpu() for z in (x, moved))
    for f in (f_x, f_moved):
        if f.shape != (samples, rep_out.size):
            raise SofteqValueError(f"function: expected outputs of shape (n, {rep_out.size}), got {tuple(f.shape)}")
        if not torch.isfinite(f).all():
            raise SofteqValueError("function: expected finite outputs, got NaN or inf; equivariance cannot be measured")
    expected = torch.einsum("nij,nj->ni", rep_out.rho(g), f_x)
    size = torch.maximum(expected.norm(dim=1), f_moved.norm(dim=1))
    difference = (f_moved - expected).norm(dim=1)
    return torch.where(size > 0, difference / size.clamp_min(1e-300), 0.0)


def assert_equivariant(
    function: Callable[[Tensor], Tensor],
    rep_in: Rep,
    rep_out: Rep,
    *,
    samples: int = 16,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Raises unless ``function`` (``(n, in)`` to ``(n, out)``) is equivariant on random inputs and group elements.

    A function that is zero everywhere passes: zero is equivariant. Test that your outputs are not.

    Args:
        function: a module or any callable; a module is tested on its own device and in its own dtype.
        rep_in, rep_out: how inputs and outputs move, bound to one group.
        samples: how many pairs of an input and a group element.
        dtype: of the inputs; ``None`` takes the module's, float64 for a callable without parameters.
        tolerance: on the relative error; ``None`` takes ``TOLERANCES[dtype]``.
        seed: of the inputs and elements.

    Raises:
        AssertionError: the largest relative error is above the tolerance; the message names it.
    """
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
    device = parameters[0].device if parameters else torch.device("cpu")
    if dtype is None:
        dtype = parameters[0].dtype if parameters else torch.float64
    if tolerance is None:
        if dtype not in TOLERANCES:
            raise SofteqValueError(f"dtype: expected one of {sorted(map(str, TOLERANCES))}, got {dtype}")
        tolerance = TOLERANCES[dtype]
    errors = equivariance_errors(function, rep_in, rep_out, samples=samples, dtype=dtype, device=device, seed=seed)
    worst = float(errors.max())
    if not worst <= tolerance:
        raise AssertionError(
            f"not equivariant under {rep_in.group}: relative error up to {worst:.2e} over {samples} random elements, "
            f"tolerance {tolerance:.0e} for {dtype}"
        )
