"""SoftPathways: any two modules as one soft layer. A sum over a set, and a network that knows the order.

The target is the sum of a function over the elements of a set, plus a little of its first element. The equivariant
pathway is a deep set, which no order reaches; the residual one an ordinary network on the list.
"""

import torch
from torch import nn

import softeq
from softeq import Prior, SoftPathways

ELEMENTS = 6


class DeepSet(nn.Module):
    """``(n, 6)`` to ``(n, 1)``, whatever the order."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A sum over the elements."""
        return self.each(x[..., None]).sum(-2)


def main(steps: int = 500) -> dict[str, float]:
    """Root mean squared error on fresh sets by constraint."""
    generator = torch.Generator().manual_seed(0)

    def sets(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = 2 * torch.randn(n, ELEMENTS, generator=generator)
        return x, (x.sin().sum(1) + 0.3 * x[:, 0])[:, None]

    (x, y), (x_test, y_test) = sets(100), sets(1000)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        free = nn.Sequential(nn.Linear(ELEMENTS, 32), nn.Tanh(), nn.Linear(32, 1))
        nn.init.zeros_(free[2].weight if constraint == "soft" else torch.zeros(1))
        model = SoftPathways(
            equivariant=None if constraint == "none" else DeepSet(), residual=None if constraint == "hard" else free
        )
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        rule = softeq.strength.rule("fixed", model, samples=len(x), prior=Prior(equivariant=1e-3, residual=1.0))
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(x)
            rule.backward((output - y).square().mean(), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((model(x_test) - y_test).square().mean().sqrt())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: error {value:.3f}")
