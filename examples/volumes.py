"""SoftR3Conv: what flows through a medium that is nearly the same in all directions.

A density over a cube (generated here, seed 0) makes a flux down its gradient, and layers in the medium make it larger
along z. From a few noisy measurements a hard layer, equivariant under all rotations of space, finds what escnn's smooth
filters can say, the same in all directions; soft finds the layers and the finer part of the filter too; free filters
fit more of the noise. Needs the extra `escnn`.
"""

import torch

import softeq
from softeq import Prior, SoftR3Conv

SIDE, NOISE = 6, 0.5


def measured(n: int, generator: torch.Generator, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Densities ``(n, 1, 6, 6, 6)`` on a periodic grid and fluxes ``(n, 3, 6, 6, 6)`` along x, y and z.

    x runs along the last axis, y and z run against the two before it, as escnn has them.
    """
    density = torch.randn(n, 1, SIDE, SIDE, SIDE, generator=generator)
    for axis in (2, 3, 4):
        density = (density + density.roll(1, axis)) / 2**0.5
    slopes = [sign * (density.roll(-1, axis) - density.roll(1, axis)) / 2 for sign, axis in ((1, 4), (-1, 3), (-1, 2))]
    flux = -torch.cat(slopes, 1) * torch.tensor([1.0, 1.0, 1.4]).view(3, 1, 1, 1)
    return density, flux + noise * torch.randn(flux.shape, generator=generator)


def main(steps: int = 200) -> dict[str, float]:
    """Share of the flux that is not explained, on fresh densities without noise, by constraint."""
    from escnn import gspaces
    from escnn.nn import FieldType

    space = gspaces.rot3dOnR3()
    scalar = FieldType(space, [space.trivial_repr])
    vector = FieldType(space, [space.fibergroup.standard_representation()])
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = measured(1, generator, NOISE), measured(50, generator, 0.0)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        layer = SoftR3Conv(scalar, vector, 3, padding=1, padding_mode="circular", constraint=constraint)
        optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
        prior = Prior(equivariant=1e-3, residual=10.0)
        rule = softeq.strength.rule("fixed", layer, samples=x[:, 0].numel(), prior=prior)
        for _ in range(steps):
            optimizer.zero_grad()
            output = layer(x)
            loss = (output - y).square().mean() / (2 * NOISE**2)
            rule.backward(loss, output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((layer(x_test) - y_test).square().mean() / y_test.square().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.3f} of the flux is not explained")
