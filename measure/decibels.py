"""EQ-T and EQ-R: how well a map follows shifts and turns, in decibels (Karras et al., "Alias-Free GANs", NeurIPS 2021).

    EQ = 10 log10( I_max^2 / E (T f(x) - f(T x))^2 ),

the mean over samples, motions, channels and the pixels whose content both images hold; I_max is the range of the
output. Published for generators with outputs in [-1, 1] (I_max = 2): EQ-T over whole-pixel shifts of up to an eighth of
the image to each side, EQ-T_frac over any such shift, EQ-R over turns by any angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.checks import check_integer
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.forward.state import unchanged
from softeq.measure.lie_derivative import checked
from softeq.measure.motion.actions import Action
from softeq.measure.motion.flows import FLOWS, AffineFlow
from softeq.measure.motion.stencils import check_choice
from softeq.measure.results.statistics import bootstrap_interval

KINDS = ("EQ-T", "EQ-T_frac", "EQ-R")
_REACH = 1 / 8  # of the image, to each side


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class Decibels:
    """What `equivariance_decibels` found.

    Attributes:
        kind: one of KINDS.
        value: in decibels; infinite where nothing differs.
        interval: its bootstrap interval over samples.
        peak: I_max.
        errors: (B,) float64, mean squared error per sample.
    """

    kind: str
    value: float
    interval: tuple[float, float]
    peak: float
    errors: Tensor

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.kind} {self.value:.1f} dB [{low:.1f}, {high:.1f}], range {self.peak:.3g}"


def equivariance_decibels(
    f: Callable[[Tensor], Any],
    x: Tensor,
    kind: str,
    action: Action,
    *,
    peak: float | None = None,
    draws: int = 8,
    stencil: str = "bspline",
    boundary: str = "mirror",
    seed: int = 0,
    level: float = 0.95,
) -> Decibels:
    """EQ-T, EQ-T_frac or EQ-R of a network from images to maps (or to whatever `action` moves).

    Args:
        f: a module (left as it was) or any callable that treats samples apart.
        x: (B, C, H, W), floating and finite.
        kind: one of KINDS.
        action: how the output moves: ImageMap(), or Invariant() for outputs that should not.
        peak: I_max; None: the range of f(x) over the set. Generators of [-1, 1] published 2.
        draws: motions, the same for all samples; each costs a forward pass.
        stencil, boundary: between the pixels, and beyond the edge; pixels that come from there are left out of maps.
        seed, level: of the motions and the interval.

    Raises:
        NotMeasurable: the output does not move so, is not finite, is constant, or no pixel stays in the frame.
        SofteqValueError, SofteqTypeError: bad options or input.
    """
    if kind not in KINDS:
        raise SofteqValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(action, Action):
        raise SofteqTypeError(f"action: expected an Action, e.g. ImageMap(), got {type(action).__name__}")
    check_integer("draws", draws, 1)
    check_integer("seed", seed, 0, 2**63 - 1)
    check_choice(stencil, boundary)
    x = checked(x)
    motions = [
        (flow.with_(stencil=stencil, boundary=boundary), t)
        for flow, t in _motions(kind, FLOWS["rotation"].images(x).shape, draws, seed)
    ]

    def read(z: Tensor) -> Tensor:
        with measurable(f, fused=True), torch.no_grad():
            found = action.select(f(z))
        check_batch(found, len(z))
        if not found.is_floating_point() or not bool(found.isfinite().all()):
            raise NotMeasurable(f"output: expected finite floating numbers, got {found.dtype} with NaN or infinity")
        return found

    with unchanged(f):
        value = read(x.clone())
        check_separate(f, x, value, action.select)
        rows = [_squares(read, x, value, action, flow, t) for flow, t in motions]
    errors = torch.stack(rows).mean(0)
    top = float(value.max() - value.min()) if peak is None else float(peak)
    if not (top > 0 and math.isfinite(top)):
        raise NotMeasurable(f"peak: expected a positive range of the output, got {top}")
    low, high = bootstrap_interval(errors, level, seed=seed)
    ends = (_decibels(top, high), _decibels(top, low))
    return Decibels(kind, _decibels(top, float(errors.mean())), ends, top, errors)


def _motions(kind: str, shape: torch.Size, draws: int, seed: int) -> list[tuple[AffineFlow, float]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(draws, 2, generator=generator, dtype=torch.float64) * 2 - 1).tolist()
    if kind == "EQ-R":
        return [(FLOWS["rotation"], math.pi * u) for u, _ in drawn]
    found = []
    for u, v in drawn:
        shift = torch.tensor([u * _REACH * shape[-1], v * _REACH * shape[-2]], dtype=torch.float64)
        shift = shift if kind == "EQ-T_frac" else shift.round()
        found.append((AffineFlow("translation", "image shifts", torch.zeros(2, 2), shift), 1.0))
    return found


def _squares(
    read: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, action: Action, flow: AffineFlow, t: float
) -> Tensor:
    """(B,): mean square of T f(x) - f(T x) over the pixels that both hold."""
    outer = action.flow(flow, tuple(x.shape), tuple(value.shape))
    squares = (outer(value, t).double() - read(flow(x, t)).double()).square()
    if not isinstance(outer, AffineFlow):
        return squares.reshape(len(x), -1).mean(1)
    squares = outer.images(squares)
    valid = outer.within(t, *squares.shape[-2:]).to(squares.device)
    if not bool(valid.any()):
        raise NotMeasurable(f"{flow.name}: no pixel of the map stays in the frame; measure larger maps")
    return squares[..., valid].mean((1, 2))


def _decibels(peak: float, error: float) -> float:
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error) if math.isfinite(error) else math.nan
