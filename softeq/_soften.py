"""soften: a plain network as its soft twin, with the weights that it has and the outputs that it gives."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from softeq._anchor import anchor
from softeq._twins import Left, Seen, Twins, twin_of
from softeq.errors import SofteqError, SofteqTypeError, SofteqValueError
from softeq.pathways import SoftLayer
from softeq.reps import Rep


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


def soften(
    model: nn.Module,
    example: Tensor,
    *,
    residual: str = "lowrank",
    rank: int = 4,
    reps: Mapping[str, tuple[Rep, Rep]] | None = None,
    types: Mapping[str, tuple[Any, Any]] | None = None,
    skip: Iterable[str] = (),
    anchored: bool = True,
) -> Softened:
    """The soft twin of a network, layer by layer, with the same outputs.

    Convolutions become ``SoftConv1d``, 2d or 3d (their kernel equivariant under translations, the residual zero but
    able to leave it), or ``SoftR2Conv`` where ``types`` says so; self-attention over tokens of a grid becomes
    ``SoftAttention`` (no bias on its logits, the residual zero); linear layers with declared representations become
    ``SoftLinear``. In those with types or representations the weight W is split into ``P(W)`` and ``W - P(W)``. Every
    twin is run on what its original was given and must return the same, so a subclass that computes something else is
    left as it is; so is one that has more than its twin would (a parametrization, a table of its own, hooks, a weight
    that another module shares). A twin's parameters ask for gradients as those of the original do: a residual as the
    weight or bias that it stands beside. What sees positions outside these layers, such as a table of position
    embeddings, stays and is named.

    Args:
        model: any network; it is not changed. Attention is recognised by its parts: ``qkv`` and ``proj`` or ``out``,
            and ``num_heads`` or ``heads``, as in timm; or it is ``nn.MultiheadAttention``, called without weights.
        example: one batch that the model takes; it shows the size of the images, which residuals have weights for.
        residual: ``"dense"``, ``"local"`` or ``"lowrank"``, see ``SoftConv2d``; attention's is dense if this is, else
            low-rank.
        rank: of the low-rank residuals.
        reps: names of ``nn.Linear`` modules -> (rep_in, rep_out), bound to one group.
        types: names of convolutions -> (in_type, out_type), escnn's field types.
        skip: names of modules to leave, with all that is in them.
        anchored: whether the weights at the start become the means of the prior, so that the network costs 0 nats; see
            ``softeq.anchor``. Otherwise the prior's means are zero, and also a low-rank residual that is zero as a map
            is charged for the factor that is not.

    Raises:
        SofteqTypeError: ``model`` is no module, or ``example`` no tensor.
        SofteqValueError: lazy weights, the model does not run on the example, a name that it does not have, an unknown
            residual, or nothing that can be softened.
    """
    _check(model, example, residual)
    reps, types, skip = dict(reps or {}), dict(types or {}), tuple(skip)
    known = {name for name, _ in model.named_modules()}
    for argument, names in (("reps", reps), ("types", types), ("skip", skip)):
        if unknown := [name for name in names if name not in known]:
            raise SofteqValueError(f"{argument}: expected names of the model's modules, got {', '.join(unknown)}")
    soft = copy.deepcopy(model)
    twins = Twins(residual, rank, reps, types)
    softened = _replaced(soft, _watched(soft, example, twins), twins, skip, anchored)
    if not softened.replaced:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(softened.left.items())[:5])
        raise SofteqValueError(f"model: expected a layer that can be softened, found none ({reasons or 'no layers'})")
    return softened


def _check(model: object, example: object, residual: str) -> None:
    """Raises where the arguments of `soften` are not what it takes."""
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if lazy := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]:
        raise SofteqValueError(
            f"model: expected weights, got lazy ones that are yet to be drawn ({lazy[0]}); run it once on a batch first"
        )
    if not isinstance(example, Tensor):
        raise SofteqTypeError(f"example: expected a tensor that the model takes, got {type(example).__name__}")
    if residual not in ("dense", "local", "lowrank"):
        raise SofteqValueError(f"residual: expected 'dense', 'local' or 'lowrank', got {residual!r}")


def _watched(model: nn.Module, example: Tensor, twins: Twins) -> dict[nn.Module, Seen]:
    """What each module that may have a twin was given and returned; without gradients, in evaluation mode."""
    seen: dict[nn.Module, Seen] = {}
    last: list[tuple[int, int] | None] = [None]

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [v for v in (*args, *kwargs.values()) if v is not None and not isinstance(v, bool)]
        first = given[0] if given else None
        if not isinstance(first, Tensor):
            return
        entry = seen.setdefault(module, Seen(map=last[0]))
        entry.plain &= all(v is first for v in given)
        entry.shapes.add(tuple(first.shape))
        if not entry.args:  # copies: the next layer may compute in place
            kept = first.detach().clone()
            entry.args = tuple(kept if v is first else v for v in args)
            entry.kwargs = {k: kept if v is first else v for k, v in kwargs.items()}

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if module in seen and seen[module].output is None and isinstance(first, Tensor):
            seen[module].output = first.detach().clone()
        if isinstance(module, nn.Conv2d) and isinstance(first, Tensor):
            last[0] = (first.shape[-2], first.shape[-1])

    modes = {module: module.training for module in model.modules()}
    handles = []
    for name, module in model.named_modules():
        if twins.kind(name, module) is not None:
            handles += [module.register_forward_pre_hook(entering, with_kwargs=True)]
            handles += [module.register_forward_hook(leaving)]
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


def _replaced(
    model: nn.Module, seen: Mapping[nn.Module, Seen], twins: Twins, skip: tuple[str, ...], anchored: bool
) -> Softened:
    replaced: dict[str, str] = {}
    left: dict[str, str] = {}
    made: dict[nn.Module, nn.Module] = {}  # a module that stands in two places gets one twin
    ties = _ties(model)
    visited: set[nn.Module] = set()

    def visit(name: str, module: nn.Module) -> nn.Module:
        if module in visited:
            return module
        if isinstance(module, SoftLayer):
            left[name] = "it is soft already"
            return module
        if name in skip:
            left[name] = "as asked"
            return module
        twin = made.get(module)
        try:
            if twin is None and module in ties and twins.kind(name, module) is not None:
                raise Left(f"it shares its {ties[module]} with another module, which two twins would not")
            twin = twin_of(module, name, seen.get(module), twins) if twin is None else twin
        except Left as reason:
            left[name] = str(reason)
        if twin is not None:
            replaced[name], made[module] = type(twin).__name__, twin
            return anchor(twin) if anchored else twin
        visited.add(module)
        if name not in left and (own := [key for key, _ in module.named_parameters(recurse=False)]):
            left[name] = _why(module, own)
        for key, child in list(module._modules.items()):  # named_children() leaves out the second place
            if child is not None:
                setattr(module, key, visit(f"{name}.{key}" if name else key, child))
        return module

    return Softened(visit("", model), replaced, left)


def _ties(model: nn.Module) -> dict[nn.Module, str]:
    """The modules with a parameter, theirs or a child's, that belongs to another module too; and its name."""
    owners: dict[int, set[nn.Module]] = defaultdict(set)
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)].add(module)
    owners.pop(id(None), None)
    return {
        module: name
        for module in model.modules()
        for name, parameter in module.named_parameters()
        if len(owners[id(parameter)]) > 1
    }


def _why(module: nn.Module, own: list[str]) -> str:
    """Why a module of no kind that has a twin is left."""
    if isinstance(module, nn.Linear):
        return f"{type(module).__name__} has no soft twin without representations: declare them in reps"
    names = f" for its own parameters: {', '.join(own)}" if list(module.children()) else ""
    return f"{type(module).__name__} has no soft twin{names}"
