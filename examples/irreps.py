"""SoftO3Linear, SoftTensorProduct, SoftGate: the torque of a dipole, in a laboratory with a stray field.

The torque p x (E + E_stray) is a pseudovector built from the dipole p and the applied field E by a tensor product;
the stray field stands still in the laboratory and is not told. Needs the extra `e3nn`.
"""

import torch

import softeq
from softeq import Prior, SoftGate, SoftO3Linear, SoftTensorProduct


class Torque(torch.nn.Module):
    """Mixes the two vectors, multiplies the mixture by itself, gates, reads a pseudovector."""

    def __init__(self, constraint: str) -> None:
        super().__init__()
        self.mix = SoftO3Linear("2x1o", "4x1o", constraint=constraint)
        self.gate = SoftGate("4x0e + 4x1e", constraint=constraint)
        self.product = SoftTensorProduct("4x1o", "4x1o", str(self.gate.irreps_in), constraint=constraint)
        self.read = SoftO3Linear("4x0e + 4x1e", "1x1e", constraint=constraint)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., 6)``, dipole and field, to ``(..., 3)``."""
        mixed = self.mix(x)
        return self.read(self.gate(self.product(mixed, mixed)))


def main(steps: int = 400) -> dict[str, float]:
    """Root mean squared error on fresh dipoles by constraint."""
    generator = torch.Generator().manual_seed(0)
    stray = torch.tensor([0.0, 0.0, 0.3])

    def measured(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(n, 6, generator=generator)
        return x, torch.linalg.cross(x[:, :3], x[:, 3:] + stray)

    (x, y), (x_test, y_test) = measured(200), measured(1000)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        model = Torque(constraint)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        rule = softeq.strength.rule("fixed", model, samples=len(x), prior=Prior(equivariant=1e-4, residual=1.0))
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
