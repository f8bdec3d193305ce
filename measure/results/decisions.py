"""What finite motions do to a classifier's decisions, probabilities and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class Decisions:
    """What the motions do to a classifier.

    Attributes:
        kept: (S, B) float64, 1 where the largest output stays that of the same class, else 0.
        probability: (S, B), change of the probability of the class that is the largest at 0, signed.
        loss_share: (S, B), with labels: of the cross-entropy, averaged over the sample and its moved twin, the part
            that averaging their probabilities would save: what the difference between the two costs, in [0, 1]. NaN
            without a label. None without labels.
        loss: (S, B), with labels: that averaged cross-entropy, in nats; `loss_share` times it is the cost.
    """

    kept: Tensor
    probability: Tensor
    loss_share: Tensor | None = None
    loss: Tensor | None = None


def decisions_of(output: str, value: Tensor, after: Tensor, labels: Tensor | None, still: Tensor) -> Decisions | None:
    """Of one motion, entries (B,); None for outputs that hold no classes.

    Args:
        output: the output space.
        value, after: (B, K), before and after the motion, probabilities or logits as `output` says.
        labels: (B,), negative where there is none; None.
        still: (B,) bool, samples that do not move.
    """
    if output not in ("probabilities", "logits") or value.ndim != 2 or value.shape[1] < 2:
        return None
    p, q = (v.double() if output == "probabilities" else v.double().softmax(1) for v in (value, after))
    top = p.argmax(1, keepdim=True)
    kept = (q.argmax(1, keepdim=True) == top).double()[:, 0].masked_fill(still, torch.nan)
    change = (q.gather(1, top) - p.gather(1, top))[:, 0].masked_fill(still, torch.nan)
    if labels is None:
        return Decisions(kept.cpu(), change.cpu())
    labels = labels.to(p.device, torch.long)
    known = (labels >= 0) & (labels < p.shape[1]) & ~still
    true = torch.where(known, labels, 0)[:, None]
    a, b = (r.gather(1, true)[:, 0].clamp_min(torch.finfo(torch.float64).tiny) for r in (p, q))
    loss = -(a.log() + b.log()) / 2
    cost = loss + ((a + b) / 2).log()  # Jensen: at least 0
    share = torch.where(loss > 0, cost / loss, 0.0).clamp(0, 1)
    return Decisions(kept.cpu(), change.cpu(), *(v.masked_fill(~known, torch.nan).cpu() for v in (share, loss)))


def stacked(parts: Sequence[Decisions | None]) -> Decisions | None:
    """Of several motions, from those of each."""
    return _combined(parts, torch.stack)


def joined_decisions(parts: Sequence[Decisions | None]) -> Decisions | None:
    """Of all samples, from those of the batches."""
    return _combined(parts, lambda tensors: torch.cat(tensors, 1))


def _combined(parts: Sequence[Decisions | None], combine: Callable[[list[Tensor]], Tensor]) -> Decisions | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    shares = [part.loss_share for part in known if part.loss_share is not None]
    losses = [part.loss for part in known if part.loss is not None]
    return Decisions(
        combine([part.kept for part in known]),
        combine([part.probability for part in known]),
        combine(shares) if shares else None,
        combine(losses) if losses else None,
    )
