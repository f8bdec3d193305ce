"""The arms of the derivative benchmark: what is called, for the timing in one process and the memory in several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq.measure.forward.prepare import measurable
from softeq.measure.lie_derivative import affine_derivatives

MODELS = ("resnet50", "vit_small_patch16_224", "convnext_tiny", "mixer_s16_224")
BATCH = 4
SIZE = 224
FORWARD = "forward"
NINE = "nine flows"
CHUNKED = "nine flows, chunks of 2"
PUBLISHED = "published way, one flow"


def prepared(name: str, rows: int, device: str = "cpu") -> tuple[nn.Module, Tensor]:
    """A timm model with random weights in evaluation mode, and a batch ``(rows, 3, 224, 224)``."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval().to(device)
    return model, torch.rand(rows, 3, SIZE, SIZE).to(device)


def arm(kind: str, model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A call of the arm of that name.

    Raises:
        ValueError: no such arm.
    """
    calls: dict[str, Callable[[], object]] = {
        FORWARD: lambda: _forward(model, x),
        NINE: lambda: affine_derivatives(model, x),
        CHUNKED: lambda: affine_derivatives(model, x, chunk=2),
        PUBLISHED: lambda: _double_backward(model, x),
    }
    if kind not in calls:
        raise ValueError(f"arm: expected one of {', '.join(calls)}, got {kind!r}")
    return calls[kind]


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def _double_backward(model: nn.Module, x: Tensor) -> Tensor:
    """d/dt at 0 of the model on images turned by t: ``(rows, classes)``, as the paper's code computes it."""

    def turned(t: Tensor) -> Tensor:
        zero = torch.zeros_like(t)
        rows = [torch.stack([t.cos(), -t.sin(), zero]), torch.stack([t.sin(), t.cos(), zero])]
        theta = torch.stack(rows).expand(len(x), 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=True)
        return model(F.grid_sample(x, grid, padding_mode="reflection", align_corners=True))

    start = torch.zeros((), device=x.device)
    with measurable(model):  # the fused attention kernels have no double backward
        return torch.autograd.functional.jvp(turned, start, torch.ones_like(start))[1]
