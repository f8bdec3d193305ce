"""Neural tangent kernels of soft layers: in closed form at infinite width, and of a network as it is.

A layer sees ``P(W_e) + W_r``, so the derivative by ``W_e`` is that by the merged weight, projected, and the kernels of
the two pathways add up: ``K_soft = K_hard + K_residual``, at any weights. For one hidden layer of ReLUs that starts
equivariant and an output that is invariant, with m units in orbits under a group G that permutes the inputs, weights
``N(0, 1 / inputs)`` and ``N(0, 1 / m)``, and rates of ``1 / fan-in`` per layer, as m grows:

    K_residual(x, z) = K_none(x, z)              K_hard(x, z) = mean_g K_none(x, g z)
    K_none(x, z)     = |x| |z| (k1(c) + c k0(c)) / inputs,   c = cos of the angle between x and z

with the arc-cosine kernels k0 and k1 of Cho and Saul (NeurIPS 2009), times 1/2: expectations over a normal w of
``relu'(w.x) relu'(w.z)`` and, for unit vectors, of ``relu(w.x) relu(w.z)``. So a prior of precisions p_e and p_r is
kernel regression with ``K_hard / p_e + K_none / p_r``: a Haar mean that is let go as p_r falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from softeq.pathways import PATHWAYS, SoftLayer


def arc_cosines(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """k0 and k1, see the module's text, of cosines in [-1, 1]."""
    c = cosine.clamp(-1, 1)
    angle = torch.arccos(c)
    return (math.pi - angle) / (2 * math.pi), ((1 - c.square()).sqrt() + (math.pi - angle) * c) / (2 * math.pi)


def free_kernel(x: Tensor, z: Tensor) -> Tensor:
    """``K_none``: inputs ``(n, inputs)`` and ``(m, inputs)`` to ``(n, m)``."""
    sizes = x.norm(dim=1)[:, None] * z.norm(dim=1)[None, :]
    cosine = x @ z.T / sizes.clamp_min(1e-30)
    k0, k1 = arc_cosines(cosine)
    return sizes * (k1 + cosine * k0) / x.shape[1]


def hard_kernel(x: Tensor, moved: Sequence[Tensor]) -> Tensor:
    """``K_hard``: inputs ``(n, inputs)`` and the other inputs moved by every element of the group, ``(m, inputs)``."""
    return torch.stack([free_kernel(x, z) for z in moved]).mean(0)


class Ridge:
    """Kernel regression onto targets ``(n, classes)``, with any ridge from one factorisation.

    Args:
        kernel: ``(n, n)`` of the training inputs, scaled here to a mean of 1 on its diagonal.
        targets: ``(n, classes)``.
    """

    def __init__(self, kernel: Tensor, targets: Tensor) -> None:
        self.targets, self.scale = targets, float(kernel.diagonal().mean())
        values, self.vectors = torch.linalg.eigh(kernel / self.scale)
        self.values = values.clamp_min(0)

    def predict(self, kernel: Tensor, ridge: float) -> Tensor:
        """``(m, classes)`` from the kernel ``(m, n)`` of other inputs with the training ones, scaled here too."""
        seen = self.vectors.T @ self.targets
        return kernel / self.scale @ (self.vectors @ (seen / (self.values + ridge)[:, None]))

    def evidence(self, ridge: float) -> float:
        """Log marginal likelihood of the targets, the kernel's scale the best at that ridge, in nats."""
        n, classes = self.targets.shape
        variances = self.values + ridge
        scale = ((self.vectors.T @ self.targets).square() / variances[:, None]).mean()
        return float(-0.5 * classes * (n * (1 + math.log(2 * math.pi) + scale.log()) + variances.log().sum()))


def pathway_kernels(model: nn.Module, x: Tensor, *, chunk: int = 20) -> dict[str, Tensor]:
    """The kernels of a network as it is, by pathway, ``(n, n)``: the mean over outputs of ``J J^T``.

    Weights of a layer count ``1 / fan-in``, as at infinite width; biases are left out.

    Args:
        model: its parameters are those of soft layers; it takes a batch.
        x: inputs, ``(n, ...)``.
        chunk: inputs whose derivatives are held at once.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SoftLayer)}
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for pathway in PATHWAYS:
        mine = {f"{name}.pathways.{pathway}.weight" for name in layers} & parameters.keys()
        own = {name: parameters[name] for name in sorted(mine)}
        if not own:
            continue
        rest = {name: p for name, p in parameters.items() if name not in own}

        def outputs(weights: dict[str, Tensor], one: Tensor, rest: dict[str, Tensor] = rest) -> Tensor:
            return functional_call(model, {**rest, **weights}, (one[None],))[0]

        rows = [_flat(vmap(jacrev(outputs), (None, 0))(own, part)) for part in x.split(chunk)]
        jacobian = torch.cat(rows)  # (n, outputs, parameters)
        found[pathway] = torch.einsum("ncp,mcp->nm", jacobian, jacobian) / jacobian.shape[1]
    return found


def _flat(jacobians: dict[str, Tensor]) -> Tensor:
    """Each weight's ``(b, outputs, out, in)`` over the root of its fan-in, side by side."""
    return torch.cat([j.flatten(2) / math.sqrt(j.shape[-1]) for j in jacobians.values()], dim=2)


def alignment(a: Tensor, b: Tensor) -> float:
    """The cosine between two kernels ``(n, n)``, both centred: 1 for equal ones (Cortes, Mohri, Rostamizadeh 2012)."""
    a, b = (k - k.mean(0) - k.mean(1, keepdim=True) + k.mean() for k in (a, b))
    return float((a * b).sum() / (a.norm() * b.norm()))
