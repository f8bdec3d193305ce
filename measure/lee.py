"""Local equivariance error: the expected size of the Lie derivative, per sample, flow and norm, beside a control.

LEE = E_x ||L f(x)||^2 / dim (Gruver, Finzi, Goldblum, Wilson, ICLR 2023, Eq. 4). A small number alone does not make a
model equivariant: a flat one has a small derivative in every direction. So each is measured beside the response to
white noise as long as the flow's own tangent; see LeeResult.ratio_to_control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.forward_mode import push_forward
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.forward.state import unchanged
from softeq.measure.lie_derivative import affine_derivatives, derivatives
from softeq.measure.motion.actions import Action
from softeq.measure.motion.flows import FLOWS
from softeq.measure.output import Output, output_space
from softeq.measure.results.result import NORMS, LeeResult, concatenate
from softeq.measure.settings import FlowChoice, Settings, resolve

__all__ = ["NORMS", "LeeResult", "assert_lee", "concatenate", "local_equivariance_error"]

RATIO = "ratio_to_control"


@dataclass(frozen=True)
class _Piece:
    """A batch's share of a LeeResult.

    Attributes:
        values, control, gram: as there.
        still: (B, n_flows), the flow does not move that sample.
        dead: (B,), f answers to nothing there.
    """

    values: dict[str, Tensor]
    control: dict[str, Tensor] | None
    gram: Tensor | None
    still: Tensor
    dead: Tensor


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
    control: bool = True,
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
        flows: names, flows or a mapping. Affine flows of images come from one pass over six generators.
        output: "probabilities" (softmax of (B, K) logits) or "logits", both invariant; or an Action of the raw output.
        norm: the one that the result's methods use unless told another; all of NORMS are kept.
        stencil: of the images' derivatives (measure.stencils); None: each flow keeps its stencil, boundary and margin.
        boundary, margin: "mirror" or "periodic"; pixels at the edge that do not move, nor take part in the control.
        control: also measure the response to one white-noise tangent per sample, as long as the flow's tangent.
        seed: of that noise, drawn sample by sample: batching does not change it; and of the bootstrap.
        batch_size: samples at once (None: all).
        chunk: tangents at once (None: all); fewer need less memory and more time.
        level: coverage of the intervals, in (0, 1).

    Returns: a sample that its flow does not move (a blank image), or at which f answers to nothing, is NaN.

    Raises:
        NotMeasurable: f is constant, or NaN, or of an undeclared output, or no sample moves.
        SofteqValueError, SofteqTypeError: bad options or inputs.
    """
    _check(x, norm, batch_size, level)
    settings, space = resolve(flows, stencil, boundary, margin), output_space(output)
    measurement = _Measurement(f, space, settings, control, chunk, torch.Generator().manual_seed(seed))
    with unchanged(f):
        pieces = [measurement.of(part, check=k == 0) for k, part in enumerate(torch.split(x, batch_size or len(x)))]
        _refuse_nothing(pieces, f, x, space)
    controls, grams = [p.control for p in pieces if p.control], [p.gram for p in pieces if p.gram is not None]
    return LeeResult(
        flows=settings.names,
        units=tuple(flow.unit for flow in settings.flows),
        norm=norm,
        output=space.name,
        stencil=settings.stencil,
        boundary=settings.boundary,
        margin=settings.margin,
        values={name: torch.cat([piece.values[name] for piece in pieces]) for name in NORMS},
        control={name: torch.cat([found[name] for found in controls]) for name in NORMS} if controls else None,
        gram=torch.cat(grams) if grams else None,
        image_size=settings.image_size(x),
        level=level,
        seed=seed,
    )


def _check(x: Tensor, norm: str, batch_size: int | None, level: float) -> None:
    if norm not in NORMS:
        raise SofteqValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    if batch_size is not None and batch_size < 1:
        raise SofteqValueError(f"batch_size: expected at least 1, or None for all at once, got {batch_size}")
    if not 0 < level < 1:
        raise SofteqValueError(f"level: expected a number between 0 and 1, got {level}")
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) == 0:
        came = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise SofteqValueError(f"x: expected a batch (B, ...) of at least one sample, got {came}")


