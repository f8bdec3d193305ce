"""The rules of forward mode on Duals: how each operation carries the tangents along.

What the directions share (the slope of an activation, the statistics of a layer normalisation) is computed once. Layer
normalisation without its weights and softmax have symmetric Jacobians, so torch's fused backward kernels are their
forward derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.overrides
from torch import Tensor

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.dual import (
    RULES,
    Dual,
    Rule,
    Unfollowed,
    any_dual,
    at,
    follow,
    through_bits,
    through_numbers,
    values,
    wrapped,
)
from softeq.measure.forward.unruled import QUANTISED, by_torch, refusal

aten = torch.ops.aten

_LINEAR = """
    _unsafe_view _reshape_alias reshape permute transpose t unsqueeze squeeze expand slice select split
    split_with_sizes unbind narrow diagonal unfold alias detach clone contiguous lift_fresh
    sum mean cumsum neg flip roll repeat tril triu index index_select gather
    avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    reflection_pad2d replication_pad2d im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle
    view_as_real view_as_complex _fft_r2c _fft_c2c _fft_c2r
"""
_ELEMENTWISE = """
    relu gelu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu softplus mish
    exp expm1 log log1p sqrt rsqrt reciprocal abs sin cos erf pow clamp clamp_min clamp_max
"""
_FRESH = "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_empty_strided"
_CONSTANT = "eq ne lt le gt ge isnan isfinite argmax argmin"
_STEPS = "heaviside floor_divide"  # constant but at their jumps; torch has no derivative for them


def rules(names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operations of torch.ops.aten; names that this torch does not have are left out."""

    def register(rule: Rule) -> Rule:
        RULES.update({getattr(aten, name): rule for name in names.split() if hasattr(aten, name)})
        return rule

    return register


