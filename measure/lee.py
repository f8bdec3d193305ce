"""Local equivariance error: the expected size of the Lie derivative, per sample, flow and norm, beside a control.

LEE = E_x ||L f(x)||^2 / dim (Gruver, Finzi, Goldblum, Wilson, ICLR 2023, Eq. 4). A small number alone does not make a
model equivariant: a flat one has a small derivative in every direction. So each is measured beside the answer to other
directions as long as the flow's own tangent; see measure.controls and LeeResult.ratio_to_control.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.checks import check_integer
from softeq.measure.controls import CONTROLS, DRAWS, Controls, control_kinds
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.state import unchanged
from softeq.measure.measurement import Measurement, Piece
from softeq.measure.motion.actions import Action
from softeq.measure.motion.flows import FLOWS
from softeq.measure.output import Output, output_space
from softeq.measure.results.classes import joined_changes
from softeq.measure.results.result import NORMS, LeeResult, concatenate, with_centred
from softeq.measure.results.spread import joined
from softeq.measure.settings import FlowChoice, Settings, resolve

__all__ = ["CONTROLS", "NORMS", "LeeResult", "assert_lee", "concatenate", "local_equivariance_error"]

RATIO = "ratio_to_control"


def local_equivariance_error(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flows: FlowChoice = FLOWS,
    *,
    output: str | Action = "probabilities",
    norm: str = "mean_square",
    stencil: str | None = "bspline",
    boundary: str = "mirror",
    margin: int = 0,
    control: bool | str = True,
    draws: int = DRAWS,
    labels: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    chunk: int | None = None,
    level: float = 0.95,
) -> LeeResult:
    """Local equivariance error of `f` on the batch `x`, per sample and flow, in all norms.

    Args:
        f: a module (measured in evaluation mode, left as it was) or any callable; it must treat samples apart, which
            is checked on the first of a batch of several.
        x: (B, C, H, W) images, or whatever the flows move; floating and finite.
        flows: names, flows or a mapping, all in one pass through f. Affine flows of images come from six generators;
            flows of other kinds (colour, time, volumes, groups) may stand beside them.
        output: "probabilities" (softmax of (B, K) logits) or "logits", both invariant; or an Action of the raw output.
        norm: the one that the result's methods use unless told another; all of NORMS are kept.
        stencil: of the images' derivatives (measure.stencils); None: each flow keeps its stencil, boundary and margin.
        boundary, margin: "mirror" or "periodic"; pixels at the edge that do not move, nor take part in the control.
        control: also measure the answer to other directions as long as the flow's tangent: one of CONTROLS (see
            measure.controls); True: "samples", "phase" of a single sample, "noise" for flows on no grid (colours,
            points, vectors); False: none.
        draws: directions per sample and kind of flow (shifts, motions about the centre, any other flow is its own).
            Nine affine flows cost one pass over the value, six over generators and two per draw.
        labels: (B,) class indices, negative where there is none: then `result.classes` tells the change of the true
            class's probability too.
        seed: of the bootstrap, and of the control, drawn sample by sample: batching does not change it.
        batch_size: samples at once (None: all).
        chunk: tangents at once (None: all); fewer need less memory and more time.
        level: coverage of the intervals, in (0, 1).

    Returns: a sample that its flow does not move (a blank image), or at which f answers to nothing, is NaN.

    Raises:
        NotMeasurable: f is constant, or NaN, or of an undeclared output, or no sample moves, or it couples the samples
            of a batch, or has no derivative (the message names the operation), or there is no such control.
        SofteqValueError, SofteqTypeError: bad options or inputs.
    """
    check_set(x, norm, level, labels)
    _check_counts(seed, batch_size=batch_size, chunk=chunk, draws=draws)
    settings, space = resolve(flows, stencil, boundary, margin), output_space(output)
    controls = _controls(control, draws, settings, x, seed)
    measurement = Measurement(f, space, settings, controls, chunk, torch.Generator().manual_seed(seed))
    with unchanged(f):
        pieces = _pieces(measurement, x, labels, batch_size or len(x))
        _refuse_nothing(pieces, f, x, space)
    return with_centred(_gathered(pieces, measurement, x, norm=norm, level=level, seed=seed))


def _check_counts(seed: int, **counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None:
            check_integer(name, value, 1)
    check_integer("seed", seed, 0, 2**63 - 1)


def _controls(control: bool | str, draws: int, settings: Settings, x: Tensor, seed: int) -> Controls | None:
    kinds = control_kinds(control, settings.flows, len(x))
    return Controls.of(kinds, draws, settings, x, torch.Generator().manual_seed(seed)) if kinds else None


def _pieces(measurement: Measurement, x: Tensor, labels: Tensor | None, size: int) -> list[Piece]:
    """The shares of the batches of `size` samples."""
    return [
        measurement.of(x[start : start + size], start, None if labels is None else labels[start : start + size])
        for start in range(0, len(x), size)
    ]


def _gathered(pieces: list[Piece], measurement: Measurement, x: Tensor, **told: Any) -> LeeResult:
    """The result of the whole set `x`, but for "centred"; `told` are attributes that no piece says."""
    settings, controls = measurement.settings, measurement.controls
    grams = [p.gram for p in pieces if p.gram is not None]
    drawn = [p.control for p in pieces if p.control is not None]
    per_draw = {name: torch.cat([found[name] for found in drawn], 1) for name in drawn[0]} if drawn else None
    return LeeResult(
        flows=settings.names,
        units=tuple(flow.unit for flow in settings.flows),
        output=measurement.space.name,
        stencil=settings.stencil,
        boundary=settings.boundary,
        margin=settings.margin,
        values={name: torch.cat([piece.values[name] for piece in pieces]) for name in pieces[0].values},
        control=None if per_draw is None else {name: drawn.nanmean(0) for name, drawn in per_draw.items()},
        gram=torch.cat(grams) if grams else None,
        image_size=settings.image_size(x),
        control_kind=None if controls is None else controls.name,
        draws=0 if controls is None else controls.draws,
        control_spread=None if per_draw is None else {name: _spread(drawn) for name, drawn in per_draw.items()},
        spread=joined(piece.spread for piece in pieces),
        classes=joined_changes([piece.classes for piece in pieces]),
        **told,
    )


def _spread(drawn: Tensor) -> Tensor:
    """Standard deviation over the draws, (B, n_flows); NaN for a single one."""
    return drawn.std(0) if len(drawn) > 1 else torch.full_like(drawn[0], torch.nan)


def check_set(x: Tensor, norm: str, level: float, labels: Tensor | None) -> None:
    """Raises SofteqValueError or SofteqTypeError for a bad set, norm, level, or labels."""
    if norm not in NORMS:
        raise SofteqValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    if not 0 < level < 1:
        raise SofteqValueError(f"level: expected a number between 0 and 1, got {level}")
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) == 0:
        came = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise SofteqValueError(f"x: expected a batch (B, ...) of at least one sample, got {came}")
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise SofteqTypeError(f"labels: expected a tensor of whole numbers, got {kind}")
    if labels.shape != (len(x),):
        raise SofteqValueError(f"labels: expected one per sample, ({len(x)},), got {tuple(labels.shape)}")


def _refuse_nothing(pieces: list[Piece], f: Callable[[Tensor], Any], x: Tensor, space: Output) -> None:
    still, dead = torch.cat([p.still for p in pieces]), torch.cat([p.dead for p in pieces])
    if bool(still.all()):
        raise NotMeasurable("x: no flow moves any of the samples (blank images?), so they say nothing about f")
    if not bool(dead.all()):
        return
    with measurable(f), torch.no_grad():
        sample = x[:1].detach().clone()
        jump = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)).to(sample)
        answers = not torch.equal(space.read(f(sample)), space.read(f(x[:1].detach() + jump)))
    if answers:
        raise NotMeasurable(
            "f: its derivative is exactly 0 although it answers to large changes of its input: its values are steps "
            "(rounded, compared, chosen by argmax), or saturated there; measure what comes before them"
        )
    raise NotMeasurable(
        "f: it answers to no change of its input, not even to noise; a constant says nothing of symmetry. "
        "If it is saturated, measure output='logits'"
    )


def assert_lee(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flows: FlowChoice,
    tolerance: float,
    *,
    norm: str = "relative",
    **options: Any,
) -> None:
    """Check that the mean local equivariance error along each flow is at most `tolerance`; for use in tests.

    Args:
        f, x, flows, options: see local_equivariance_error.
        tolerance: positive, in units of the norm.
        norm: one of NORMS; or "ratio_to_control", the mean_square error over the control's (see measure.controls),
            which a model that is merely flat does not pass.

    Raises:
        AssertionError: naming the flows that exceed it, their errors and the tolerance.
        NotMeasurable: some sample could not be measured, so that nothing is asserted of it.
        SofteqValueError: bad options.
    """
    if not tolerance > 0:
        raise SofteqValueError(f"tolerance: expected a positive number, got {tolerance}")
    result = local_equivariance_error(f, x, flows, norm="mean_square" if norm == RATIO else norm, **options)
    samples = result.ratio_to_control() if norm == RATIO else result.per_sample()
    missing = samples.isnan().sum(0).tolist()
    if any(missing):
        listed = ", ".join(f"{name}: {n}" for name, n in zip(result.flows, missing, strict=True) if n)
        raise NotMeasurable(f"assert_lee: samples without a value ({listed} of {len(result)}); leave blank images out")
    means = dict(zip(result.flows, samples.mean(0).tolist(), strict=True))
    failed = [f"{name} {value:.3g}" for name, value in means.items() if value > tolerance]
    if failed:
        raise AssertionError(
            f"local equivariance error ({norm}, {result.output}) above the tolerance {tolerance:.3g}: "
            + ", ".join(failed)
        )
