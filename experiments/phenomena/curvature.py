"""Curvature of trained quarter networks, split between the equivariant maps and the rest.

Everything is said of the plain network that a soft one folds to: its weights and biases as one vector of D coordinates.
The equivariant ones among them form a subspace with the projector P (`equivariant_part`), for hard, soft and
unconstrained networks alike.

Effective dimension (MacKay 1992; Maddox, Benton, Wilson 2020): sum of lambda / (lambda + alpha) over the eigenvalues of
the loss's curvature; negative ones count as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import cross_entropy

from softeq import fold
from softeq.errors import SofteqError

ORBIT = 4


def plain(model: nn.Module) -> nn.Module:
    """The folded network, in evaluation mode, detached: every parameter belongs to an ``nn.Linear``.

    Raises:
        SofteqError: a network with other parameters.
    """
    folded = fold(model).eval()
    linear = sum(p.numel() for m in folded.modules() if isinstance(m, nn.Linear) for p in m.parameters())
    if linear != sum(p.numel() for p in folded.parameters()):
        raise SofteqError("model: expected layers that fold to nn.Linear alone")
    return folded


def flat(model: nn.Module) -> Tensor:
    """The parameters as one vector ``(D,)``."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def unflat(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """A vector ``(..., D)`` as the parameters by name, each ``(..., *shape)``."""
    sizes = [p.numel() for p in model.parameters()]
    parts = vector.split(sizes, dim=-1)
    named = zip(model.named_parameters(), parts, strict=True)
    return {name: part.reshape(*vector.shape[:-1], *p.shape) for (name, p), part in named}


def equivariant_part(model: nn.Module, vector: Tensor) -> Tensor:
    """P times vectors ``(..., D)``: each weight and bias averaged over the four quarter turns.

    Inputs and hidden layers of a quarter network are vectors of Z(4), orbit by orbit; its outputs are scalars.
    """
    parts = unflat(model, vector)
    last = list(parts)[-2:]
    found = []
    for name, part in parts.items():
        scalars, leading = name in last, vector.shape[:-1]
        blocks = part if scalars else part.unflatten(len(leading), (-1, ORBIT))
        if part.dim() - len(leading) == 2:
            blocks = blocks.unflatten(-1, (-1, ORBIT))
            turn = (-1,) if scalars else (-3, -1)
        elif scalars:
            found.append(part.reshape(*leading, -1))
            continue
        else:
            turn = (-1,)
        mean = sum(blocks.roll([k] * len(turn), turn) for k in range(1, ORBIT)) + blocks
        found.append((mean / ORBIT).reshape(*leading, -1))
    return torch.cat(found, dim=-1)


def softmax_root(logits: Tensor) -> Tensor:
    """For each row p of probabilities a matrix R with ``R R^T = diag(p) - p p^T``: ``(n, C, C)``.

    ``R = diag(sqrt p) - p sqrt(p)^T`` is such a one.
    """
    p = logits.softmax(-1)
    return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]


@torch.no_grad()
def gauss_newton_grams(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """``R^T J P J^T R`` and ``R^T J (1 - P) J^T R``, ``(n C, n C)`` float64 each, without the Jacobian J itself.

    With the summed cross-entropy's Gauss-Newton curvature ``J^T R R^T J``. The Jacobian of a linear layer is an outer
    product of what comes back to its output and what goes in, and a quarter turn acts on each alone.

    Args:
        model: as `plain` gives it, with nothing but linear layers and ReLU behind the first module.
        x: inputs ``(n, ...)``.
    """
    inputs, masks, value = [], [], x
    linear: list[nn.Linear] = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for module in model.children():
        if isinstance(module, nn.Linear):
            inputs.append(value.double())
        value = module(value)
        if isinstance(module, nn.ReLU):
            masks.append((value > 0).double())
    n, classes = value.shape
    back = softmax_root(value.double()).transpose(1, 2)  # (n, C, C): rows of R^T
    size = n * classes
    whole, within = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
    for k in reversed(range(len(linear))):
        outer, last = back.flatten(0, 1), k == len(linear) - 1
        for turn in range(ORBIT):
            ahead = _turned(inputs[k], turn) @ inputs[k].T + 1  # one for the bias
            beside = (outer if last else _turned(outer, turn)) @ outer.T
            product = ahead.repeat_interleave(classes, 0).repeat_interleave(classes, 1) * beside
            within += product / ORBIT
            whole += product if turn == 0 else 0
        if k:
            back = back @ linear[k].weight.double() * masks[k - 1][:, None]
    return within, whole - within


def _turned(rows: Tensor, turns: int) -> Tensor:
    """Vectors of Z(4), orbit by orbit, ``(..., 4 o)``, after so many quarter turns."""
    return rows.unflatten(-1, (-1, ORBIT)).roll(turns, -1).flatten(-2)


def effective_parameters(model: nn.Module, x: Tensor, inside: float, outside: float) -> tuple[float, float]:
    """How many parameters the data determine among the equivariant ones and among the rest.

    ``sum over a subspace of 1 - posterior variance / prior variance`` under the Gauss-Newton curvature of the summed
    cross-entropy at the network's own predictions, by matrices of the size of the data, not of the parameters.

    Args:
        model, x: see `gauss_newton_grams`.
        inside, outside: prior variances of an equivariant coordinate and of another; 0 for none.
    """
    within, rest = gauss_newton_grams(model, x)
    grams = inside * within, outside * rest
    whole = torch.eye(len(within), dtype=within.dtype) + grams[0] + grams[1]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(whole))
    return float((inverse * grams[0]).sum()), float((inverse * grams[1]).sum())


def hessian_product(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The Hessian of the mean cross-entropy times a vector ``(D,)``, a function of it."""

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(model, parameters, (x,)), y)

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def product(vector: Tensor) -> Tensor:
        both: Any = jvp(grad(loss), (parameters,), (unflat(model, vector),))
        tangent = both[1]
        return torch.cat([tangent[name].flatten() for name in parameters])

    return product


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Ritz values of a symmetric map and the squared first components of their vectors, float64, ``(k,)`` each.

    Lanczos with full reorthogonalisation; it ends early where the space is used up, and the Ritz values are then
    eigenvalues. ``sum weight * f(value)`` is Gauss's quadrature of ``start^T f(H) start / |start|^2``.

    Args:
        product: the map, ``(D,)`` to ``(D,)``.
        start: not zero.
        steps: the most that are made.
    """
    vectors, diagonal, beside = [start.double() / start.double().norm()], [], []
    for _ in range(min(steps, len(start))):
        image = product(vectors[-1].to(start.dtype)).double()
        diagonal.append(float(image @ vectors[-1]))
        basis = torch.stack(vectors)
        for _ in range(2):  # twice is enough (Parlett)
            image = image - basis.T @ (basis @ image)
        size = float(image.norm())
        if size < 1e-7 * max(map(abs, diagonal)) or len(diagonal) == min(steps, len(start)):
            break
        beside.append(size)
        vectors.append(image / size)
    n = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.tensor(beside[: n - 1], dtype=torch.float64)
    matrix += torch.diag(off, 1) + torch.diag(off, -1)
    values, axes = torch.linalg.eigh(matrix)
    return values, axes[0].square()


def effective_dimension(
    product: Callable[[Tensor], Tensor],
    dimension: int,
    alpha: float,
    *,
    within: Callable[[Tensor], Tensor] = lambda vector: vector,
    probes: int = 4,
    steps: int = 40,
    seed: int = 0,
) -> float:
    """``sum max(lambda, 0) / (max(lambda, 0) + alpha)`` of a symmetric map on a subspace, by stochastic quadrature.

    Args:
        product: the map of ``(D,)``.
        dimension: D.
        alpha: above 0, in the map's units.
        within: the projector of the subspace; all of it by default.
        probes: random starts (Gaussian); the error falls as the root of their number.
        steps: of `lanczos` from each.
        seed: of the starts.
    """
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(probes):
        start = within(torch.randn(dimension, generator=generator))
        values, weights = lanczos(lambda vector: within(product(within(vector))), start, steps)
        kept = values.clamp(min=0)
        total += float(start.double().square().sum() * (weights * kept / (kept + alpha)).sum())
    return total / probes
