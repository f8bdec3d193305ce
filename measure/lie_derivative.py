"""The Lie derivative of a function under a flow: L f(x) = J_f(x) . X_in x - X_out f(x).

That is d/dt at 0 of flow_out(f(flow_in(x, t)), -t) (Gruver, Finzi, Goldblum, Wilson, ICLR 2023, Eq. 3), by the product
rule and the chain rule. X_in x comes from a declared stencil, J_f from forward-mode differentiation of f alone; nothing
is differentiated through a resampler. The derivative is linear in the generator, so six tangents, pushed through f in
one pass, give it for every affine motion of an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError, SofteqWarning
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.forward_mode import push_forward
from softeq.measure.motion.actions import Action
from softeq.measure.motion.flows import FLOWS, GENERATORS, AffineFlow, Flow, resolve_flows, tangents

Flows = str | Flow | Iterable[str | Flow] | Mapping[str, Flow]


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class AffineDerivatives:
    """What one pass over the affine generators gives.

    Attributes:
        value: f(x), (B, ...).
        derivatives: (6, B, ...), L f for each of GENERATORS.
        extra: (k, B, ...), J_f applied to the extra tangents, the output's motion not taken off; None without them.
    """

    value: Tensor
    derivatives: Tensor
    extra: Tensor | None


def lie_derivative(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flow_in: str | Flow,
    flow_out: Flow | Action | None = None,
    *,
    stencil: str | None = "bspline",
) -> Tensor:
    """d/dt at 0 of flow_out(f(flow_in(x, t)), -t), without a derivative through a resampler.

    Args:
        f: the function. A module runs as `measure.forward.prepare.measurable` makes it and is left as it was.
        x: (B, ...) floating and finite, as `flow_in` needs it: images (B, C, H, W) for FLOWS.
        flow_in: how the input moves: a name of FLOWS or a flow.
        flow_out: how the output should move: a flow, an Action that derives it from `flow_in`, or None: not at all.
        stencil: of image flows, input and output; None leaves what the flows say.

    Returns:
        Shaped like the output (or the entry of it that the action picks), detached.

    Raises:
        SofteqValueError, SofteqTypeError: a bad `x`, flow or stencil.
        NotMeasurable: the output is no floating tensor, or not finite, or f has no forward-mode derivative, or the
            output cannot move under that flow.
        SofteqWarning: `x` or the output is of half precision.
    """
    flows = resolve_flows(flow_in)
    if len(flows) != 1:
        raise SofteqValueError(f"flow_in: expected one flow, got {len(flows)}; use derivatives for several")
    return derivatives(f, x, flows, action=flow_out, stencil=stencil)[1][0]


def derivatives(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flows: Flows,
    *,
    action: Flow | Action | None = None,
    stencil: str | None = None,
    boundary: str | None = None,
    margin: int | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """f(x) and its Lie derivative under several flows, their tangents pushed through f together.

    Args:
        f, x: see `lie_derivative`.
        flows: names of FLOWS or flows; more than six affine ones of images are put together from GENERATORS.
        action: see `flow_out` of `lie_derivative`; a flow here is the output's under every one of `flows`.
        stencil, boundary, margin: of image flows; None leaves what each says.
        chunk: tangents pushed at once, to save memory; None: all.

    Returns:
        The value (B, ...) and the derivatives (n_flows, B, ...), detached.

    Raises:
        As `lie_derivative`.
    """
    wanted = [_declared(flow, stencil, boundary, margin) for flow in resolve_flows(flows)]
    pushed, combination = _generators(wanted)
    value, found, _ = pushed_derivatives(f, x, pushed, _declared(action, stencil, boundary, margin), None, chunk)
    return value, found if combination is None else torch.tensordot(combination.to(found), found, dims=1)


def affine_derivatives(
    f: Callable[[Tensor], Any],
    x: Tensor,
    *,
    action: Flow | Action | None = None,
    stencil: str = "bspline",
    boundary: str = "mirror",
    margin: int = 0,
    extra: Tensor | None = None,
    chunk: int | None = None,
) -> AffineDerivatives:
    """The Lie derivative of f under the six GENERATORS of the affine motions of an image, in one pass.

    Args:
        f: see `lie_derivative`.
        x: (B, C, H, W), floating and finite.
        action: how the output should move: an Action, or None: not at all.
        stencil, boundary, margin: see `measure.motion.flows.AffineFlow`.
        extra: (k, B, C, H, W), more tangents that go through f with the six.
        chunk: tangents pushed at once, to save memory; None: all.

    Raises:
        As `lie_derivative`.
    """
    flows = [FLOWS[name].with_(stencil=stencil, boundary=boundary, margin=margin) for name in GENERATORS]
    declared = _declared(action, stencil, boundary, margin)
    return AffineDerivatives(*pushed_derivatives(f, x, flows, declared, extra, chunk))


def pushed_derivatives(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flows: Sequence[Flow],
    action: Flow | Action | None,
    extra: Tensor | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """f(x), its Lie derivatives under `flows`, and J_f applied to the `extra` tangents, from one pass; see above."""
    x = checked(x)
    directions = tangents(flows, x)
    if extra is not None:
        if extra.shape[1:] != x.shape:
            raise SofteqValueError(f"extra: expected (k, {', '.join(map(str, x.shape))}), got {tuple(extra.shape)}")
        directions = torch.cat([directions, extra.detach().to(x)])
    select = action.select if isinstance(action, Action) else _identity
    value, pushed = push_forward(f, x, directions, select=select, chunk=chunk)
    found, rest = pushed[: len(flows)], pushed[len(flows) :]
    if isinstance(action, Action):
        outer = [action.flow(flow, tuple(x.shape), tuple(value.shape)) for flow in flows]
        found = found - tangents(outer, value)
    elif action is not None:
        found = found - action.tangent(value)
    if min(x.element_size(), value.element_size()) < 4:
        dtype = min(x.dtype, value.dtype, key=lambda d: d.itemsize)
        warnings.warn(
            f"measured in {dtype}, whose rounding is in the numbers, some percent of them; use float32 or float64",
            SofteqWarning,
            stacklevel=2,
        )
    if not found.isfinite().all():
        raise NotMeasurable("the derivative has NaN or infinite entries although the output is finite")
    return value, found, None if extra is None else rest


def _identity(output: Any) -> Any:
    return output


def checked(x: Tensor) -> Tensor:
    """A contiguous, detached copy of `x`; SofteqTypeError or SofteqValueError unless floating, finite, not empty."""
    if not isinstance(x, Tensor):
        raise SofteqTypeError(f"x: expected a tensor, got {type(x).__name__}")
    if not x.is_floating_point() or x.numel() == 0:
        raise SofteqValueError(f"x: expected floating data, at least one sample, got {tuple(x.shape)} of {x.dtype}")
    if not x.isfinite().all():
        bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist() if x.ndim > 1 else []
        raise SofteqValueError(f"x: expected finite numbers, got NaN or infinity in samples {bad[:10]}")
    # A copy: f may write into its input. Contiguous: expanded tensors break some forward-mode rules.
    return x.detach().clone(memory_format=torch.contiguous_format)


def _declared(flow: Any, stencil: str | None, boundary: str | None, margin: int | None) -> Any:
    """An image flow with the settings that were given; anything else as it is."""
    given = {"stencil": stencil, "boundary": boundary, "margin": margin}
    changes = {name: value for name, value in given.items() if value is not None}
    return flow.with_(**changes) if changes and hasattr(flow, "with_") else flow


def _generators(flows: Sequence[Flow]) -> tuple[Sequence[Flow], Tensor | None]:
    """What to push for these flows, and the (n_flows, n_pushed) matrix that puts them together (None: as they are)."""
    first = flows[0]
    affine = [flow for flow in flows if isinstance(flow, AffineFlow)]
    if len(affine) <= len(GENERATORS) or len(affine) < len(flows) or not all(affine[0].alike(flow) for flow in affine):
        return flows, None
    names = ("stencil", "boundary", "margin", "channels_last")
    settings = {name: getattr(first, name) for name in names}
    generators = [FLOWS[name].with_(**settings) for name in GENERATORS]
    return generators, torch.stack([flow.coefficients for flow in affine])
