"""SoftR2Conv: a flow that turns with its initial state, and a wind that does not.

Velocity fields on a periodic grid (generated here from random stream functions, seed 0) are carried a short time
along themselves. That map commutes with quarter turns. A wind from the west, which no field shows, breaks it: hard
cannot learn the wind, soft can. Needs the extra `escnn`.
"""

import torch

import softeq
from softeq import Prior, SoftR2Conv

SIDE, STEP = 16, 0.6


def roll(field: torch.Tensor, axis: int, by: int) -> torch.Tensor:
    """The neighbour's values on the periodic grid."""
    return torch.roll(field, by, axis)


def states(n: int, generator: torch.Generator) -> torch.Tensor:
    """Divergence-free velocities ``(n, 2, 16, 16)``, along the columns and against the rows."""
    frequency = torch.fft.fftfreq(SIDE) * SIDE
    envelope = torch.exp(-(frequency[:, None] ** 2 + frequency[None] ** 2) / 8)
    noise = torch.randn(n, SIDE, SIDE, generator=generator)
    stream = torch.fft.ifft2(torch.fft.fft2(noise) * envelope).real
    along_rows = (roll(stream, 1, -1) - roll(stream, 1, 1)) / 2
    along_columns = (roll(stream, 2, -1) - roll(stream, 2, 1)) / 2
    velocity = torch.stack([-along_rows, -along_columns], 1)
    return velocity / velocity.std()


def advected(velocity: torch.Tensor, wind: float) -> torch.Tensor:
    """``v - dt (v + wind) . grad v``, one explicit step."""
    right = (roll(velocity, 3, -1) - roll(velocity, 3, 1)) / 2
    up = (roll(velocity, 2, 1) - roll(velocity, 2, -1)) / 2
    return velocity - STEP * ((velocity[:, :1] + wind) * right + velocity[:, 1:] * up)


def main(steps: int = 150) -> dict[str, float]:
    """Share of the change that is not explained, on fresh states, by constraint."""
    from escnn import gspaces
    from escnn.nn import FieldType

    space = gspaces.rot2dOnR2(4)
    vector, hidden = FieldType(space, [space.irrep(1)]), FieldType(space, 6 * [space.regular_repr])
    generator = torch.Generator().manual_seed(0)
    x, x_test = states(64, generator), states(64, generator)
    y, y_test = advected(x, 1.0) - x, advected(x_test, 1.0) - x_test
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        options = {"padding": 1, "padding_mode": "circular", "constraint": constraint}
        model = torch.nn.Sequential(
            SoftR2Conv(vector, hidden, 3, **options), torch.nn.ReLU(), SoftR2Conv(hidden, vector, 3, **options)
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
            found[constraint] = float((model(x_test) - y_test).square().mean() / y_test.square().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.3f} of the change is not explained")
