"""The error of finite motions over how far they go: what the Lie derivative, its slope at 0, says little about.

A network may answer wildly to a hundredth of a pixel and hardly more to a whole one. So beside the local equivariance
error stands ||flow_out(f(flow_in(x, t)), -t) - f(x)|| over t. Between the pixels the declared stencil interpolates, the
same whose derivative the Lie derivative takes; shifts by whole pixels and turns by right angles are exact. Of an output
that moves along, only what is in the frame before and after is compared: what left it is nobody's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.checks import check_integer
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import repeated
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.forward.state import unchanged
from softeq.measure.lee import check_set, local_equivariance_error
from softeq.measure.lie_derivative import checked
from softeq.measure.motion.actions import Action
from softeq.measure.motion.flows import AffineFlow, Flow
from softeq.measure.motion.grids import GridFlow
from softeq.measure.output import Output, output_space
from softeq.measure.results.curve import DisplacementCurve
from softeq.measure.results.decisions import Decisions, decisions_of, joined_decisions, stacked
from softeq.measure.results.result import LeeResult
from softeq.measure.results.spread import Spread, joined
from softeq.measure.settings import Settings, resolve

_PIXELS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)  # then doubling, to a quarter of the image
_DEGREES = (0.1, 0.5, 1.0, 3.0, 10.0, 30.0, 45.0, 90.0, 135.0)  # to both sides, and 180
_FACTORS = (1.01, 1.03, 1.1, 1.25, 1.5, 2.0)  # and their inverses
_LINEAR = (0.01, 0.03, 0.1, 0.2, 0.4)  # to both sides


def default_displacements(flow: Flow, x_shape: Sequence[int]) -> list[float]:
    """Where a curve is sampled, in the flow's unit, ascending.

    Shifts from .02 pixels to a quarter of the axis; turns from -135 to 180 degrees; scale from .5 to 2 (t is the
    logarithm of the factor); other motions of images from -.4 to .4.

    Raises:
        SofteqValueError: of a flow of no such kind; say displacements.
    """
    matrix = flow.matrix
    if matrix is not None and bool((matrix + matrix.mT).abs().max() < 1e-9) and bool((matrix != 0).any()):
        angles = [math.radians(a) / float(matrix.abs().max()) for a in _DEGREES]
        return sorted([*(-a for a in angles), *angles, math.pi / float(matrix.abs().max())])
    if not flow.axes:
        raise SofteqValueError(f"displacements: expected some, in {flow.unit}; {flow.name} says nothing of its range")
    if flow.unit in ("pixels", "samples", "voxels"):
        quarter = min(x_shape[axis] for axis in _moving_axes(flow)) / 4
        doubled = [2.0**k for k in range(1, 20) if 2.0**k < quarter]
        return sorted({*(p for p in _PIXELS if p < quarter), *doubled, quarter})
    if matrix is not None and torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
        return sorted([*(-math.log(f) for f in _FACTORS), *(math.log(f) for f in _FACTORS)])
    return sorted([*(-t for t in _LINEAR), *_LINEAR])


def _moving_axes(flow: Flow) -> tuple[int, ...]:
    """The grid's axes along which a shift goes; x is the last of them."""
    shift = getattr(flow, "shift", None)
    if shift is None:
        return flow.axes
    return tuple(axis for axis, along in zip(reversed(flow.axes), shift.tolist(), strict=True) if along) or flow.axes


