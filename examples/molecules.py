"""SoftPotential: water in a field that the model is not told of.

Energies from a model of our own (harmonic bonds and angle, point charges in a uniform field of 0.5 V/Angstrom along
z; generated here, seed 0: a toy, not quantum chemistry). Without the field the energy does not care about the
direction of the molecule; with it, it does. Needs the extra `molecules`.
"""

import torch

import softeq
from softeq import Prior
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential

CHARGES = torch.tensor([-0.66, 0.33, 0.33])
EQUILIBRIUM = torch.tensor([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])


def energies(places: torch.Tensor, field: float) -> torch.Tensor:
    """``(n, 3, 3)`` Angstrom to ``(n,)`` eV."""
    bonds = (places[:, 1:] - places[:, :1]).norm(dim=2)
    apart = (places[:, 1] - places[:, 2]).norm(dim=1)
    strain = 15 * (bonds - 0.957).square().sum(1) + 5 * (apart - 1.514).square()
    return strain - field * (CHARGES * places[:, :, 2]).sum(1)


def waters(n: int, field: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Distorted molecules in random directions, and their energies."""
    turn = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator)).Q
    places = EQUILIBRIUM @ turn.mT + 0.05 * torch.randn(n, 3, 3, generator=generator)
    return places, energies(places, field)


def main(steps: int = 150) -> dict[str, float]:
    """Mean absolute error of the energy in eV on fresh molecules, by constraint."""
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = waters(100, 0.5, generator), waters(200, 0.5, generator)
    species = torch.tensor([8, 1, 1])
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        model = SoftPotential((1, 8), channels=8, constraint=constraint, neighbours=2.0)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        rule = softeq.strength.rule("fixed", model, samples=len(x), prior=Prior(equivariant=1e-3, residual=1.0))
        batch, test = (molecule_batch(species, places, cutoff=4.5) for places in (x, x_test))
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(batch)
            rule.backward((output - y).square().mean(), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((model(test) - y_test).abs().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.4f} eV")
