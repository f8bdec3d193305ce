"""Lorentz symmetry: is this pair of particles the decay of something heavy?

Toy events generated here (numpy's generator, seed 0; no detector, no shower: not a published set). Signal: a particle
of mass 1 decays in flight into two light ones. Background: two light ones of the same energies, not from one parent.
The invariant mass decides, and it does not change under boosts. A detector that measures energies a fifth too low
along the beam breaks the symmetry a little.
"""

import numpy
import torch

import softeq
from softeq import Prior, Scalar, Vector
from softeq.groups import Lorentz
from softeq.models.dynamics import SoftEMLP


def boosted(momentum: numpy.ndarray, velocity: numpy.ndarray) -> numpy.ndarray:
    """Four-momenta ``(n, 4)``, energy first, seen from a frame in which the parent has this velocity ``(n, 3)``."""
    square = (velocity**2).sum(1, keepdims=True)
    gamma = 1 / numpy.sqrt(1 - square)
    along = (momentum[:, 1:] * velocity).sum(1, keepdims=True)
    energy = gamma * (momentum[:, :1] + along)
    space = momentum[:, 1:] + ((gamma - 1) * along / square + gamma * momentum[:, :1]) * velocity
    return numpy.concatenate([energy, space], 1)


def directions(n: int, rng: numpy.random.Generator) -> numpy.ndarray:
    """Unit vectors ``(n, 3)``."""
    v = rng.normal(size=(n, 3))
    return v / numpy.linalg.norm(v, axis=1, keepdims=True)


def events(n: int, rng: numpy.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two four-momenta per event ``(n, 8)`` as measured, and whether they are a decay ``(n,)``."""
    rest = 0.5 * directions(n, rng)
    half = numpy.full((n, 1), 0.5)
    velocity = directions(n, rng) * rng.uniform(0.3, 0.9, size=(n, 1))
    first, second = boosted(numpy.hstack([half, rest]), velocity), boosted(numpy.hstack([half, -rest]), velocity)
    other = numpy.hstack([second[:, :1], second[:, :1] * directions(n, rng)])
    signal = rng.uniform(size=n) < 0.5
    pair = numpy.concatenate([first, numpy.where(signal[:, None], second, other)], 1)
    pair[:, [3, 7]] *= 0.8  # along the beam the detector reads low
    return torch.tensor(pair, dtype=torch.float32), torch.tensor(signal).long()


def main(steps: int = 300) -> dict[str, float]:
    """Accuracy on fresh events by constraint."""
    rng = numpy.random.default_rng(0)
    (x, y), (x_test, y_test) = events(500, rng), events(4000, rng)
    group = Lorentz()
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        model = SoftEMLP((2 * Vector)(group), (2 * Scalar)(group), channels=32, layers=2, constraint=constraint)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        rule = softeq.strength.rule(
            "fixed", model, samples=len(x), likelihood="categorical", prior=Prior(equivariant=1e-2, residual=300.0)
        )
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(x)
            rule.backward(torch.nn.functional.cross_entropy(output, y), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((model(x_test).argmax(1) == y_test).float().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: accuracy {value:.3f}")