def displacement_curve(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flow: str | Flow,
    displacements: Sequence[float] | None = None,
    *,
    output: str | Action = "probabilities",
    norm: str = "mean_square",
    stencil: str | None = "bspline",
    boundary: str = "mirror",
    margin: int = 0,
    labels: Tensor | None = None,
    slope: LeeResult | bool = True,
    seed: int = 0,
    batch_size: int | None = None,
    level: float = 0.95,
) -> DisplacementCurve:
    """Errors and decisions under finite motions along one flow.

    It costs one forward pass per displacement and one more, and without a `slope` of yours one forward-mode pass. An
    audit that has its LeeResult of the same images passes it: ``displacement_curve(f, x, "rotation", slope=result)``.

    Args:
        f: a module (measured in evaluation mode, left as it was) or any callable that treats samples apart.
        x: (B, ...), as the flow needs it; floating and finite.
        flow: a name of FLOWS or a flow.
        displacements: t in the flow's unit (rotation: radians), not 0; None: `default_displacements`.
        output, norm, stencil, boundary, margin, seed, batch_size, level: see `local_equivariance_error`.
        labels: (B,) class indices, negative where there is none: then the share of the cross-entropy that the motion
            costs is told too.
        slope: the local equivariance error of the same f and x along this flow (perhaps among others); True: measured
            here; False: none.

    Returns:
        A DisplacementCurve; see `mean`, `agreement`, `tangent`, `loss_share`, `to_dict`, `str`.

    Raises:
        NotMeasurable: f returns no finite batch, or couples its samples; no sample moves.
        SofteqValueError, SofteqTypeError: bad options or inputs.
    """
    check_set(x, norm, level, labels)
    x = checked(x)
    settings, space = resolve(flow, stencil, boundary, margin), output_space(output)
    if len(settings.flows) != 1:
        raise SofteqValueError(f"flow: expected one, got {', '.join(settings.names)}")
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    times = _checked_times(displacements, settings.flows[0], x)
    with unchanged(f):
        with repeated(f, space.read) as once:
            walk = _Walk(f, once, settings, space, times)
            values, compared, decisions = walk.over(x, labels, batch_size or len(x))
        found, reason = _slope(slope, f, x, settings, output, norm, seed, batch_size)
    kept: Any = {"values": values, "compared": compared, "decisions": decisions, "slope": found, "no_slope": reason}
    return DisplacementCurve(**walk.declared(x), **kept, norm=norm, level=level, seed=seed)


def _checked_times(displacements: Sequence[float] | None, flow: Flow, x: Tensor) -> list[float]:
    if displacements is None:
        return default_displacements(flow, x.shape)
    times = torch.as_tensor(displacements, dtype=torch.float64)
    if times.ndim != 1 or not len(times) or not bool(times.isfinite().all()) or not bool(times.all()):
        raise SofteqValueError(
            f"displacements: expected a sequence of finite numbers other than 0, got {displacements!r}"
        )
    return sorted(set(times.tolist()))


def _slope(
    slope: Any,
    f: Any,
    x: Tensor,
    settings: Settings,
    output: str | Action,
    norm: str,
    seed: int,
    batch_size: int | None,
) -> tuple[LeeResult | None, str | None]:
    """The local equivariance error, or why there is none."""
    flow = settings.flows[0]
    if isinstance(slope, LeeResult):
        if flow.name not in slope.flows or len(slope) != len(x):
            raise SofteqValueError(
                f"slope: expected a result along {flow.name} of {len(x)} samples, "
                f"got one along {', '.join(slope.flows)} of {len(slope)}"
            )
        return slope, None
    if not isinstance(slope, bool):
        raise SofteqTypeError(f"slope: expected a LeeResult, True or False, got {type(slope).__name__}")
    if not slope:
        return None, None
    try:
        options: dict[str, Any] = {"output": output, "norm": norm, "seed": seed, "batch_size": batch_size}
        return local_equivariance_error(f, x, flow, stencil=None, control=False, **options), None
    except NotMeasurable as error:
        return None, str(error)


@dataclass(frozen=True)
class _Piece:
    values: dict[str, Tensor]  # norm -> (S, B)
    spread: Spread
    places: list[Tensor | None]  # per motion the output's entries that are compared, (dim,) bool
    decisions: Decisions | None


