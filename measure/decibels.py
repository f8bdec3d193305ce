"""EQ-T and EQ-R: how well a map follows shifts and turns, in decibels (Karras et al., "Alias-Free GANs", NeurIPS 2021).

    EQ = 10 log10( I_max^2 / E (T f(x) - f(T x))^2 ),

E over samples, motions, channels and the pixels that both sides hold, all pixels alike; I_max is the output's range. T
are the operators of the paper's Appendix E (measure.motion.alias_free), as its code has them: EQ-T over whole-pixel
shifts of up to an eighth of the image to each side, EQ-T_frac over any such shift, through a Lanczos kernel, EQ-R over
turns by any angle, through the filter that both grids can hold, of which f(T x) is given the loss of frequencies too.

Published for generators, whose input is no image and moves exactly, with outputs in [-1, 1] (I_max = 2), over 50,000
samples with a motion each. Here x moves by T too, beyond its edge as `boundary` says, and samples share the motions.
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
from softeq.measure.forward.prepare import repeated
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.lie_derivative import checked
from softeq.measure.motion.actions import Action
from softeq.measure.motion.alias_free import filtered, shift_valid, shifted, turn_valid, turned
from softeq.measure.motion.fields import FibreFlow, TokenFlow
from softeq.measure.motion.flows import FLOWS, AffineFlow, Flow
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
        errors: (B,) float64, mean squared error per sample, over all pixels of all motions.
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
    boundary: str = "mirror",
    seed: int = 0,
    level: float = 0.95,
    batch_size: int | None = None,
) -> Decibels:
    """EQ-T, EQ-T_frac or EQ-R of a network from images to maps (or to whatever `action` moves).

    Args:
        f: a module (left as it was) or any callable that treats samples apart.
        x: (B, C, H, W), floating and finite.
        kind: one of KINDS.
        action: how the output moves: ImageMap(), Tokens(...), or Invariant() for outputs that should not.
        peak: I_max; None: the range of f(x) over the set. Generators of [-1, 1] published 2.
        draws: motions, the same for all samples; each costs a forward pass.
        boundary: how x goes on beyond its edge; the output's pixels that come from there are left out.
        seed, level: of the motions and the interval.
        batch_size: samples at once; None: all.

    Raises:
        NotMeasurable: the output does not move so, is not finite, is constant, no pixel is left to compare, or no shift
            within an eighth is whole for both x and the map.
        SofteqValueError, SofteqTypeError: bad options or input.
    """
    _check(kind, action, draws, seed)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    check_choice("bspline", boundary)
    x = checked(x)
    FLOWS["rotation"].images(x)  # raises where it is no batch of images
    found, ends, motions = [], [], list[_Motion]()
    with repeated(f, action.select) as once:
        for part in x.split(batch_size or len(x)):
            value = _read(once, part.clone())
            if not motions:
                check_separate(f, part, value, action.select)
                motions = _motions(kind, part, value, action, draws, seed)
            ends += [float(value.min()), float(value.max())]
            found.append(_errors(once, part, value, action, motions, boundary))
    errors, top = torch.cat(found), max(ends) - min(ends) if peak is None else float(peak)
    if not (top > 0 and math.isfinite(top)):
        raise NotMeasurable(f"peak: expected a positive range of the output, got {top}")
    low, high = bootstrap_interval(errors, level, seed=seed)
    interval = (_decibels(top, high), _decibels(top, low))
    return Decibels(kind, _decibels(top, float(errors.mean())), interval, top, errors)


def _read(once: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What moves of f(x)."""
    found = once(x)
    check_batch(found, len(x))
    if not found.is_floating_point() or not bool(found.isfinite().all()):
        raise NotMeasurable(f"output: expected finite floating numbers, got {found.dtype} with NaN or infinity")
    return found


def _check(kind: str, action: Action, draws: int, seed: int) -> None:
    if kind not in KINDS:
        raise SofteqValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(action, Action):
        raise SofteqTypeError(f"action: expected an Action, e.g. ImageMap(), got {type(action).__name__}")
    check_integer("draws", draws, 1)
    check_integer("seed", seed, 0, 2**63 - 1)


