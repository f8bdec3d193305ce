"""Where in a network its local equivariance error arises: an exact split over modules from one backward pass per flow.

With v = L f from forward mode, one backward pass with cotangent v gives at every tensor h its gradient g_h. A module
with input h and output y takes c = <g_h, X h> - <g_y, X y> = <g_y, J X h - X y> of ||L f||^2: the part of the error
that the module itself makes, as the rest of the network passes it on. Along a chain these telescope, so the signed
shares c / ||L f||^2 sum to one. Gruver et al. (2023) split L(h o f) by the chain rule too, but drop the cross terms
of a random probe, so their parts do not sum to the whole.

A module with submodules takes what these leave over: the functional operations between them (additions, reshapes,
`F.relu`), and whatever inside it cannot be attributed. The model itself, "", takes what its topmost modules leave.
A part says what the declared motions make of a module: an inferred two-axis tensor counts as invariant, so that a
map flattened into one axis makes its whole error in the flattening, and the linear layer behind it none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from softeq.errors import SofteqTypeError
from softeq.measure.checks import check_integer
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.forward.trace import Call, CallTrace, Declared
from softeq.measure.lie_derivative import derivatives
from softeq.measure.motion.actions import Action
from softeq.measure.motion.pairing import pairing
from softeq.measure.output import Output, output_space
from softeq.measure.results.layers import WHOLE, LayerwiseResult
from softeq.measure.settings import FlowChoice, Settings, resolve
from softeq.testing import TOLERANCES

_SLACK = 100.0  # times the dtype's tolerance: a gap in ||L f||^2 of more says that the parts are wrong


def layerwise(
    model: nn.Module,
    x: Tensor,
    flow: FlowChoice,
    *,
    output: str | Action = "probabilities",
    actions: Mapping[str, Declared] | None = None,
    stencil: str | None = "bspline",
    boundary: str = "mirror",
    margin: int = 0,
    prefix: int | None = None,
    batch_size: int | None = None,
    chunk: int | None = None,
) -> LayerwiseResult:
    """Split ||L f||^2 exactly over the model's modules and the functional operations between them.

    Args:
        model: any module on `x`; it is run as measure.prepare.measurable does and left as it was.
        x: (B, ...) floating.
        flow: one flow or several. All share one forward-mode pass, one plain one and the slopes of all features; each
            costs a tangent, a backward pass and a product with each feature on the way: ask for several at once.
        output: "probabilities" and "logits" of (B, K), invariant; or an Action, by which the raw output moves.
        actions: module name -> the action of its output, or (of its input, of its output), or None to leave it out.
            What is not named is inferred from shapes where that is safe (measure.actions.infer_action).
        stencil, boundary, margin: as in local_equivariance_error.
        prefix: number of tokens that belong to no place, for inferring tokens; by default the model's
            `num_prefix_tokens` (timm's name for it) where it has one.
        batch_size: samples at once (None: all); memory is that of a training step with twice the activations, of
            several flows with four times.
        chunk: tangents at once in the forward mode (None: all).

    Raises:
        NotMeasurable: L f is exactly 0 for a flow (nothing to split), or cannot be measured; or the parts do not sum to
            it (see `LayerwiseResult.gap`), since the backward pass is not the derivative of the values.
    """
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, whose parts share the error, got {type(model).__name__}")
    settings, space = resolve(flow, stencil, boundary, margin), output_space(output)
    prefix = getattr(model, "num_prefix_tokens", None) if prefix is None else prefix
    for name, value in (("batch_size", batch_size), ("chunk", chunk)):
        if value is not None:
            check_integer(name, value, 1)
    pieces = torch.split(x, batch_size or max(1, len(x)))
    with measurable(model):
        options = (settings, space, actions, prefix, chunk)
        result = _joined([_split(model, piece, *options, check=k == 0) for k, piece in enumerate(pieces)])
    unmoved = [name for name, total in zip(result.flows, result.total.sum(1).tolist(), strict=True) if total == 0]
    if unmoved:
        raise NotMeasurable(
            f"layerwise: the derivative along {', '.join(unmoved)} is exactly 0, so there is nothing to split; "
            "local_equivariance_error tells whether the model is equivariant, or answers to nothing"
        )
    _check_gaps(result, _SLACK * TOLERANCES.get(x.dtype, TOLERANCES[torch.float32]))
    return result


def _check_gaps(result: LayerwiseResult, limit: float) -> None:
    gaps = {name: result.gap(name) for name in result.flows}
    wrong = ", ".join(f"{name} {gap:.1%}" for name, gap in gaps.items() if not gap <= limit)
    if wrong:
        raise NotMeasurable(
            f"layerwise: the modules' parts miss ||L f||^2 by more than {limit:.0e} ({wrong}): the backward pass is "
            "not the derivative of the values (a detach, torch.no_grad, an operation with its own backward), or too "
            "much cancels in this dtype; try float64"
        )


def _split(
    model: nn.Module,
    x: Tensor,
    settings: Settings,
    space: Output,
    actions: Mapping[str, Declared] | None,
    prefix: int | None,
    chunk: int | None,
    check: bool,
) -> LayerwiseResult:
    flows = settings.flows
    value, error = derivatives(space.on(model), x, flows, action=space.action, chunk=chunk)
    check_batch(value, len(x))
    if check:
        check_separate(model, x, value, space.read)
    with torch.enable_grad(), CallTrace(model, x, flows, actions, prefix) as trace:
        leaf = x.detach().clone().requires_grad_()
        entered, edge = trace.new_edge(leaf, flows)
        out = space.read(model(entered))
        if not out.requires_grad:
            raise NotMeasurable("layerwise: the output does not depend on x, so its derivative is exactly 0")
        whole = []
        for k, flow in enumerate(flows):
            trace.flow_index = k
            torch.autograd.grad(out, leaf, error[k], retain_graph=k + 1 < len(flows))
            moved = space.action.flow(flow, tuple(x.shape), tuple(out.shape)).tangent(out.detach())
            whole.append(edge.pairings[k] - pairing(error[k], moved))
    parts = _exclusive(trace.calls, torch.stack(whole))
    classes = dict(model.named_modules())
    return LayerwiseResult(
        flows=settings.names,
        output=space.name,
        stencil=settings.stencil,
        boundary=settings.boundary,
        margin=settings.margin,
        names=tuple(parts),
        types=tuple(type(classes[name]).__name__ for name in parts),
        leaf=tuple(next(classes[name].children(), None) is None for name in parts),
        contributions=torch.stack(list(parts.values()), 1).cpu(),
        total=torch.stack([pairing(v, v) for v in error]).cpu(),
        not_attributable=(*_scripted(model), *_obstacles(trace.calls)),
    )


def _exclusive(calls: Sequence[Call], whole: Tensor) -> dict[str, Tensor]:
    """Each module's part less those of the attributable calls directly within it: name -> (n_flows, B)."""
    parts: dict[str, Tensor] = {call.name: torch.zeros_like(whole) for call in calls if call.attributable()}
    rest = whole.clone()
    for call in calls:
        if not call.attributable():
            continue
        part = call.contribution()
        parts[call.name] += part
        around = call.parent
        while around is not None and not around.attributable():
            around = around.parent
        if around is None:
            rest -= part
        else:
            parts[around.name] -= part
    return {**parts, WHOLE: rest}


def _scripted(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """The outermost scripted modules, which run outside of Python; the module around takes their part."""
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not any(
            f"{name}.".startswith(f"{n}.") or not n for n in found
        ):
            found.append(name)
    return tuple((name, "scripted, so that its modules run where no hook sees them") for name in found)


def _obstacles(calls: Sequence[Call]) -> tuple[tuple[str, str], ...]:
    found = {(call.name, reason): None for call in calls if (reason := call.obstacle()) is not None}
    return tuple(found)  # in order, each once however often the module was called


def _joined(parts: Sequence[LayerwiseResult]) -> LayerwiseResult:
    first = parts[0]
    if any(part.names != first.names for part in parts):
        raise NotMeasurable("layerwise: the model calls other modules for other images; measure with batch_size=None")
    return replace(
        first,
        contributions=torch.cat([part.contributions for part in parts], -1),
        total=torch.cat([part.total for part in parts], -1),
        not_attributable=tuple({entry: None for part in parts for entry in part.not_attributable}),
    )
