"""A product of groups, each acting on its own index: three bodies on springs, under rotations and permutations.

Positions of particles carry two indices: one that O(3) rotates and one that permutations of the particles move. The
accelerations of masses on equal springs are equivariant under both. Ours hang in a weak field along z, and the first
particle is held more tightly: two small things that the hard network cannot see.
"""

import torch

import softeq
from softeq import Prior, Scalar, T, Vector
from softeq.groups import O, Permutation, separate
from softeq.models.dynamics import SoftEMLP

Pair = tuple[torch.Tensor, torch.Tensor]
PARTICLES = 3


def springs(n: int, generator: torch.Generator) -> Pair:
    """Positions and accelerations, both ``(n, 3 * PARTICLES)``, particle by particle."""
    places = torch.randn(n, PARTICLES, 3, generator=generator)
    apart = places[:, :, None] - places[:, None]
    length = apart.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    pull = -((length - 1.0) * apart / length).sum(2)
    pull[:, :, 2] -= 0.3
    pull[:, 0] *= 1.2
    return places.flatten(1), pull.flatten(1)


def main(steps: int = 600) -> dict[str, float]:
    """Mean squared error on fresh positions by constraint."""
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = springs(300, generator), springs(1000, generator)
    group = separate(O(3), Permutation(PARTICLES))
    axis, particle = Vector.of(0), Vector.of(1)  # an index of the first factor, and one of the second
    positions = (particle * axis)(group)
    # Per particle scalars, vectors and matrices; per pair of particles scalars.
    hidden = 6 * Scalar + 6 * particle + 4 * particle * axis + 2 * particle * T(2).of(0) + 3 * particle**2 + 2 * axis
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        network = SoftEMLP(positions, positions, channels=[hidden, hidden], constraint=constraint)
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
