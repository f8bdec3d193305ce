"""The few tensor operations that every training step of a soft layer runs, with their derivatives written out.

Automatic differentiation of the same formulas is right but two to three times slower on a CPU: each gather, cast and
product leaves a node that reads and writes a whole weight. A projection is its own adjoint, so its backward pass is
one more projection. ``torch.compile`` and ``torch.jit.trace`` get the plain formulas, which a compiler fuses by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softeq._blocks import Blocks

_FITS = 1 << 17
"""Entries of a product of two tensors that a processor's cache holds beside them."""


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
    # A function of ours costs more to call than most of these products to compute: where nothing is recorded, as in a
    # backward pass, it is left out.
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return _Contract.apply(a, b)
    return _contracted(a, b)


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


def _contracted(a: Tensor, b: Tensor) -> Tensor:
    pairs = a.shape[0] * b.shape[0]
    if a.shape[1] > 3 and pairs * a.shape[1] * a.shape[2] <= _FITS:
        return (a[:, None] * b[None]).sum(2)  # two calls, where a loop over k makes as many as there are k
    factors = zip(a[:, None].unbind(2), b[None].unbind(2), strict=True)
    total = torch.mul(*next(factors))
    for of_a, of_b in factors:
        total.addcmul_(of_a, of_b)
    return total


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
        return _contracted(a, b)

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
