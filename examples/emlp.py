"""SoftEMLP (SoftLinear, SoftBilinear, SoftGated): the moment of inertia of two bodies under a preferred axis.

The tensor sum m (r^2 I - r r^T) is equivariant under O(3). Ours has an extra term along z, as in the modified inertia
problem of Finzi, Benton, Wilson (2021). The hard network cannot see it, the unconstrained one needs far more data.
"""

import torch

import softeq
from softeq import Prior, Scalar, T, Vector
from softeq.groups import O
from softeq.models.dynamics import SoftEMLP

Pair = tuple[torch.Tensor, torch.Tensor]


def bodies(n: int, generator: torch.Generator) -> Pair:
    """Masses and positions ``(n, 8)``, tensors ``(n, 9)``."""
    x = torch.randn(n, 8, generator=generator)
    masses, places = torch.nn.functional.softplus(x[:, :2]), x[:, 2:].view(n, 2, 3)
    square = places.square().sum(2)[:, :, None, None] * torch.eye(3)
    tensor = (masses[:, :, None, None] * (square - places[..., None] * places[:, :, None, :])).sum(1)
    tensor[:, :, 2] += 0.3 * tensor[:, :, 2]
    return torch.cat([masses, x[:, 2:]], 1), tensor.flatten(1)


def main(steps: int = 600) -> dict[str, float]:
    """Mean squared error on fresh bodies by constraint."""
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = bodies(300, generator), bodies(1000, generator)
    group = O(3)
    rep_in, rep_out = (2 * Scalar + 2 * Vector)(group), T(2)(group)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        network = SoftEMLP(rep_in, rep_out, channels=48, layers=2, constraint=constraint)
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        rule = softeq.strength.rule("fixed", network, samples=len(x), prior=Prior(equivariant=1e-3, residual=10.0))
        for _ in range(steps):
            rows = torch.randint(len(x), (250,), generator=generator)
            optimizer.zero_grad()
            output = network(x[rows])
            rule.backward((output - y[rows]).square().mean(), output)
            optimizer.step()
            rule.step(optimizer)
            schedule.step()
        with torch.no_grad():
            found[constraint] = float((network(x_test) - y_test).square().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: test MSE {value:.3f}")
