"""The few tensor operations that every training step of a soft layer runs, with their derivatives written out.

Automatic differentiation of the same formulas is right but two to three times slower on a CPU: each gather, cast and
product leaves a node that reads and writes a whole weight. A projection is its own adjoint, so its backward pass is
one more projection. ``torch.compile`` and ``torch.jit.trace`` get the plain formulas, which a compiler fuses by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class OrbitBasis(NamedTuple):
    """A basis whose tensors share no entry: entry e is of tensor ``labels[e]`` and has the value ``weights[e]``."""

    labels: Tensor
    weights: Tensor
    rank: int

    def coefficients(self, rows: Tensor) -> Tensor:
        """``(rows, entries)`` to ``(rows, rank)``."""
        return rows.new_zeros(len(rows), self.rank).index_add(1, self.labels, rows * self.weights)

    def expanded(self, coefficients: Tensor) -> Tensor:
        """``(rows, rank)`` to ``(rows, entries)``."""
        return coefficients.index_select(1, self.labels) * self.weights.to(coefficients.dtype)


Basis = Tensor | OrbitBasis | None
"""``(entries, rank)`` with orthonormal columns, or by orbits; ``None`` where the projection is the identity."""


class Blocks:
    """Where the blocks of each tensor type lie in a flat weight, and what they are projected on.

    Args:
        places: flat places of all blocks, type after type, ``(sum rows * entries,)``.
        shapes: per type ``(rows, entries)``: a row per block, its entries in the type's order.
        bases: per type what its blocks are projected on.
    """

    def __init__(self, places: Tensor, shapes: list[tuple[int, int]], bases: Sequence[Basis]) -> None:
        self.places, self.shapes, self.bases = places, shapes, bases

    def gather(self, weight: Tensor) -> list[tuple[Tensor, Basis]]:
        """Per type its blocks ``(rows, entries)`` and its basis, in the wider of the two dtypes."""
        flat = weight.reshape(-1).index_select(0, self.places)
        gathered: list[tuple[Tensor, Basis]] = []
        sizes = [rows * entries for rows, entries in self.shapes]
        for part, shape, basis in zip(flat.split(sizes), self.shapes, self.bases, strict=True):
            if basis is not None:
                part, basis = _in_one_dtype(part, basis)
            gathered.append((part.view(shape), basis))
        return gathered

    def coefficients(self, weight: Tensor) -> list[Tensor]:
        """Per type the blocks in terms of its basis, ``(rows, rank)``, in the wider of the two dtypes."""
        return [_coefficients(part, basis) for part, basis in self.gather(weight)]

    def expanded(self, weight: Tensor, coefficients: list[Tensor]) -> Tensor:
        """What such coefficients stand for, flat, in the order of ``places`` and the weight's dtype."""
        if not self.shapes:  # nothing is equivariant: an empty tensor that still knows its weight
            return weight.reshape(-1).index_select(0, self.places)
        parts = [_expanded(part, basis).reshape(-1) for part, basis in zip(coefficients, self.bases, strict=True)]
        return torch.cat([part.to(weight.dtype) for part in parts])

    def projected(self, weight: Tensor) -> Tensor:
        """The projected blocks of a weight, flat, in the order of ``places`` and the weight's dtype."""
        return self.expanded(weight, self.coefficients(weight))


def _in_one_dtype(part: Tensor, basis: Tensor | OrbitBasis) -> tuple[Tensor, Tensor | OrbitBasis]:
    own = basis.weights if isinstance(basis, OrbitBasis) else basis
    if own.dtype == part.dtype:
        return part, basis
    wide = torch.promote_types(own.dtype, part.dtype)
    own = own.to(wide)
    return part.to(wide), basis._replace(weights=own) if isinstance(basis, OrbitBasis) else own


def _coefficients(part: Tensor, basis: Basis) -> Tensor:
    if basis is None:
        return part
    return basis.coefficients(part) if isinstance(basis, OrbitBasis) else part @ basis


def _expanded(part: Tensor, basis: Basis) -> Tensor:
    if basis is None:
        return part
    return basis.expanded(part) if isinstance(basis, OrbitBasis) else part @ basis.T.to(part.dtype)


def unsharded(weight: Tensor) -> Tensor:
    """A plain tensor: under FSDP2 a parameter is whole in the forward pass alone, and a penalty is outside of it."""
    full = getattr(weight, "full_tensor", None)
    return weight if full is None else full()


def add_projection(base: Tensor | None, weight: Tensor, blocks: Blocks) -> Tensor:
    """``base + P(weight)``, same shapes; ``P(weight)`` alone where base is ``None``."""
    if written_out():
        return _add_projection(base, weight, blocks)
    if base is None:
        return _Projection.apply(weight, blocks)
    return _AddProjection.apply(base, weight, blocks)


