"""Operations without a rule of their own: torch's forward mode, else forward over reverse, else a refusal by name.

An operation whose forward mode torch does not know counts there as constant, without a word, wherever it is not one of
torch's own (a custom operation, torchvision's). So forward mode is asked strictly: a floating output whose tangent it
does not mention is no constant. Whole numbers and conditions are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch
import torch.overrides
from torch import Tensor
from torch.utils import _pytree as pytree

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.dual import RULES, Dual
from softeq.measure.forward.reverse import NoReverse, check_by_differences, forward_over_reverse
from softeq.measure.forward.state import DRAWS

Leaves = list[Any]
QUANTISED = (
    "quantises: its values are steps, whose derivative is 0 or does not exist; measure the network before quantisation"
)
"""Why what quantises is refused, after the operation's name."""


def by_torch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any operation on Duals, by what torch knows of it.

    What has no derivative is refused where the derivative is asked for, and not before: it may serve a comparison.
    """
    leaves, structure = pytree.tree_flatten((list(args), kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Dual)]
    operation = _Operation(func, leaves, structure, places)
    with as_outside():
        out, shape = pytree.tree_flatten(operation.of([leaves[i].primal for i in places]))
        out = [_written_out(v) if _continuous(v) else v for v in out]
    if any(isinstance(value, Tensor) and value.is_quantized for value in out):
        raise NotMeasurable(f"f uses {operation.name}, which {QUANTISED}")
    moving = [i for i, value in enumerate(out) if _continuous(value)]
    tangents = _tangents(operation, moving) if moving else {}
    filled = [Dual(value, tangents[i]) if i in tangents else value for i, value in enumerate(out)]
    return pytree.tree_unflatten(filled, shape)


@contextmanager
def as_outside() -> Iterator[None]:
    """Operations as they are outside of `__torch_dispatch__`, where nothing heeds that a tensor is lazily conjugate."""
    with torch.overrides.enable_reentrant_dispatch(), torch.no_grad():
        yield


def _continuous(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _written_out(value: Tensor) -> Tensor:
    """A tensor that is what its memory says: not lazily conjugate or negative, nor a zero without memory."""
    return torch.zeros_like(value) if value._is_zerotensor() else value.resolve_conj().resolve_neg()


class _Operation:
    """An operation as a function of its moving arguments alone."""

    def __init__(self, func: Any, leaves: Leaves, structure: Any, places: list[int]) -> None:
        self.func, self.name = func, func._schema.name
        self.random = torch.Tag.nondeterministic_seeded in func.tags
        self._leaves, self._structure, self._places = leaves, structure, places
        duals = [leaves[i] for i in places]
        self.primals = tuple(dual.primal for dual in duals)
        self.directions = list(zip(*(dual.tangents for dual in duals), strict=True))

    def of(self, moving: Sequence[Tensor], leaves: Leaves | None = None) -> Any:
        """What it returns, with these in the place of the Duals."""
        filled = list(self._leaves if leaves is None else leaves)
        for i, value in zip(self._places, moving, strict=True):
            filled[i] = value
        positional, named = pytree.tree_unflatten(filled, self._structure)
        return self.func(*positional, **named)

    def outputs(self, wanted: Sequence[int]) -> Callable[..., tuple[Tensor, ...]]:
        """As a function from tensors to those of its outputs."""
        return lambda *moving: tuple(pytree.tree_leaves(self.of(moving))[i] for i in wanted)

    def wide(self, wanted: Sequence[int]) -> Callable[..., tuple[Tensor, ...]]:
        """The same on float64 tensors."""
        leaves = [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in self._still()]
        return lambda *moving: tuple(pytree.tree_leaves(self.of(moving, leaves))[i] for i in wanted)

    def _still(self) -> Leaves:
        return [None if isinstance(v, Dual) else v for v in self._leaves]


def _tangents(operation: _Operation, moving: list[int]) -> dict[int, Any]:
    """Per output its tangents, or what refuses them when they are asked for."""
    with as_outside():
        try:
            return _by_forward(operation, moving)
        except (RuntimeError, NotImplementedError):
            # Some outputs may have a derivative, and others none: statistics on the side, say.
            return {i: _of_one(operation, i, several=len(moving) > 1) for i in moving}


def _of_one(operation: _Operation, i: int, several: bool) -> Any:
    if several:
        with suppress(RuntimeError, NotImplementedError):
            return _by_forward(operation, [i])[i]
    try:
        return _by_reverse(operation, [i])[i]
    except NoReverse as error:
        return refusal(operation.name, DRAWS if operation.random else str(error))
    except (RuntimeError, NotImplementedError) as error:
        return refusal(operation.name, f"has no derivative ({str(error).splitlines()[0][:120]})")


def _by_forward(operation: _Operation, moving: list[int]) -> dict[int, list[Tensor]]:
    f = operation.outputs(moving)
    found = [torch.func.jvp(f, operation.primals, t, strict=True)[1] for t in operation.directions]
    return {i: [_written_out(tangents[n]) for tangents in found] for n, i in enumerate(moving)}


def _by_reverse(operation: _Operation, moving: list[int]) -> dict[int, list[Tensor]]:
    f = operation.outputs(moving)
    _, found = forward_over_reverse(f, operation.primals, operation.directions)
    check_by_differences(f, operation.wide(moving), operation.primals, operation.directions, found)
    return {i: [tangents[n] for tangents in found] for n, i in enumerate(moving)}


def refusal(name: str, reason: str) -> Callable[[Any], NoReturn]:
    """Tangents of an output that has none: asking for them raises NotMeasurable, naming the operation."""
    quantised = "quantiz" in name or "quantized" in name
    message = f"f uses {name}, which {QUANTISED if quantised else reason}"

    def refuse(_: Any) -> NoReturn:
        raise NotMeasurable(message)

    return refuse


RULES[None] = by_torch
