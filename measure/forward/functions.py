"""Functions that Duals meet whole, before torch breaks them into operations: attention and padding.

`push_duals` is the way in: importing this file brings all rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softeq.measure.forward import matrices as matrices  # brings its rules
from softeq.measure.forward.dual import FUNCTIONS, Dual, at
from softeq.measure.forward.rules import aten


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """F.scaled_dot_product_attention with its weights computed once for all directions."""
    operands = (query, key, value)
    leading = {tuple(operand.shape[:-2]) for operand in operands}
    if dropout_p or is_causal or enable_gqa or len(leading) != 1 or query.ndim < 3 or isinstance(attn_mask, Dual):
        return NotImplemented
    if _differentiated_inside(operands):
        return NotImplemented
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (_flat(at(operand, None)) for operand in operands)
    weights = _masked_softmax(torch.baddbmm(q.new_empty(1, 1, 1), q, k.mT, beta=0, alpha=factor), query, attn_mask)
    shape = (*query.shape[:-1], value.shape[-1])
    count = next(len(operand.tangents) for operand in operands if isinstance(operand, Dual))
    values = (at(query, None), at(key, None))
    tangents = [_attention_tangent(weights, (q, k, v), values, _tangents_of(operands, i), factor) for i in range(count)]
    return Dual(torch.bmm(weights, v).view(shape), [t.view(shape) for t in tangents])


def _masked_softmax(logits: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return logits.softmax(-1)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=logits.dtype).masked_fill_(mask.logical_not(), -torch.inf)
    masked = logits.view(*query.shape[:-1], logits.shape[-1]) + mask
    return aten._safe_softmax(masked, -1).view_as(logits)  # 0 where everything is masked


def _attention_tangent(
    weights: Tensor,
    flat: tuple[Tensor, Tensor, Tensor],
    whole: tuple[Tensor, Tensor],
    tangents: Sequence[Tensor | None],
    factor: float,
) -> Tensor:
    """(B * heads, N, d): the derivative of weights @ v; `flat` are q, k, v in that shape, `whole` q and k as given."""
    (q, k, v), (dq, dk, dv) = flat, tangents
    found = None if dv is None else torch.bmm(weights, _flat(dv))
    if dq is None and dk is None:
        return torch.zeros_like(q[..., :1]) if found is None else found
    if dq is not None and dk is not None:  # dq k + q dk as one product: the large matrix is written once
        logits = torch.bmm(_flat(torch.cat([dq, whole[0]], -1)), _flat(torch.cat([whole[1], dk], -1)).mT)
    else:
        logits = torch.bmm(q, _flat(dk).mT) if dk is not None else torch.bmm(_flat(dq), k.mT)  # type: ignore[arg-type]
    moved = aten._softmax_backward_data(logits, weights, -1, weights.dtype)
    start = weights.new_zeros(1, 1, 1) if found is None else found
    return torch.baddbmm(start, moved, v, beta=0 if found is None else 1, alpha=factor)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:])


def _tangents_of(operands: Sequence[Tensor], direction: int) -> list[Tensor | None]:
    return [o.tangents[direction] if isinstance(o, Dual) else None for o in operands]


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """F.pad: in parts, it would write into an empty tensor."""
    if not isinstance(input, Dual) or _differentiated_inside((input,)):
        return NotImplemented
    return Dual(F.pad(input.primal, pad, mode, value), [F.pad(t, pad, mode) for t in input.tangents])


def _differentiated_inside(operands: Sequence[Tensor]) -> bool:
    """Whether f takes a gradient itself: it has to see the parts of a function."""
    return torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)


def _truth(x: Tensor) -> bool:
    """A condition is a step: constant but at its jumps, so that nothing is lost."""
    return bool(at(x, None))


def _whole(x: Tensor) -> int:
    """A whole number is a step, too."""
    return int(at(x, None))


FUNCTIONS.update({F.scaled_dot_product_attention: _attention, F.pad: _pad})
FUNCTIONS.update({Tensor.__bool__: _truth, Tensor.is_nonzero: _truth, torch.is_nonzero: _truth, Tensor.__int__: _whole})


def push_duals(f: Callable[[Tensor], Any], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and its derivatives along `directions` (k, *x.shape), by Duals.

    Raises:
        Unfollowed: f does something that Duals cannot follow.
    """
    out = f(Dual(x, directions.unbind(0)))
    if isinstance(out, Dual):
        return out.primal, torch.stack(out.tangents)
    return out, out.new_zeros(len(directions), *out.shape)  # f does not look at x
