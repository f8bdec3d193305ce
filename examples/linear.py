"""SoftLinear: Ohm's law in a slightly anisotropic metal.

Currents follow fields, j = s E. In an isotropic metal s is a number, the only map from vectors to vectors that
rotations leave alone; in ours one axis conducts a tenth better. The soft layer learns both from a few noisy
measurements, and its defect is the anisotropy.
"""

import torch

import softeq
from softeq import Prior, SoftLinear, Vector
from softeq.groups import SO


def main(steps: int = 400) -> dict[str, float]:
    """Test errors by constraint, and the soft layer's defect."""
    torch.manual_seed(0)
    conductivity = torch.diag(torch.tensor([1.0, 1.0, 1.1]))
    field, test = torch.randn(40, 3), torch.randn(1000, 3)
    current = field @ conductivity.T + 0.02 * torch.randn(40, 3)
    found = {}
    for constraint in ("hard", "soft", "none"):
        layer = SoftLinear(Vector(SO(3)), Vector(SO(3)), constraint=constraint)
        optimizer = torch.optim.Adam(layer.parameters(), 0.03)
        rule = softeq.strength.rule("fixed", layer, samples=len(field), prior=Prior(residual=1.0))
        for _ in range(steps):
            optimizer.zero_grad()
            output = layer(field)
            rule.backward((output - current).square().mean(), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((layer(test) - test @ conductivity.T).square().mean().sqrt())
        if constraint == "soft":
            found["defect"] = layer.weight_defect()
            off = conductivity - conductivity.diag().mean() * torch.eye(3)
            found["defect of the truth"] = float(off.norm() / conductivity.norm())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.4f}")
