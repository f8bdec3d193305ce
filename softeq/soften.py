"""soften: a plain network as its soft twin, with the weights that it has and the outputs that it gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from softeq.attention import SoftAttention
from softeq.conv import SoftConv2d
from softeq.errors import SofteqError, SofteqTypeError, SofteqValueError
from softeq.linear import SoftLinear
from softeq.pathways import SoftLayer
from softeq.reps import Rep
from softeq.testing import TOLERANCES

_PREFIXES = range(17)  # class and register tokens that may stand in front of a grid
_OUT_NAMES, _HEAD_NAMES = ("proj", "out"), ("num_heads", "heads")


@dataclass(frozen=True)
class Softened:
    """What `soften` returns.

    Attributes:
        model: the soft twin.
        replaced: module name -> what it is now.
        left: name -> why it is as it was, for each module with parameters of its own that was not replaced; "" is the
            model itself, with a vision transformer's position embeddings, say.
    """

    model: nn.Module
    replaced: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        """One line per module."""
        lines = [f"{name}: {what}" for name, what in self.replaced.items()]
        return "\n".join([*lines, *(f"{name}: left, {why}" for name, why in self.left.items())])


@dataclass
class _Seen:
    """What one example showed of a module."""

    inputs: list[Tensor] = field(default_factory=list)
    output: Any = None
    plain: bool = True  # called with tensors alone, one of them
    map: tuple[int, int] | None = None  # (h, w) of the last convolution's output before it


class _Left(Exception):
    """Why a module is left as it is."""


def soften(
    model: nn.Module,
    example: Tensor,
    *,
    residual: str = "lowrank",
    rank: int = 4,
    reps: Mapping[str, tuple[Rep, Rep]] | None = None,
    types: Mapping[str, tuple[Any, Any]] | None = None,
    skip: Iterable[str] = (),
) -> Softened:
    """The soft twin of a network, layer by layer, with the same outputs.

    Convolutions become ``SoftConv2d`` (their kernel equivariant under translations, the residual zero but able to
    leave it), or ``SoftR2Conv`` where ``types`` says so; self-attention over tokens of a grid becomes ``SoftAttention``
    (no bias on its logits, the residual zero); linear layers with declared representations become ``SoftLinear``. In
    the last two the weight W is split into ``P(W)`` and ``W - P(W)``. Every replacement is run on what its original was
    given and must return the same, so a subclass that computes something else is left as it is.

    Args:
        model: any network; it is not changed. Attention is recognised by its parts: ``qkv`` and ``proj`` or ``out``,
            and ``num_heads`` or ``heads``, as in timm.
        example: one batch that the model takes; it shows the size of the pictures, which residuals have weights for.
        residual: ``"dense"``, ``"local"`` or ``"lowrank"``, see ``SoftConv2d``; attention's is dense if this is, else
            low-rank.
        rank: of the low-rank residuals.
        reps: names of ``nn.Linear`` modules -> (rep_in, rep_out), bound to one group.
        types: names of convolutions -> (in_type, out_type), escnn's field types.
        skip: names of modules to leave, with all that is in them.

    Raises:
        SofteqTypeError: ``model`` is no module, or ``example`` no tensor.
        SofteqValueError: the model does not run on the example, a name that it does not have, an unknown residual, or
            nothing that can be softened.
    """
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if not isinstance(example, Tensor):
        raise SofteqTypeError(f"example: expected a tensor that the model takes, got {type(example).__name__}")
    if residual not in ("dense", "local", "lowrank"):
        raise SofteqValueError(f"residual: expected 'dense', 'local' or 'lowrank', got {residual!r}")
    reps, types, skip = dict(reps or {}), dict(types or {}), tuple(skip)
    known = {name for name, _ in model.named_modules()}
    for argument, names in (("reps", reps), ("types", types), ("skip", skip)):
        if unknown := [name for name in names if name not in known]:
            raise SofteqValueError(f"{argument}: expected names of the model's modules, got {', '.join(unknown)}")
    soft = copy.deepcopy(model)
    replaced, left = _replace(soft, _watched(soft, example), _Makers(residual, rank, reps, types), skip)
    if not replaced:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:5])
        raise SofteqValueError(f"model: expected a layer that can be softened, found none ({reasons or 'no layers'})")
    return Softened(soft, replaced, left)


def _watched(model: nn.Module, example: Tensor) -> dict[nn.Module, _Seen]:
    """What each module was given and returned on the example; the model runs in evaluation mode, without gradients."""
    seen: dict[nn.Module, _Seen] = {}
    last: list[tuple[int, int] | None] = [None]

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entry = seen.setdefault(module, _Seen(map=last[0]))
        given = [value for value in (*args, *kwargs.values()) if value is not None and value is not False]
        entry.plain &= len(given) == 1 and isinstance(given[0], Tensor)
        entry.inputs += given if entry.plain else []

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if seen[module].output is None:
            seen[module].output = output
        if isinstance(output, Tensor) and output.dim() == 4 and isinstance(module, nn.Conv2d):
            last[0] = (output.shape[-2], output.shape[-1])

    modes = {module: module.training for module in model.modules()}
    handles = [m.register_forward_pre_hook(entering, with_kwargs=True) for m in model.modules()]
    handles += [m.register_forward_hook(leaving) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    except SofteqError:
        raise
    except Exception as error:
        shape = tuple(example.shape)
        raise SofteqValueError(f"example: the model does not run on it, {shape} of {example.dtype}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return seen


def _replace(
    model: nn.Module, seen: Mapping[nn.Module, _Seen], makers: _Makers, skip: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    replaced: dict[str, str] = {}
    left: dict[str, str] = {}
    made: dict[nn.Module, nn.Module] = {}  # a module that stands in two places gets one replacement

    def walk(parent: nn.Module, prefix: str) -> None:
        for key, child in list(parent._modules.items()):  # named_children() leaves out the second place
            name = f"{prefix}{key}"
            if child is None or isinstance(child, SoftLayer):
                continue
            if name in skip:
                left[name] = "as asked"
                continue
            try:
                maker = makers.of(name, child)
                if maker is not None and child not in made:
                    made[child] = _checked(child, seen.get(child), maker)
            except _Left as reason:
                left[name] = str(reason)
                maker = None
            if maker is not None:
                setattr(parent, key, made[child])
                replaced[name] = type(made[child]).__name__
            elif name not in left and next(child.parameters(recurse=False), None) is not None:
                left[name] = f"{type(child).__name__} has no soft twin" + makers.hint(child)
            if maker is None:
                walk(child, f"{name}.")

    walk(model, "")
    if own := [name for name, _ in model.named_parameters(recurse=False)]:
        left[""] = f"the model's own parameters stay: {', '.join(own)}"
    return replaced, left


def _checked(module: nn.Module, seen: _Seen | None, maker: Maker) -> nn.Module:
    """The first of the candidates that returns what the module did on what it was given."""
    if seen is None or not seen.inputs or not seen.plain:
        raise _Left("the example did not reach it as one tensor")
    shapes = {tuple(x.shape[1:]) for x in seen.inputs}
    if len(shapes) > 1:
        raise _Left(f"it is called on inputs of several sizes, {', '.join(map(str, sorted(shapes)))}")
    x, expected, reasons = seen.inputs[0], seen.output, []
    for candidate in maker(module, seen):
        try:
            soft = candidate()
        except SofteqError as error:
            reasons.append(str(error))
            continue
        with torch.no_grad():
            found = soft.eval()(x)
        same = isinstance(expected, Tensor) and found.shape == expected.shape
        if same and (found - expected).norm() <= TOLERANCES[x.dtype] * expected.norm().clamp_min(1e-30):
            frozen = all(not p.requires_grad for p in module.parameters())
            return soft.train(module.training).requires_grad_(not frozen)
    raise _Left(reasons[0] if reasons else f"{type(module).__name__} computes something else than its soft twin")


Maker = Callable[[Any, _Seen], list[Callable[[], nn.Module]]]
"""From a module and what was seen of it to the ways to make its twin, the likeliest first."""


@dataclass(frozen=True)
class _Makers:
    """Which modules are replaced, and by what."""

    residual: str
    rank: int
    reps: Mapping[str, tuple[Rep, Rep]]
    types: Mapping[str, tuple[Any, Any]]

    def of(self, name: str, module: nn.Module) -> Maker | None:
        if name in self.reps:
            return lambda linear, _: [lambda: SoftLinear.from_linear(linear, *self.reps[name])]
        if name in self.types:
            from softeq.steerable import SoftR2Conv

            return lambda conv, _: [lambda: SoftR2Conv.from_conv(conv, *self.types[name])]
        if isinstance(module, nn.Conv2d):
            return self.convolution
        return self.attention if isinstance(getattr(module, "qkv", None), nn.Linear) else None

    def hint(self, module: nn.Module) -> str:
        """What to do about a module that was left."""
        if isinstance(module, nn.MultiheadAttention):
            return ": it returns a tuple"
        return " without representations: declare them in reps" if isinstance(module, nn.Linear) else ""

    def convolution(self, conv: nn.Conv2d, seen: _Seen) -> list[Callable[[], nn.Module]]:
        """With its own padding, and with that which keeps ``size / stride``, as TensorFlow's networks pad."""
        size = (seen.inputs[0].shape[-2], seen.inputs[0].shape[-1])

        def own() -> nn.Module:
            return SoftConv2d.from_conv(conv, size, residual=self.residual, rank=self.rank)

        def same() -> nn.Module:
            rows, columns = (_same_padding(conv, axis, n) for axis, n in enumerate(size))
            padded = (size[0] + sum(rows), size[1] + sum(columns))
            soft = SoftConv2d.from_conv(conv, padded, residual=self.residual, rank=self.rank)
            return nn.Sequential(nn.ZeroPad2d((*columns, *rows)), soft)

        return [own] if type(conv) is nn.Conv2d else [own, same]

    def attention(self, module: Any, seen: _Seen) -> list[Callable[[], nn.Module]]:
        """On the grid of the last convolution's map, the tokens that are too many in front."""
        out = next((o for n in _OUT_NAMES if isinstance(o := getattr(module, n, None), nn.Linear)), None)
        heads = next((h for n in _HEAD_NAMES if isinstance(h := getattr(module, n, None), int)), None)
        if out is None or heads is None:
            raise _Left("it has a qkv, but no proj or out, or no number of heads")
        drops = [m.p for m in module.modules() if isinstance(m, nn.Dropout)]
        if any(drops):
            raise _Left("it drops out at random, which SoftAttention does not")
        tokens = seen.inputs[0].shape[-2]
        if seen.inputs[0].dim() != 3 or seen.map is None or tokens - math.prod(seen.map) not in _PREFIXES:
            raise _Left(f"its {tuple(seen.inputs[0].shape)} are no tokens of the last convolution's map {seen.map}")
        grid, residual = seen.map, "dense" if self.residual == "dense" else "lowrank"

        def soft() -> nn.Module:
            prefix = tokens - math.prod(grid)
            options: dict[str, Any] = {"size": grid, "prefix": prefix, "residual": residual, "rank": self.rank}
            return SoftAttention.from_projections(module.qkv, out, heads, **options)

        return [soft]


def _same_padding(conv: nn.Conv2d, axis: int, n: int) -> tuple[int, int]:
    """Zeros before and after, so that the output has ``ceil(n / stride)`` pixels; the odd one comes after."""
    stride, dilation, kernel = conv.stride[axis], conv.dilation[axis], conv.kernel_size[axis]
    total = max((math.ceil(n / stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)
    return total // 2, total - total // 2
