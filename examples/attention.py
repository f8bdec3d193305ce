"""SoftAttention: who looks where. Tokens on a ring answer with what stands two places to their right, save one
place.

Attention with relative positions alone can say "two to the right" everywhere and nowhere else. One place of the ring
looks to the left: the residual's absolute positions have to carry that and nothing more.
"""

import torch
from torch import nn

import softeq
from softeq import Prior, SoftAttention

LENGTH, WIDTH, ODD = 12, 16, 5


def sequences(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``(n, 12, 16)`` of four kinds, and the kind ``(n, 12)`` that each place should name."""
    kinds = torch.randint(4, (n, LENGTH), generator=generator)
    tokens = nn.functional.one_hot(kinds, WIDTH).float()
    answers = kinds.roll(-2, 1)
    answers[:, ODD] = kinds[:, ODD - 3]
    return tokens, answers


def main(steps: int = 300) -> dict[str, float]:
    """Share of right answers on fresh sequences: over all places, and at the odd one."""
    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = sequences(100, generator), sequences(500, generator)
    found = {}
    for constraint in ("hard", "soft", "none"):
        torch.manual_seed(0)
        model = nn.Sequential(
            SoftAttention(WIDTH, 2, size=(1, LENGTH), periodic=True, constraint=constraint), nn.Linear(WIDTH, 4)
        )
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        rule = softeq.strength.rule(
            "fixed", model, samples=len(x), likelihood="categorical", prior=Prior(equivariant=1e-3, residual=0.1)
        )
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(x).flatten(0, 1)
            rule.backward(nn.functional.cross_entropy(output, y.flatten()), output)
            optimizer.step()
            rule.step(optimizer)
        with torch.no_grad():
            right = (model(x_test).argmax(2) == y_test).float()
        found[constraint], found[f"{constraint}, the odd place"] = float(right.mean()), float(right[:, ODD].mean())
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.3f} right")
