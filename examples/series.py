"""SoftConv1d: days of a series whose filter drifts a little with the hour.

A system answers a signal by a filter of five hours (generated here, seed 0). It is nearly the same filter at every hour
of the day, and drifts from midnight to midnight. A hard convolution has one filter, unshared weights learn each hour
anew from forty days. `SoftConv3d` does the same for volumes.
"""

import torch
from torch import nn

import softeq
from softeq import Prior, SoftConv1d

HOURS = 24


def days(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals ``(n, 1, 24)`` and noisy answers of the same shape."""
    x = torch.randn(n, 1, HOURS, generator=generator)
    windows = nn.functional.pad(x, (2, 2)).unfold(2, 5, 1)[:, 0]
    phase = torch.arange(HOURS) * (2 * torch.pi / HOURS)
    filters = torch.tensor([0.1, 0.3, 0.6, 0.3, 0.1]) + 0.2 * torch.sin(phase)[:, None] * torch.tensor(
        [1.0, 0.5, 0.0, -0.5, -1.0]
    )
    y = (windows * filters).sum(2)[:, None]
    return x, y + 0.1 * torch.randn(y.shape, generator=generator)


def main(steps: int = 400) -> dict[str, float]:
    """Mean squared error on fresh days by constraint; 0.01 is the noise."""
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = days(40, generator), days(1000, generator)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        layer = SoftConv1d(1, 1, 5, padding=2, size=HOURS, residual="local", constraint=constraint)
        optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
        rule = softeq.strength.rule("fixed", layer, samples=len(x), prior=Prior(equivariant=1e-3, residual=0.3))
        for _ in range(steps):
            optimizer.zero_grad()
            output = layer(x)
            rule.backward((output - y).square().mean(), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((layer(x_test) - y_test).square().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: test mse {value:.4f}")