def weighted_squares(factors: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """``sum_i factors[i] ||tensors[i]||^2``, 0-d: one node for all of them."""
    first = tensors[0]
    alike = all(t.dtype == first.dtype and t.device == first.device and not hasattr(t, "full_tensor") for t in tensors)
    if alike and not written_out() and not any(isinstance(factor, Tensor) for factor in factors):
        return _WeightedSquares.apply(tuple(factors), *tensors)
    terms = [factor * unsharded(t.square().sum()) for factor, t in zip(factors, tensors, strict=True)]
    return sum(terms[1:], terms[0])


def split_squared_norm(weight: Tensor, blocks: Blocks, inside: float, outside: float) -> Tensor:
    """``inside ||P(W)||^2 + outside ||W - P(W)||^2``, 0-d."""
    if written_out():
        return _sum_of_squares(weight, blocks.coefficients(weight), inside, outside)
    return _SplitSquaredNorm.apply(weight, blocks, inside, outside)[0]


def contract(a: Tensor, b: Tensor) -> Tensor:
    """``sum_k a[p, k] b[q, k]`` for every row of a batch: ``(p, k, rows)`` and ``(q, k, rows)`` to ``(p, q, rows)``.

    A batched matrix product of such small matrices takes a CPU a microsecond per row, whatever their size.
    """
    if a.dtype != b.dtype:  # under autocast
        wide = torch.promote_types(a.dtype, b.dtype)
        a, b = a.to(wide), b.to(wide)
    if written_out():
        return (a[:, None] * b[None]).sum(2)  # one loop, without the product in memory
    return _Contract.apply(a, b)


def written_out() -> bool:
    """Whether a compiler wants the plain formulas, or ``torch.jit.trace``, which saves no functions of ours."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _add_projection(base: Tensor | None, weight: Tensor, blocks: Blocks) -> Tensor:
    values = blocks.projected(weight)
    if base is not None:
        return base.reshape(-1).scatter_add(0, blocks.places, values).view(weight.shape)
    empty = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    return empty.view(-1).scatter_add_(0, blocks.places, values).view(weight.shape)


def _sum_of_squares(weight: Tensor, coefficients: list[Tensor], inside: float, outside: float) -> Tensor:
    projected = weight.new_zeros(())
    for part in coefficients:
        projected = projected + torch.dot(part.reshape(-1), part.reshape(-1)).to(weight.dtype)
    flat = weight.reshape(-1)
    return outside * torch.dot(flat, flat) + (inside - outside) * projected


class _Projection(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, blocks: Blocks) -> Tensor:
        return _add_projection(None, weight, blocks)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.blocks = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _add_projection(None, grad, ctx.blocks), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _add_projection(None, tangent, ctx.blocks)


class _AddProjection(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(base: Tensor, weight: Tensor, blocks: Blocks) -> Tensor:
        return _add_projection(base, weight, blocks)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.blocks = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, _add_projection(None, grad, ctx.blocks), None

    @staticmethod
    def jvp(ctx: Any, base: Tensor, weight: Tensor, *_: None) -> Tensor:
        return _add_projection(base, weight, ctx.blocks)


class _WeightedSquares(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(factors: tuple[float, ...], *tensors: Tensor) -> Tensor:
        flat = [tensor.reshape(-1) for tensor in tensors]
        total = factors[0] * torch.dot(flat[0], flat[0])
        for factor, one in zip(factors[1:], flat[1:], strict=True):
            total = total + factor * torch.dot(one, one)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factors = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.factors, ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return None, *(tensor * (2 * factor * grad) if need else None for factor, tensor, need in wanted)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        pairs = zip(ctx.factors, ctx.saved_tensors, tangents, strict=True)
        parts = [2 * factor * (tensor * tangent).sum() for factor, tensor, tangent in pairs if tangent is not None]
        return sum(parts[1:], parts[0])


class _SplitSquaredNorm(torch.autograd.Function):
    """Returns the sum of squares and, for its backward pass alone, the weight's coefficients in each type's basis."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, blocks: Blocks, inside: float, outside: float) -> tuple[Tensor, ...]:
        coefficients = blocks.coefficients(weight)
        return _sum_of_squares(weight, coefficients, inside, outside), *coefficients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.save_for_forward(inputs[0])
        ctx.rest = inputs[1:]

    @staticmethod
    def _gradient(ctx: Any, factor: Tensor | float) -> Tensor:
        (weight, *coefficients), (blocks, inside, outside) = ctx.saved_tensors, ctx.rest
        # The kept coefficients are constants to autograd: a second derivative needs those of the weight itself.
        if torch.is_grad_enabled() or not coefficients:
            coefficients = blocks.coefficients(weight)
        gradient = (weight * (2 * outside * factor)).contiguous()
        values = blocks.expanded(weight, coefficients) * (2 * (inside - outside) * factor)
        gradient.view(-1).scatter_add_(0, blocks.places, values)
        return gradient

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        return _SplitSquaredNorm._gradient(ctx, grad), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        found = (_SplitSquaredNorm._gradient(ctx, 1.0) * tangent).sum()
        return found, *[None] * len(ctx.rest[0].shapes)


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        factors = zip(a[:, None].unbind(2), b[None].unbind(2), strict=True)
        total = torch.mul(*next(factors))
        for of_a, of_b in factors:
            total.addcmul_(of_a, of_b)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        return (
            contract(grad, b.transpose(0, 1)) if ctx.needs_input_grad[0] else None,
            contract(grad.transpose(0, 1), a.transpose(0, 1)) if ctx.needs_input_grad[1] else None,
        )

    @staticmethod
    def jvp(ctx: Any, of_a: Tensor, of_b: Tensor) -> Tensor:
        a, b = ctx.saved_tensors
        return contract(of_a, b) + contract(a, of_b)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
        # Rows do not meet, so what is mapped over is more rows; the loop in place would not do for mapped tensors.
        a, b = (
            x[..., None].expand(*x.shape, info.batch_size) if at is None else x.movedim(at, -1)
            for x, at in zip((a, b), in_dims, strict=True)
        )
        return contract(a.flatten(2), b.flatten(2)).unflatten(2, a.shape[2:]), 3
