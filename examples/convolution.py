"""SoftConv2d: the same texture means something else in the upper half of the image.

Gratings of two directions (generated here, seed 0). The label is the direction, but in the upper half of a share of
the images it is the other one: the symmetry under translations is broken where the world breaks it. Hard convolutions
with global pooling cannot know where they are; dense layers must learn each place anew.
"""

import torch
from torch import nn

import softeq
from softeq import Prior, SoftConv2d

SIDE = 12


def gratings(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch of stripes somewhere in each of ``n`` noisy images ``(n, 1, 12, 12)``, and labels ``(n,)``."""
    images = 0.3 * torch.randn(n, 1, SIDE, SIDE, generator=generator)
    upright = torch.rand(n, generator=generator) < 0.5
    top, left = (torch.randint(SIDE - 4, (n,), generator=generator) for _ in range(2))
    stripes = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).expand(5, 5)
    for image, up, i, j in zip(images, upright, top.tolist(), left.tolist(), strict=True):
        image[0, i : i + 5, j : j + 5] += stripes if up else stripes.T
    return images, (upright ^ (top < SIDE // 3)).long()


def network(constraint: str) -> nn.Module:
    """Two convolutions, the second soft in where it is; pooled."""
    return nn.Sequential(
        SoftConv2d(1, 8, 5, padding=2, size=SIDE, constraint=constraint, residual="local"),
        nn.ReLU(),
        SoftConv2d(8, 8, 3, padding=1, size=SIDE, constraint=constraint, residual="local"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def main(steps: int = 300) -> dict[str, float]:
    """Accuracy on fresh images by constraint."""
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = gratings(150, generator), gratings(2000, generator)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        model = network(constraint)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        rule = softeq.strength.rule(
            "fixed", model, samples=len(x), likelihood="categorical", prior=Prior(equivariant=1e-3, residual=1.0)
        )
        for _ in range(steps):
            rows = torch.randint(len(x), (50,), generator=generator)
            optimizer.zero_grad()
            output = model(x[rows])
            rule.backward(nn.functional.cross_entropy(output, y[rows]), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            found[constraint] = float((model(x_test).argmax(1) == y_test).float().mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: accuracy {value:.3f}")
