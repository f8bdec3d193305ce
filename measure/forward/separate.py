"""Whether a function treats the samples of a batch apart: what every number per sample takes for granted.

Statistics of the batch (batch normalisation without running statistics, or in training mode), attention, a softmax or
a recurrence along the batch, an average over it: then a sample's value, and its derivative, depend on what stands
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.state import held_by
from softeq.testing import TOLERANCES

_SLACK = 10.0  # batches of two sizes go through different kernels, whose rounding adds up over a network

Read = Callable[[Any], Tensor]
End = Callable[[Tensor, int], Tensor]
_ENDS: dict[str, End] = {"first": lambda rows, count: rows[:count], "last": lambda rows, count: rows[-count:]}


def check_batch(value: Tensor, samples: int) -> None:
    """Raises NotMeasurable unless `value` has one entry per sample, (samples, ...)."""
    if value.ndim == 0 or len(value) != samples:
        raise NotMeasurable(
            f"output: expected one entry per sample, ({samples}, ...), got {tuple(value.shape)}; "
            "f must keep the batch axis, and not sum over it"
        )


def check_separate(f: Callable[[Tensor], Any], x: Tensor, value: Tensor, read: Read = lambda raw: raw) -> None:
    """Compare the outputs of both ends of the batch with their outputs alone; a batch of one says nothing.

    Both, for a recurrence along the batch (torch's without batch_first) leaves one end of it to itself.

    Args:
        f, x: the function and the batch (B, ...).
        value: what `read` made of f(x), (B, ...).
        read: picks the tensor that is measured.

    Raises:
        NotMeasurable: they differ; the message names the module where that begins.
    """
    if len(x) < 2:
        return
    for word, end in _ENDS.items():
        alone, out = _without_others(f, end(x, 1), len(x), read)
        gap = _difference(end(value, 1), end(out, 1))
        if gap > max(_limit(value), _limit(x)):
            raise NotMeasurable(
                f"f does not treat the samples of a batch apart: the output of the {word} changes by {gap:.1%} with "
                f"what stands beside it{_where(f, x, alone, end)}; a number per sample would depend on the batch. "
                "Measure one at a time (batch_size=1), or use running statistics"
            )


def _without_others(f: Callable[[Tensor], Any], sample: Tensor, batch: int, read: Read) -> tuple[Tensor, Tensor]:
    """One sample alone, or where f wants as many as there were, as many copies of it; and what `read` makes of f."""
    with measurable(f, fused=True), torch.no_grad():
        try:
            return sample, read(f(sample.clone()))
        except (RuntimeError, ValueError, AssertionError):  # exported programs assert the size of their batches
            pass
    copies = sample.repeat(batch, *[1] * (sample.ndim - 1))
    with measurable(f, fused=True), torch.no_grad():
        return copies, read(f(copies.clone()))


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return 1.0
    a, b = a.double(), b.double()
    return float((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp_min(torch.finfo(torch.float64).tiny))


def _limit(value: Tensor) -> float:
    return min(0.2, _SLACK * TOLERANCES.get(value.dtype, TOLERANCES[torch.float32]))


def _where(f: Callable[[Tensor], Any], x: Tensor, alone: Tensor, end: End) -> str:
    """The first module whose input is the same and whose output is not, in words."""

    def alike(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
        return all(_end_alike(*pair, len(x), len(alone), end) for pair in zip(a, b, strict=False))

    batch, apart = (_outputs(f, z) for z in (x, alone))
    for (name, before, after), (_, before_alone, after_alone) in zip(batch, apart, strict=False):
        if alike(before, before_alone) and not alike(after, after_alone):
            return f" (in the module {name})"
    return " (in the operations between its modules)" if batch else ""


def _outputs(f: Callable[[Tensor], Any], x: Tensor) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """Every call of a submodule, inner ones first: its name and class, its floating inputs and outputs."""
    found: list[tuple[str, list[Tensor], list[Tensor]]] = []
    handles = []

    def watching(label: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            found.append((label, _tensors(args), _tensors(out)))

        return hook

    with measurable(f), torch.no_grad():
        for root in held_by(f):
            for name, module in root.named_modules() if isinstance(root, nn.Module) else ():
                if name:
                    handles.append(module.register_forward_hook(watching(f"{name!r}, {type(module).__name__}")))
        try:
            f(x.clone())
        finally:
            for handle in handles:
                handle.remove()
    return found


def _tensors(values: Any) -> list[Tensor]:
    values = values if isinstance(values, tuple | list) else (values,)
    return [v.detach().clone() for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.ndim]


def _end_alike(a: Tensor, b: Tensor, samples: int, alone: int, end: End) -> bool:
    """Whether one end's part of two tensors is the same; one may hold several rows per sample."""
    rows = len(a) // samples
    if rows * samples != len(a) or rows * alone != len(b):
        return True  # it does not start with the batch, so nothing is said
    return _difference(end(a, rows), end(b, rows)) <= _limit(a)
