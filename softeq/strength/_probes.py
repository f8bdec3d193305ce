"""What a rule learns about the likelihood from a loss and an output: its scale, the noise, and random probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError

_TINY = 1e-30


def check_output(output: object, likelihood: str) -> Tensor:
    """The output, or an error where it does not fit the likelihood."""
    if not isinstance(output, Tensor):
        raise SofteqTypeError(
            f"output: expected the tensor that the loss was computed from, as rule.backward(loss, output), got "
            f"{type(output).__name__}"
        )
    if not output.is_floating_point() or output.ndim < 1 or not output.numel() or not output.requires_grad:
        raise SofteqValueError(
            f"output: expected a floating point tensor (B, ...) with its graph, got {output.dtype} of shape "
            f"{tuple(output.shape)}, requires_grad={output.requires_grad}"
        )
    if likelihood == "categorical" and (output.ndim != 2 or output.shape[1] < 2):
        raise SofteqValueError(
            f"output: expected logits (B, classes) under likelihood='categorical', got {tuple(output.shape)}; for "
            "squared errors say likelihood='gaussian'"
        )
    return output


def probe_of(output: Tensor, likelihood: str, generator: torch.Generator) -> Tensor:
    """Random u of the output's shape with the covariance of the likelihood's curvature in the output.

    Gaussian: independent signs, covariance 1 (to be divided by the noise's variance). Categorical: the class y drawn
    from the prediction p and ``+-(onehot(y) - p)``, covariance ``diag p - p p'``. Independent between samples.
    """
    if likelihood == "gaussian":
        signs = torch.randint(0, 2, output.shape, generator=generator)
        return (2 * signs - 1).to(output)
    p = output.detach().float().softmax(1)
    drawn = torch.multinomial(p.cpu(), 1, generator=generator).to(p.device)
    u = torch.zeros_like(p).scatter_(1, drawn, 1.0) - p
    sign = 2 * torch.randint(0, 2, (len(p), 1), generator=generator) - 1
    return (u * sign.to(u)).to(output.dtype)


def scale_of(loss: Tensor, output: Tensor, likelihood: str) -> float:
    """The factor a of the loss: ``a mean_n ||r_n||^2`` (Gaussian), or a times the mean cross-entropy (categorical).

    Read off the loss's gradient in the output: 1 / outputs for ``mse_loss``, the batch size for a sum over it. So that
    targets in other units, or a sum for a mean, leave the optimum of loss and prior where it should be.
    """
    (gradient,) = torch.autograd.grad(loss, output, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise SofteqValueError("output: expected the tensor that the loss was computed from, it has no gradient there")
    gradient, batch = gradient.detach().double(), output.shape[0]
    if likelihood == "gaussian":
        return float(batch * gradient.square().sum() / (4 * loss.detach().double()).clamp_min(_TINY))
    p = output.detach().double().softmax(1)
    # The gradient is a / B (p - onehot(y)): negative at y alone.
    others = gradient > 0
    return float(batch * gradient[others].sum() / p[others].sum().clamp_min(_TINY))


@contextmanager
def graph_kept() -> Iterator[None]:
    """A compiled model would hand its buffers to the first of the two backward passes; not inside this."""
    from torch._functorch import config

    with config.patch(donated_buffer=False):
        yield


@contextmanager
def read_twice(output: Tensor) -> Iterator[None]:
    """Around a backward pass that is not the last one through the graph of ``output``.

    torch refuses it for all code that a compiler made for one pass, and for some that it made for two: what was
    compiled inside `graph_kept`, but whose first backward pass was the only one of its step. The former is refused.

    Raises:
        SofteqValueError: the model was compiled for one backward pass, before it ran in the rule's loop.
    """
    from torch._functorch import config

    functions = [getattr(node, "_forward_cls", None) for node in _nodes(output)]  # of an eager graph ours, too
    known: list[Any] = [getattr(function, "metadata", None) for function in functions]
    compiled = [metadata.bw_donated_idxs for metadata in known if hasattr(metadata, "bw_donated_idxs")]
    if any(compiled):
        raise SofteqValueError(
            "output: the compiled model was trained before it came to this rule, and its code overwrites what the rule "
            "reads again; call torch.compiler.reset() once the rule is made, or make all training calls inside "
            "rule.perturbed()"
        )
    with config.patch(donated_buffer=False) if compiled else nullcontext():
        yield


def _nodes(output: Tensor) -> Iterator[Any]:
    seen: set[Any] = {None}
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [after for after, _ in node.next_functions]
            yield node


def average_over_ranks(values: list[Tensor]) -> None:
    """Replaces each tensor by its mean over the processes of a distributed training, in place."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for value in values:
            dist.all_reduce(value)
            value /= dist.get_world_size()


def rank() -> int:
    """Of this process, 0 alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