@dataclass(frozen=True)
class _Measurement:
    """What every batch is measured with."""

    f: Callable[[Tensor], Any]
    space: Output
    settings: Settings
    control: bool
    chunk: int | None
    generator: torch.Generator  # of the control's noise; goes on from batch to batch

    def of(self, x: Tensor, check: bool) -> _Piece:
        """The batch's share of the result. `check`: also whether f treats its samples apart."""
        noise = self.settings.noise(x, self.generator) if self.control else None
        value, moves, answer, gram = self._derivatives(x, noise)
        check_batch(value, len(x))
        if check:
            check_separate(self.f, x, value, self.space.read)
        lengths = torch.stack([_lengths(flow.tangent(x)) for flow in self.settings.flows], 1)  # (B, n_flows)
        still = lengths == 0
        if self.settings.images:
            still |= self.settings.still(x, self.settings.coefficients()).to(lengths.device)
        dead = (moves == 0).flatten(1).all(1)
        if answer is not None:
            dead &= (answer == 0).all(1)
        elif bool((dead & ~still.all(1)).any()):  # no control was asked for, but a constant must not pass for 0
            dead &= (self._answer(x, self.settings.noise(x, self.generator)) == 0).all(1)
        hidden = still | dead[:, None]
        size = _vectors(value).square().sum(1)
        responses = None
        if answer is not None and noise is not None:
            scale = lengths / _lengths(noise)[:, None]
            responses = _norms(answer[:, None] * scale[..., None], size, hidden)
        if gram is not None:
            lost = self.settings.still(x, torch.eye(6)) | dead.cpu()[:, None]
            gram = gram.cpu().masked_fill(lost[:, :, None] | lost[:, None, :], torch.nan)
        return _Piece(_norms(moves, size, hidden), responses, gram, still.cpu(), dead.cpu())

    def _derivatives(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """f (B, ...), and in float64 L f (B, n_flows, dim), J_f noise (B, dim), and the Gram matrix (B, 6, 6)."""
        f, action, own = self.space.on(self.f), self.space.action, self.settings
        if not own.images or own.channels_last:
            value, found = derivatives(f, x, own.flows, action=action, chunk=self.chunk)
            answer = None if noise is None else self._answer(x, noise)
            return value, _vectors(found, 2).movedim(0, 1), answer, None
        options = {"stencil": own.stencil, "boundary": own.boundary, "margin": own.margin}
        extra = None if noise is None else noise[None]
        six = affine_derivatives(f, x, action=action, extra=extra, chunk=self.chunk, **options)  # type: ignore[arg-type]
        generators = _vectors(six.derivatives, 2).movedim(0, 1)
        gram = generators @ generators.mT / generators.shape[-1]
        # Flows come from the derivatives, not from the Gram matrix: there an exact symmetry drowns in cancellation.
        moves = torch.einsum("kg,bgd->bkd", own.coefficients().to(generators.device), generators)
        return six.value, moves, None if six.extra is None else _vectors(six.extra[0]), gram

    def _answer(self, x: Tensor, noise: Tensor) -> Tensor:
        select = self.space.action.select
        return _vectors(push_forward(self.space.on(self.f), x, noise[None], select=select)[1][0])


def _vectors(values: Tensor, axes: int = 1) -> Tensor:
    return values.to(torch.float64).flatten(axes) if values.ndim > axes else values.to(torch.float64).unsqueeze(axes)


def _lengths(values: Tensor) -> Tensor:
    wide = values.to(torch.promote_types(values.dtype, torch.float32))  # half precision overflows in the squares
    return wide.flatten(1).square().sum(1, dtype=torch.float64).sqrt()


def _norms(vectors: Tensor, size: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Norms of (B, n_flows, dim) vectors, (B, n_flows) each; NaN where `hidden`; size: ||f||^2 per sample."""
    squares = vectors.square()
    total = squares.sum(-1)
    # Where f is exactly 0 there is nothing to be relative to.
    relative = torch.where(size[:, None] > 0, total / size[:, None], torch.nan)
    norms = {"mean_square": squares.mean(-1), "mean_abs": vectors.abs().mean(-1), "relative": relative}
    return {name: torch.where(hidden, torch.nan, value).cpu() for name, value in norms.items()}


def _refuse_nothing(pieces: list[_Piece], f: Callable[[Tensor], Any], x: Tensor, space: Output) -> None:
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
        norm: one of NORMS; or "ratio_to_control", the mean_square error over that of white noise of the same size,
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
