"""The calls of a network's modules in one forward pass, and how a cotangent pairs with each call's input and output.

Every tensor that enters or leaves a module is replaced by a clone of its own, on which a hook receives exactly the
gradient that passes there: the gradient of an input through that module alone, the gradient of an output from
everything after it. (torch's full backward hooks give the same two, but forbid the in-place additions that residual
networks are full of.) A tensor h with flow X and gradient g pairs to <g, X h>; a call's contribution is that of its
inputs less that of its output, <g_out, J X h - X y>: by how much the module itself, and not what comes before or
after, fails to commute with the flow, as seen by the cotangent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import Action
from softeq.measure.motion.flows import Flow
from softeq.measure.motion.infer import infer_action
from softeq.measure.motion.pairing import Slopes
from softeq.measure.motion.spaces import ZeroFlow

# In evaluation these return what they are given, attention weights included, whose action nobody can tell.
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_MARK = "_softeq_carried"  # on a tensor at a boundary: what it is, so that the next one need not tell again

Declared = Action | tuple[Action, Action] | None


Motion = tuple[Flow, ...]  # how one tensor moves, for each flow of the input


class Carried:
    """A tensor that passes one boundary after another, how it moves, and its slopes."""

    def __init__(self, tensor: Tensor, motion: Motion) -> None:
        self.tensor, self.motion = tensor.detach(), motion
        self._version, self._slopes = tensor._version, Slopes(self.tensor)

    def changed(self) -> bool:
        """Whether the tensor was overwritten after it passed here, so that its tangent can no longer be told."""
        return self.tensor._version != self._version

    def paired(self, index: int, gradient: Tensor) -> Tensor | None:
        """<gradient, X tensor> along the flow of that number, (B,) float64; None where it does not move."""
        flow = self.motion[index]
        if isinstance(flow, ZeroFlow):
            return None
        return self._slopes.paired(flow, gradient, last=index + 1 == len(self.motion))


@dataclass
class Edge:
    """A tensor at a module's boundary, and its pairings <gradient, X tensor>: (n_flows, B) float64."""

    carried: Carried
    pairings: Tensor

    def changed(self) -> bool:
        """See Carried."""
        return self.carried.changed()


@dataclass(eq=False)
class Call:
    """One call of a module. `reason` is what stood against attributing it, None if nothing did.

    `passes_through`: it handed on its input unchanged, or never saw the data, and so has no part in the error.
    """

    name: str
    kind: str
    leaf: bool
    parent: Call | None
    inputs: list[Edge] = field(default_factory=list)
    output: Edge | None = None
    reason: str | None = None
    passes_through: bool = False
    sequence: bool = False  # it takes (B, N, C)
    entered: list[tuple[Tensor, int]] = field(default_factory=list)  # while it runs: its inputs' clones and versions

    def obstacle(self) -> str | None:
        """Why the call cannot be attributed, None where it can. Known after the backward passes."""
        if self.reason is None and any(edge.changed() for edge in (*self.inputs, *filter(None, [self.output]))):
            return "a tensor at its boundary was overwritten in place afterwards"
        return self.reason

    def attributable(self) -> bool:
        """Whether the call has a part in the error and it is known."""
        return self.output is not None and self.obstacle() is None

    def contribution(self) -> Tensor:
        """<g_out, J X h - X y> per flow and sample, (n_flows, B) float64, its submodules' parts included."""
        if self.output is None:
            raise SofteqValueError(f"{self.name}: expected a call whose output was traced; ask attributable() first")
        total = -self.output.pairings
        for edge in self.inputs:
            total = total + edge.pairings
        return total


def _same(tensor: Tensor, motion: Motion) -> Carried | None:
    """What `tensor` was at the boundary before, if nothing was written into it and it moves alike."""
    carried, version = getattr(tensor, _MARK, (None, 0))
    if carried is None or tensor._version != version or carried.motion is not motion:
        return None
    return carried


def _moving(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _holds_moving(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_moving, value.values()))
    return any(map(_holds_moving, value)) if isinstance(value, list | tuple) else _moving(value)


def _among_sequences(call: Call | None) -> bool:
    return call is not None and (call.sequence or _among_sequences(call.parent))


def _reason(where: str, error: NotMeasurable) -> str:
    return f"{where}: {str(error).removeprefix('output: ')}"


