"""Forward over reverse: the derivative along a direction from a backward pass alone, for what has no forward mode.

A backward pass takes a probe u to J^T u, which is linear in u; so J v is the gradient of <J^T u, v> with respect to u
(the double-backward trick). What a backward pass claims need not be the derivative of the values: a straight-through
estimator, a reversed gradient and a constant that was detached are none. So it is held against central differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from softeq.measure.errors import NotMeasurable

Function = Callable[..., Sequence[Tensor]]

# Relative step and the relative difference up to which the two agree: rounding stands against curvature and kinks.
_STEPS = {torch.float64: (1e-6, 1e-7)}
_FEWER_DIGITS = (3e-2, 1e-2, 3e-3, 1e-3)
_AGREE = 1e-3
_LOOSER = 5e-2
_KINK = 0.1  # how much, relatively, the differences to both sides may differ where the function is smooth


class NoReverse(NotMeasurable):
    """There is no derivative by backward passes, or a wrong one; the message goes on after the name of an operation."""


def forward_over_reverse(
    f: Function, primals: Sequence[Tensor], directions: Sequence[Sequence[Tensor]]
) -> tuple[tuple[Tensor, ...], list[list[Tensor]]]:
    """Values and derivatives of `f` along `directions`, by two backward passes.

    Args:
        f: of as many tensors as `primals`, returning floating or complex tensors; not checked against differences.
        primals, directions: where, and along what: per direction a tangent for each of the primals.

    Returns:
        The outputs, and per direction the derivative of each; detached.

    Raises:
        NoReverse: an output has no backward, or one that cannot be differentiated.
    """
    with torch.enable_grad():
        leaves = [primal.detach().clone().requires_grad_() for primal in primals]
        outputs = tuple(f(*leaves))
        if not all(output.requires_grad for output in outputs):
            raise NoReverse("has neither a forward-mode derivative nor a backward")
        probes = [torch.ones_like(output).requires_grad_() for output in outputs]
        try:
            pulled = torch.autograd.grad(outputs, leaves, probes, create_graph=True, allow_unused=True)
            found = [_against(pulled, probes, tangents) for tangents in directions]
        except (RuntimeError, NotImplementedError) as error:
            first = str(error).splitlines()[0][:120]
            raise NoReverse(f"has no forward-mode derivative, and its backward has none in turn ({first})") from error
    return tuple(output.detach() for output in outputs), found


def _against(pulled: Sequence[Tensor | None], probes: list[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    pairing = torch.zeros((), dtype=torch.float64, device=probes[0].device)
    for gradient, tangent in zip(pulled, tangents, strict=True):
        if gradient is not None:
            pairing = pairing + (gradient.conj() * tangent).real.sum()
    if not pairing.requires_grad:
        raise NoReverse("has no forward-mode derivative, and its backward has none in turn")
    found = torch.autograd.grad(pairing, probes, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.detach() for g, p in zip(found, probes, strict=True)]


def check_by_differences(
    f: Function,
    wide: Function | None,
    primals: Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
    found: Sequence[Sequence[Tensor]],
    claim: str = "has no forward-mode derivative, and its backward",
) -> None:
    """Compare derivatives with central differences along one random combination of the directions.

    Args:
        f: see `forward_over_reverse`.
        wide: the same function of float64 tensors, tried first; None: there is none.
        primals, directions, found: what went in and what came out there.
        claim: what says so, in the message.

    Raises:
        NoReverse: they differ.
    """
    generator = torch.Generator().manual_seed(0)
    weights = (torch.rand(len(directions), generator=generator) + 0.5).tolist()
    combined = [sum(w * t for w, t in zip(weights, column, strict=True)) for column in zip(*directions, strict=True)]
    expected = [sum(w * t for w, t in zip(weights, column, strict=True)) for column in zip(*found, strict=True)]
    gaps = []
    if wide is not None and primals[0].real.dtype != torch.float64:
        with suppress(RuntimeError, NotImplementedError, TypeError):  # not everything runs in float64
            gaps.append((_gap(wide, [_wide(p) for p in primals], [_wide(v) for v in combined], expected), _AGREE))
        if gaps and gaps[0][0] <= _AGREE:
            return
    # What ran in float64 may have rounded inside: then longer steps tell.
    gap = _gap(f, primals, combined, expected)
    gaps.append((gap, _AGREE if primals[0].real.dtype == torch.float64 else _LOOSER))
    if not any(gap <= limit for gap, limit in gaps):
        raise NoReverse(
            f"{claim} is not the derivative of its values "
            f"(central differences differ by {min(gap for gap, _ in gaps):.1%})"
        )


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _gap(f: Function, primals: Sequence[Tensor], along: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The smallest relative difference over the steps between the differences and what is expected."""
    dtype = torch.promote_types(primals[0].real.dtype, torch.float32)
    length = max(float(v.abs().max()) for v in along)
    if length == 0:
        return 0.0
    size = max(max(float(p.abs().max()) for p in primals), 1e-3) / length
    outputs = f(*primals)
    here, wanted, rounding = _line(outputs), _line(expected), max(torch.finfo(v.real.dtype).eps for v in outputs)
    gaps = []
    for step in _STEPS.get(dtype, _FEWER_DIGITS):
        h = step * size
        ahead, behind = (_line(f(*(p + s * v for p, v in zip(primals, along, strict=True)))) for s in (h, -h))
        noise = 10 * max(torch.finfo(dtype).eps, rounding) * float(here.abs().max()) / h
        gaps.append(_relative((ahead - here) / h, (here - behind) / h, wanted, noise))
    return min(gaps)


def _line(outputs: Sequence[Tensor]) -> Tensor:
    parts = [torch.view_as_real(o).flatten() if o.is_complex() else o.flatten() for o in outputs]
    return torch.cat([part.detach().to(torch.float64) for part in parts])


def _relative(ahead: Tensor, behind: Tensor, wanted: Tensor, noise: float) -> float:
    """||differences - wanted|| over the larger of both, where the two sides agree: at a kink there is no derivative."""
    smooth = (ahead - behind).abs() <= _KINK * torch.maximum(ahead.abs(), behind.abs()) + noise
    if not smooth.any():
        return torch.inf
    middle, claimed = (ahead + behind)[smooth] / 2, wanted[smooth]
    error, whole = (middle - claimed).norm(), torch.maximum(middle.norm(), claimed.norm())
    rounding = noise * len(claimed) ** 0.5
    return float((error - rounding).clamp_min(0) / whole) if whole > 0 else 0.0