def named(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an operation by their names, defaults among them."""
    given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return given | dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs


@rules(_LINEAR)
def _linear(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *rest = args
    if any_dual(rest):
        return by_torch(func, args, kwargs)
    return wrapped(func(x.primal, *rest, **kwargs), [func(t, *rest, **kwargs) for t in x.tangents])


@rules("view")
def _view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As another shape it is linear; as another dtype only between real and complex numbers of one precision."""
    if func is aten.view.dtype:
        dtype = func(args[0].primal, *args[1:], **kwargs).dtype
        if dtype.to_real() != args[0].dtype.to_real():
            raise NotMeasurable(through_bits(dtype))
    return _linear(func, args, kwargs)


@rules("_to_copy")
def _cast(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Linear but for the rounding, which in float8 is all that there is."""
    dtype = kwargs.get("dtype") or args[0].dtype
    if dtype.is_floating_point and dtype.itemsize < 2:
        out = func(args[0].primal, *args[1:], **kwargs)
        return Dual(out, refusal(f"{func._schema.name} to {dtype}", QUANTISED))
    return _linear(func, args, kwargs)


@rules("_conj _neg_view")
def _flipped_views(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Views that only say that their numbers are conjugate or negative; no operation below would heed that."""
    done = aten.conj_physical if func is aten._conj.default else aten.neg
    return wrapped(done(args[0].primal), [done(t) for t in args[0].tangents])


@rules(_CONSTANT)
def _constant(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*values(args), **kwargs)


@rules(_FRESH)
def _fresh(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A constant, into which moving values may be written."""
    pattern, *rest = args
    out = func(pattern.primal, *rest, **kwargs)
    return Dual(out, lambda _: [torch.zeros_like(out) for _ in pattern.tangents]) if out.is_floating_point() else out


@rules(_STEPS)
def _steps(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*values(args), **kwargs)
    count = next(len(v.tangents) for v in args if isinstance(v, Dual))
    return wrapped(out, [torch.zeros_like(out)] * count)


@rules("_local_scalar_dense")
def _number(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args[0].is_floating_point() or args[0].is_complex():
        raise NotMeasurable(through_numbers("float(), .item() or a tensor in the place of a number"))
    return func(*values(args))


@rules("as_strided")
def _any_places(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise Unfollowed("as_strided reads the memory behind a tensor, which its tangents do not share")


@rules(_ELEMENTWISE)
def _elementwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *rest = args
    if func is aten.silu.default and x.is_complex():  # whose derivative torch takes as if it were real
        return follow(aten.mul.Tensor, (x, follow(aten.sigmoid.default, (x,), {})), {})
    if not isinstance(x, Dual) or not x.is_floating_point() or any(isinstance(v, Tensor) for v in rest):
        return by_torch(func, args, kwargs)
    with torch.overrides.enable_reentrant_dispatch(), torch.enable_grad():
        leaf = x.primal.detach().requires_grad_()
        out = func(leaf, *rest, **kwargs)
        (slope,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
    return Dual(out.detach(), [t * slope for t in x.tangents])


@rules("cat stack")
def _joined(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    parts, *rest = args
    count = next(len(part.tangents) for part in parts if isinstance(part, Dual))
    tangents = [
        func(
            [part.tangents[i] if isinstance(part, Dual) else torch.zeros_like(part) for part in parts], *rest, **kwargs
        )
        for i in range(count)
    ]
    return wrapped(func(values(parts), *rest, **kwargs), tangents)


@rules("add sub")
def _sum(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a, b, *rest = args
    out = func(*values(args), **kwargs)
    if isinstance(a, Dual) and isinstance(b, Dual):
        return Dual(out, [func(s, t, *rest, **kwargs) for s, t in zip(a.tangents, b.tangents, strict=True)])
    if isinstance(a, Dual):  # fresh tensors, not the operand's own: something may write into them
        return Dual(out, [torch.empty_like(out).copy_(s) for s in a.tangents])
    return Dual(out, [func(torch.zeros_like(out), t, *rest, **kwargs) for t in b.tangents])


@rules("mul")
def _product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a, b = args
    out = func(*values(args))
    return Dual(out, list(_bilinear(func, a, b, lambda s, t: s.add_(t))))


@rules("mm bmm")
def _matrix_product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a, b = args
    out = func(*values(args), **kwargs)
    if isinstance(a, Dual) and isinstance(b, Dual) and func is aten.bmm.default:
        pairs = zip(a.tangents, b.tangents, strict=True)
        return Dual(out, [func(s, b.primal).baddbmm_(a.primal, t) for s, t in pairs])
    return Dual(out, list(_bilinear(func, a, b, lambda s, t: s.add_(t))))


def _bilinear(func: Any, a: Any, b: Any, add: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
    """func(da, b) + func(a, db), whichever of the two are Duals."""
    for i in range(len(a.tangents if isinstance(a, Dual) else b.tangents)):
        terms = [func(a.tangents[i], at(b, None))] if isinstance(a, Dual) else []
        terms += [func(at(a, None), b.tangents[i])] if isinstance(b, Dual) else []
        yield terms[0] if len(terms) == 1 else add(*terms)


@rules("div")
def _quotient(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a, b = args
    if kwargs or not isinstance(a, Dual):  # with rounding, or the less common case
        return by_torch(func, args, kwargs)
    out = func(*values(args))
    if isinstance(b, Dual):
        pairs = zip(a.tangents, b.tangents, strict=True)
        return Dual(out, [torch.addcmul(s, out, t, value=-1).div_(b.primal) for s, t in pairs])
    return Dual(out, [func(t, b) for t in a.tangents])


@rules("addmm")
def _affine_map(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bias, a, weight = args
    if kwargs or not isinstance(a, Dual) or any_dual((bias, weight)):
        return by_torch(func, args, kwargs)
    return Dual(func(bias, a.primal, weight), [torch.mm(t, weight) for t in a.tangents])


@rules("convolution")
def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tangents wait: a batch normalisation that follows scales the weights instead of them."""
    x, weight, bias, *rest = args
    if kwargs or any_dual((weight, bias)):
        return by_torch(func, args, kwargs)
    out, sources = func(x.primal, weight, bias, *rest), x.tangents
    written, transposed = [t._version for t in sources], rest[3]

    def tangents(scale: Tensor | None) -> list[Tensor]:
        if [t._version for t in sources] != written:
            raise Unfollowed("a convolution's input was written into before its output was used")
        scaled = weight
        if scale is not None:
            axes = (1, -1, 1, 1) if transposed else (-1, *[1] * (weight.ndim - 1))
            scaled = (weight * scale.reshape(axes)).to(weight.dtype)
        return [func(t, scaled, None, *rest) for t in sources]

    grouped = transposed and rest[5] != 1  # there the output's channels lie along no single axis of the weight
    return Dual(out, tangents(None) if grouped else tangents)


@rules("native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm")
def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(func, args, kwargs)
    x, *others = args
    variance = given["running_var"]
    if given.get("training", False) or variance is None or any_dual(others):
        return by_torch(func, args, kwargs)
    out, *statistics = func(x.primal, *others, **kwargs)
    scale = (variance + given.get("eps", given.get("epsilon"))).rsqrt()
    if given["weight"] is not None:
        scale = scale * given["weight"]
    scale = scale.to(out.dtype)  # under autocast the statistics are wider than what they normalise
    if x.pending is not None:
        tangents = x.pending(scale)
    else:
        tangents = [t * scale.reshape(-1, *[1] * (x.ndim - 2)) for t in x.tangents]
    return (Dual(out, tangents), *statistics)


@rules("native_layer_norm")
def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, shape, weight, bias, eps = args
    mixed = weight is not None and weight.dtype != x.dtype  # under autocast
    if mixed or any_dual((weight, bias)):
        return by_torch(func, args, kwargs)
    out, mean, rstd = func(x.primal, shape, weight, bias, eps)
    primal, tangents = x.primal.contiguous(), []
    for t in x.tangents:
        parts = (t.contiguous(), primal, shape, mean, rstd, None, None, [True, False, False])
        plain = aten.native_layer_norm_backward(*parts)[0]
        tangents.append(plain if weight is None else plain.mul_(weight))
    lost = refusal(func._schema.name, "gives its statistics no derivative")
    return Dual(out, tangents), Dual(mean, lost), Dual(rstd, lost)


@rules("_softmax _safe_softmax")
def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, axis, *rest = args
    out = func(x.primal, axis, *rest, **kwargs)
    if out.dtype != x.dtype:
        return by_torch(func, args, kwargs)
    return Dual(out, [aten._softmax_backward_data(t, out, axis, out.dtype) for t in x.tangents])


@rules("max_pool2d_with_indices")
def _max_pool(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *rest = args
    out, places = func(x.primal, *rest, **kwargs)
    flat = places.flatten(-2)
    return Dual(out, [t.flatten(-2).gather(-1, flat).view(out.shape) for t in x.tangents]), places
