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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.forward.trace import Call, CallTrace, Declared, pairing
from softeq.measure.lie_derivative import derivatives
from softeq.measure.motion.actions import Action
from softeq.measure.output import Output, output_space
from softeq.measure.settings import FlowChoice, Settings, resolve
from softeq.testing import TOLERANCES

_SLACK = 100.0  # times the dtype's tolerance: a gap in ||L f||^2 of more says that the parts are wrong
_LISTED = 10  # of what could not be attributed, in the text
WHOLE = ""  # the model's own name among the modules, as in nn.Module.named_modules()


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class LayerwiseResult:
    """The error's signed parts by module.

    Attributes:
        flows: names of the flows.
        output: the output space.
        stencil, boundary, margin: how the images' derivatives were taken ("own": as each flow says, if at all).
        names: module names in the order of their first call, the model itself ("") last; a module called several
            times stands once, with the sum of its calls.
        types: the modules' class names.
        leaf: per name, False where the part is that of the operations between a module's submodules.
        contributions: (n_flows, n_names, B) float64, in the units of ||L f||^2.
        total: (n_flows, B) float64, ||L f||^2 from forward mode.
        not_attributable: (name, reason) of the modules whose part went to the nearest module around them.
    """

    flows: tuple[str, ...]
    output: str
    stencil: str
    boundary: str
    margin: int
    names: tuple[str, ...]
    types: tuple[str, ...]
    leaf: tuple[bool, ...]
    contributions: Tensor
    total: Tensor
    not_attributable: tuple[tuple[str, str], ...]

    def _index(self, flow: str | None) -> int:
        if flow is None and len(self.flows) == 1:
            return 0
        if flow not in self.flows:
            raise SofteqValueError(f"flow: expected one of {', '.join(self.flows)}, got {flow!r}")
        return self.flows.index(flow)

    def shares(self, flow: str | None = None) -> dict[str, float]:
        """Module name -> its signed share of sum ||L f||^2 over the batch; they sum to 1 up to `gap`.

        `flow` may be left out where there is one alone.
        """
        k = self._index(flow)
        return dict(zip(self.names, (self.contributions[k].sum(1) / self.total[k].sum()).tolist(), strict=True))

    def by_type(self, flow: str | None = None) -> dict[str, float]:
        """Class name -> summed share; "functional" for what lies between modules. Largest magnitude first."""
        sums: dict[str, float] = {}
        for share, kind, leaf in zip(self.shares(flow).values(), self.types, self.leaf, strict=True):
            label = kind if leaf else "functional"
            sums[label] = sums.get(label, 0.0) + share
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))

    def top(self, n: int = 10, flow: str | None = None) -> list[tuple[str, float]]:
        """The n modules of the largest share in magnitude, with it."""
        return sorted(self.shares(flow).items(), key=lambda item: -abs(item[1]))[:n]

    def gap(self, flow: str | None = None) -> float:
        """|sum of the parts - ||L f||^2| / ||L f||^2: backward mode against forward mode."""
        k = self._index(flow)
        whole = self.total[k].sum()
        return float((self.contributions[k].sum() - whole).abs() / whole)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: per flow the shares, the shares by type and the gap; what could not be attributed, and why."""
        return {
            "flows": list(self.flows),
            **{name: getattr(self, name) for name in ("output", "stencil", "boundary", "margin")},
            "samples": self.total.shape[1],
            "modules": [
                {"name": name, "type": kind, "functional": not leaf}
                for name, kind, leaf in zip(self.names, self.types, self.leaf, strict=True)
            ],
            "shares": {flow: self.shares(flow) for flow in self.flows},
            "by_type": {flow: self.by_type(flow) for flow in self.flows},
            "gap": {flow: self.gap(flow) for flow in self.flows},
            "not_attributable": [{"name": name, "reason": reason} for name, reason in self.not_attributable],
        }

    def table(self, flow: str | None = None, n: int = 10) -> str:
        """The n modules of the largest share for one flow, as text."""
        kinds = dict(zip(self.names, zip(self.types, self.leaf, strict=True), strict=True))
        name_of_flow = self.flows[self._index(flow)]
        lines = [f"{name_of_flow}: shares of ||L f||^2 ({self.output}), gap {self.gap(flow):.1e}"]
        for name, share in self.top(n, flow):
            kind, leaf = kinds[name]
            lines.append(f"{share:8.1%}  {name or '(the model)'}  {kind if leaf else f'{kind}: functional operations'}")
        return "\n".join(lines)

    def __str__(self) -> str:
        tables = "\n\n".join(self.table(flow) for flow in self.flows)
        if not self.not_attributable:
            return tables
        lines = [f"  {name}: {reason}" for name, reason in self.not_attributable[:_LISTED]]
        if len(self.not_attributable) > _LISTED:
            lines.append(f"  and {len(self.not_attributable) - _LISTED} more: see not_attributable")
        listed = "\n".join(lines)
        return f"{tables}\n\nnot attributable, counted in the module around it:\n{listed}"


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
        flow: one flow or several; each costs one backward pass.
        output: "probabilities" and "logits" of (B, K), invariant; or an Action, by which the raw output moves.
        actions: module name -> the action of its output, or (of its input, of its output), or None to leave it out.
            What is not named is inferred from shapes where that is safe (measure.actions.infer_action).
        stencil, boundary, margin: as in local_equivariance_error.
        prefix: number of tokens that belong to no place, for inferring tokens; by default the model's
            `num_prefix_tokens` (timm's name for it) where it has one.
        batch_size: samples at once (None: all); memory is that of a training step with twice the activations.
        chunk: tangents at once in the forward mode (None: all).

    Raises:
        NotMeasurable: L f is exactly 0 for a flow (nothing to split), or cannot be measured; or the parts do not sum to
            it (see `LayerwiseResult.gap`), since the backward pass is not the derivative of the values.
    """
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, whose parts share the error, got {type(model).__name__}")
    settings, space = resolve(flow, stencil, boundary, margin), output_space(output)
    prefix = getattr(model, "num_prefix_tokens", None) if prefix is None else prefix
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
            "not the derivative of the values (a detach, an operation with its own backward), or too much cancels in "
            "this dtype; try float64"
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
        not_attributable=_obstacles(trace.calls),
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