@dataclass(frozen=True)
class _Motion:
    """One of the motions, of the input."""

    flow: AffineFlow
    t: float
    whole: bool

    def along(self, flow: AffineFlow) -> _Motion:
        """The same, of a map."""
        return _Motion(flow, self.t, self.whole)

    @property
    def turns(self) -> bool:
        return bool(self.flow.matrix.any())

    def of(self, images: Tensor, boundary: str) -> Tensor:
        """T images, (B, C, H, W)."""
        if self.turns:
            return turned(images, self.flow, self.t, boundary)
        columns, rows = (self.flow.shift * self.t).tolist()
        return shifted(images, columns, rows, boundary, whole=self.whole)

    def alike(self, images: Tensor) -> Tensor:
        """Images that moved before they came here, with the frequencies that `of` leaves."""
        return filtered(images, self.flow, self.t) if self.turns else images

    def valid(self, height: int, width: int) -> Tensor:
        """(H, W) bool: pixels that hold."""
        if self.turns:
            return turn_valid(self.flow, self.t, height, width)
        columns, rows = (self.flow.shift * self.t).tolist()
        return shift_valid(height, width, columns, rows, whole=self.whole)


def _motions(kind: str, x: Tensor, value: Tensor, action: Action, draws: int, seed: int) -> list[_Motion]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(draws, 2, generator=generator, dtype=torch.float64) * 2 - 1).tolist()
    if kind == "EQ-R":
        return [_Motion(FLOWS["rotation"], math.pi * u, whole=False) for u, _ in drawn]
    sizes = (x.shape[-1], x.shape[-2])
    steps = _steps(x, value, action) if kind == "EQ-T" else (0, 0)
    found = []
    for ends in drawn:
        reach = [u * _REACH * n for u, n in zip(ends, sizes, strict=True)]
        parts = [step * round(r / step) if step else r for r, step in zip(reach, steps, strict=True)]
        flow = AffineFlow("translation", "image shifts", torch.zeros(2, 2), torch.tensor(parts, dtype=torch.float64))
        found.append(_Motion(flow, 1.0, whole=bool(steps[0])))
    return found


def _steps(x: Tensor, value: Tensor, action: Action) -> tuple[int, int]:
    """The least shifts to the right and down, in pixels of x, that are whole for the output too."""
    found = []
    for axis, name in ((-1, "translation_x"), (-2, "translation_y")):
        base = _base(action.flow(FLOWS[name], tuple(x.shape), tuple(value.shape)))
        n = x.shape[axis]
        zoom = 1.0 if base is None else float(base.shift.abs().sum())
        step = n // math.gcd(n, round(n * zoom))
        if step > n * _REACH:
            raise NotMeasurable(
                f"EQ-T: no shift of up to an eighth of {n} pixels is whole for x and for the map; take EQ-T_frac"
            )
        found.append(step)
    return found[0], found[1]


def _base(flow: Flow) -> AffineFlow | None:
    """The motion of the places of a map; None of what is none."""
    base = flow.base if isinstance(flow, TokenFlow | FibreFlow) else flow
    return base if isinstance(base, AffineFlow) else None


def _errors(
    once: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    action: Action,
    motions: list[_Motion],
    boundary: str,
) -> Tensor:
    """(B,): mean square of T f(x) - f(T x) over the pixels of all motions."""
    total, count = torch.zeros(len(x), dtype=torch.float64), 0
    for motion in motions:
        outer = action.flow(motion.flow, tuple(x.shape), tuple(value.shape))
        after = _read(once, motion.of(x, boundary))
        base = _base(outer)
        if base is None:
            difference = (outer(value, motion.t).double() - after.double()).reshape(len(x), -1)
        else:
            difference = _difference(outer, base, motion.along(base), value, after, boundary)
        total += difference.square().sum(1).cpu()
        count += difference.shape[1]
    if not count:
        raise NotMeasurable("output: no pixel of the map is left to compare; measure larger maps")
    return total / count


def _difference(outer: Flow, base: AffineFlow, motion: _Motion, value: Tensor, after: Tensor, boundary: str) -> Tensor:
    """(B, pixels): T f(x) - f(T x), where both hold."""
    if isinstance(outer, FibreFlow):
        value = outer.on_channels(motion.t, value)
    if isinstance(outer, TokenFlow):
        value, after = outer.on_map(value), outer.on_map(after)
    before, after = (base.images(v).double() for v in (value, after))
    valid = motion.valid(*before.shape[-2:]).to(before.device)
    return (motion.of(before, boundary) - motion.alike(after))[..., valid].flatten(1)


def _decibels(top: float, error: float) -> float:
    return math.inf if error == 0 else 10 * math.log10(top**2 / error) if math.isfinite(error) else math.nan