@dataclass(frozen=True)
class _Walk:
    """One function under one flow's motions."""

    f: Callable[[Tensor], Any]
    once: Callable[[Tensor], Tensor]  # f, made ready and read
    settings: Settings
    space: Output
    times: Sequence[float]

    @property
    def flow(self) -> Flow:
        """The flow of the input."""
        return self.settings.flows[0]

    def exact(self, x: Tensor) -> tuple[bool, ...]:
        """Per motion, whether nothing is interpolated."""
        flow = self.flow
        grid = [x.shape[axis] for axis in flow.axes]
        return tuple(isinstance(flow, AffineFlow | GridFlow) and flow.exact(t, *grid) for t in self.times)

    def declared(self, x: Tensor) -> dict[str, Any]:
        """The attributes of the curve that say what was done."""
        return {
            "flow": self.flow.name,
            "unit": self.flow.unit,
            "displacements": torch.tensor(self.times, dtype=torch.float64),
            "exact": self.exact(x),
            "output": self.space.name,
            "stencil": self.settings.stencil,
            "boundary": self.settings.boundary,
            "margin": self.settings.margin,
        }

    def over(self, x: Tensor, labels: Tensor | None, size: int) -> tuple[dict[str, Tensor], Tensor, Decisions | None]:
        """Norms (S, B), the share of the output that was compared (S,), and decisions, `size` samples at once."""
        parts = [None] * -(-len(x) // size) if labels is None else labels.split(size)
        pieces = [
            self.piece(part, own, check=k == 0) for k, (part, own) in enumerate(zip(x.split(size), parts, strict=True))
        ]
        values = {name: torch.cat([piece.values[name] for piece in pieces], 1) for name in pieces[0].values}
        if bool(values["mean_square"].isnan().all()):
            raise NotMeasurable("x: the flow moves none of the samples (blank images?), so they say nothing about f")
        spread, places = joined(piece.spread for piece in pieces), pieces[0].places
        variances = [math.nan if spread is None else spread.variance(one) for one in places]
        values["centred"] = values["mean_square"] / torch.tensor(variances, dtype=torch.float64)[:, None]
        compared = [1.0 if one is None else float(one.double().mean()) for one in places]
        return (
            values,
            torch.tensor(compared, dtype=torch.float64),
            joined_decisions([piece.decisions for piece in pieces]),
        )

    def piece(self, x: Tensor, labels: Tensor | None, *, check: bool) -> _Piece:
        """One batch under every motion; with `check`, also whether f treats samples apart."""
        value = self.read(x.clone())
        if check:
            check_separate(self.f, x, value, self.space.read)
        back = self.space.action.flow(self.flow, tuple(x.shape), tuple(value.shape))
        still, before = self.still(x), value.double().reshape(len(value), -1)
        rows, places, decided = [], [], []
        for t in self.times:
            after = self.read(self.flow(x, t))
            moved = back(after, -t).double().reshape(len(value), -1)
            places.append(_places(back, value, t))
            rows.append(_norms(before, moved, places[-1], still))
            decided.append(decisions_of(self.space.name, value, after, labels, still))
        values = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return _Piece(values, Spread.of(before), places, stacked(decided))

    def read(self, x: Tensor) -> Tensor:
        """The output space of f(x)."""
        found = self.once(x)
        check_batch(found, len(x))
        if not found.is_floating_point() or not bool(found.isfinite().all()):
            raise NotMeasurable(f"output: expected finite floating numbers, got {found.dtype} with NaN or infinity")
        return found

    def still(self, x: Tensor) -> Tensor:
        """(B,) bool: samples that the flow does not move."""
        still = (self.flow.tangent(x) == 0).flatten(1).all(1)
        if self.settings.images:
            still |= self.settings.still(x, self.settings.coefficients())[:, 0].to(still.device)
        return still


def _places(flow: Flow, value: Tensor, t: float) -> Tensor | None:
    """Which entries of the output (dim,) are still in the frame after the motion; None: all."""
    stays = flow.stays(value, t)
    if stays is None or bool(stays.all()):
        return None
    if not bool(stays.any()):
        raise NotMeasurable(
            f"displacements: after a motion of {t:.4g} {flow.unit} nothing of the map is left in the frame"
        )
    return stays.expand(value.shape[1:]).flatten()


def _norms(before: Tensor, after: Tensor, places: Tensor | None, still: Tensor) -> dict[str, Tensor]:
    """Norms (B,) of the difference of (B, dim) outputs over some of their entries; NaN where `still`."""
    if places is not None:
        before, after = before[:, places], after[:, places]
    squares = (after - before).square()
    size = before.square().sum(1)
    norms = {
        "mean_square": squares.mean(1),
        "mean_abs": (after - before).abs().mean(1),
        "relative": torch.where(size > 0, squares.sum(1) / size, torch.nan),
    }
    return {name: value.masked_fill(still, torch.nan).cpu() for name, value in norms.items()}