class CallTrace:
    """Hooks on all modules but the model itself, for the length of a `with` block; gone on exit, also after an error.

    Args:
        model: whose submodules are watched.
        x: the input batch, as it was given (its shape is what actions refer to).
        flows: the input's flows.
        actions: module name -> action of its output; or (action of its input, action of its output); or None, which
            declares that the module cannot be attributed. Others are inferred by measure.actions.infer_action.
        prefix: how many tokens before the grid belong to no place, for inferring tokens.

    Attributes:
        calls: in the order in which they began, once a forward pass ran inside the block.
        flow_index: the flow whose cotangent is being propagated; set it before each backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        flows: Sequence[Flow],
        actions: Mapping[str, Declared] | None = None,
        prefix: int | None = None,
    ) -> None:
        self._modules = {name: m for name, m in model.named_modules() if name and not isinstance(m, _IDENTITIES)}
        self._actions = dict(actions or {})
        unknown = sorted(set(self._actions) - {name for name, _ in model.named_modules()} | ({""} & set(self._actions)))
        if unknown:
            raise SofteqValueError(
                f"actions: expected names of submodules, got {', '.join(map(repr, unknown))}; "
                "model.named_modules() lists them, and `output` declares the model's own output"
            )
        self._x_shape, self._flows, self._prefix = tuple(x.shape), tuple(flows), prefix
        self._stack: list[Call] = []
        self._handles: list[Any] = []
        self._last: tuple[Carried | None, Tensor | None, Tensor | None] = (None, None, None)
        self.calls: list[Call] = []
        self.flow_index = 0

    def __enter__(self) -> CallTrace:
        for name, module in self._modules.items():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks, or never calls them
                continue
            self._handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leaving))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._last = (None, None, None)

    def new_edge(self, tensor: Tensor, motion: Motion) -> tuple[Tensor, Edge]:
        """A clone of `tensor` to go on with, and the edge that collects what passes through it on the way back."""
        carried = _same(tensor, motion) or Carried(tensor, motion)
        pairings = torch.zeros(len(self._flows), self._x_shape[0], dtype=torch.float64, device=tensor.device)
        edge, through = Edge(carried, pairings), tensor.clone()
        if not through.requires_grad:
            raise NotMeasurable(
                "layerwise: f computes in torch.no_grad or torch.inference_mode, where there is no backward pass; leave"
                " that to who calls f"
            )
        through.register_hook(lambda gradient: self._pair(edge, gradient))
        setattr(through, _MARK, (carried, through._version))
        return through, edge

    @torch.no_grad()
    def _pair(self, edge: Edge, gradient: Tensor) -> None:
        if edge.changed():
            return
        # A module's input is mostly the output of the one before, where the same gradient comes by again.
        carried, known, found = self._last
        if carried is not edge.carried or known is not gradient:
            found = edge.carried.paired(self.flow_index, gradient)
            self._last = (edge.carried, gradient, found)
        if found is not None:
            edge.pairings[self.flow_index] += found

    def _entering(self, name: str) -> Any:
        module = self._modules[name]
        leaf = next(module.children(), None) is None

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = Call(name, type(module).__name__, leaf, self._stack[-1] if self._stack else None)
            self._stack.append(call)
            self.calls.append(call)
            call.sequence = any(_moving(v) and v.ndim == 3 for v in (*args, *kwargs.values()))
            if name in self._actions and self._actions[name] is None:
                call.reason = "declared not attributable"
            elif any(_holds_moving(v) for v in (*args, *kwargs.values()) if not isinstance(v, Tensor)):
                call.reason = "takes a tuple, list or dict of tensors"
            if call.reason is None:
                args = tuple(self._enter_tensor(call, v) for v in args)
                kwargs = {key: self._enter_tensor(call, v) for key, v in kwargs.items()}
            return args, kwargs

        return hook

    def _enter_tensor(self, call: Call, value: Any) -> Any:
        if not _moving(value) or call.reason is not None:
            return value
        try:
            motion = self._input_motion(call, value)
        except NotMeasurable as error:
            call.reason = _reason("input", error)
            return value
        through, edge = self.new_edge(value, motion)
        call.inputs.append(edge)
        call.entered.append((through, through._version))
        return through

    def _input_motion(self, call: Call, tensor: Tensor) -> Motion:
        declared = self._actions.get(call.name)
        if isinstance(declared, tuple):
            return self._under(declared[0], tensor)
        known = getattr(tensor, _MARK, None)
        return known[0].motion if known is not None else self._inferred(call, tensor)

    def _output_motion(self, call: Call, tensor: Tensor) -> Motion:
        declared = self._actions.get(call.name)
        if declared is not None:
            return self._under(declared[1] if isinstance(declared, tuple) else declared, tensor)
        known = getattr(tensor, _MARK, None)
        return known[0].motion if known is not None else self._inferred(call, tensor)

    def _under(self, action: Action, tensor: Tensor) -> Motion:
        return tuple(action.flow(flow, self._x_shape, tuple(tensor.shape)) for flow in self._flows)

    def _inferred(self, call: Call, tensor: Tensor) -> Motion:
        if tensor.ndim == 0 or tensor.shape[0] != self._x_shape[0]:
            raise NotMeasurable(f"shape {tuple(tensor.shape)} does not start with the batch of {self._x_shape[0]}")
        if tensor.ndim == 4 and _among_sequences(call):
            # Attention's (B, heads, N, N) and (B, heads, N, d) can have the proportions of an image by accident.
            raise NotMeasurable(f"shape {tuple(tensor.shape)} inside a layer of tokens may be no image; declare it")
        return self._under(self._infer(tensor), tensor)

    def _infer(self, tensor: Tensor) -> Action:
        try:
            return infer_action(tensor, self._x_shape, prefix=self._prefix)
        except NotMeasurable:
            if tensor.ndim != 3 or not self._prefix:
                raise
            return infer_action(tensor, self._x_shape, prefix=0)  # before the prefix tokens were added

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = self._stack.pop()
        handed_on = any(output is clone and clone._version == version for clone, version in call.entered)
        call.entered.clear()
        # A module that never sees the data, or from which no gradient comes back, has no part in the error either.
        if handed_on or not _holds_moving(output):
            call.passes_through, call.reason = True, None
        if call.passes_through or call.reason is not None:
            return output
        if not isinstance(output, Tensor):
            call.reason = f"returns a {type(output).__name__}"
            return output
        try:
            motion = self._output_motion(call, output)
        except NotMeasurable as error:
            call.reason = _reason("output", error)
            return output
        through, call.output = self.new_edge(output, motion)
        return through
