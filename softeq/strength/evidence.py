"""The Laplace evidence of a trained network: to choose among runs without validation data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.prior import Prior, prior_penalty
from softeq.strength._charges import Charge, charges_of, precisions_of
from softeq.strength._rule import LIKELIHOODS

CURVATURES = ("full", "kfac", "diagonal")
_LARGEST = 8000


@dataclass(frozen=True)
class Evidence:
    """What `log_evidence` returns, in nats.

    Attributes:
        value: ``log_likelihood - penalty - occam``.
        log_likelihood: of the data at the weights.
        penalty: minus the logarithm of the prior at the weights, up to the constant that ``occam`` has.
        occam: ``1/2 log det(posterior precision) - 1/2 log det(prior precision)``.
        noise: the variance of the Gaussian noise; 1 for a categorical likelihood.
        parameters: how many priced dimensions took part.
    """

    value: float
    log_likelihood: float
    penalty: float
    occam: float
    noise: float
    parameters: int


def log_evidence(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    prior: Prior,
    *,
    likelihood: str = "gaussian",
    curvature: str = "kfac",
    noise: float | None = None,
    loss_scale: float | None = None,
) -> Evidence:
    """Laplace's approximation of the log evidence of a trained network (MacKay 1992; Immer et al. 2021).

    ``log p(D | w) + log p(w) + d/2 log 2 pi - 1/2 log det(J'J / noise + precision)`` over the parameters of the soft
    layers whose precision is above 0; the others count as given. The Gauss-Newton matrix is exact (``"full"``), or its
    diagonal, or Kronecker-factored per parameter; from the derivatives of every output on every sample.

    Args:
        model: trained, in evaluation mode while it is measured; each sample must be computed by itself.
        batches: pairs (x, y) with the samples first; all of the training data once.
        prior: under which it was trained, in the units of the loss (``rule.prior``).
        likelihood: ``"gaussian"``: y of the output's shape; ``"categorical"``: y of classes, outputs ``(B, classes)``.
        curvature: ``"full"`` (up to 8,000 parameters), ``"kfac"`` or ``"diagonal"``.
        noise: the variance of the noise; ``None`` takes the mean squared residual. Gaussian alone.
        loss_scale: a of the loss ``a mean ||r||^2`` that it was trained by; ``None`` is ``mse_loss``'s, 1 / outputs.

    Raises:
        SofteqValueError, SofteqTypeError: an argument out of its range; no samples; no priced parameter.
    """
    _check(model, prior, likelihood, curvature, noise)
    charges = [c for c in charges_of(model) if c.projector is None]
    if len(charges) != len(charges_of(model)):
        raise SofteqValueError("model: expected parametrization='pathways'; a projected weight has no free coordinates")
    training = model.training
    model.eval()
    try:
        sums = _Sums(charges, curvature)
        penalty, squares, entropy, samples, outputs = float(prior_penalty(model, prior).detach()), 0.0, 0.0, 0, 1
        for x, y in batches:
            output, jacobians = _derivatives(model, charges, x)
            samples, outputs = samples + len(x), output[0].numel()
            if likelihood == "gaussian":
                squares += float((output - y).double().square().sum())
            else:
                entropy += float(nn.functional.cross_entropy(output, y, reduction="sum"))
            sums.add(_rooted(jacobians, output, likelihood))
    finally:
        model.train(training)
    if not samples:
        raise SofteqValueError("batches: expected at least one sample, got none; a generator can be used up only once")
    if likelihood == "categorical":
        variance, unit, log_likelihood = 1.0, 1.0, -entropy
    else:
        count = samples * outputs
        variance = squares / count if noise is None else noise
        unit = 2 * variance * (1 / outputs if loss_scale is None else loss_scale)
        log_likelihood = -0.5 * (squares / variance + count * math.log(2 * math.pi * variance))
    occam, parameters = sums.occam(variance, [p / unit for p in _own_precisions(charges, prior)])
    value = log_likelihood - penalty / unit - occam
    return Evidence(value, log_likelihood, penalty / unit, occam, variance, parameters)


def _check(model: nn.Module, prior: Prior, likelihood: str, curvature: str, noise: float | None) -> None:
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if not isinstance(prior, Prior):
        raise SofteqTypeError(f"prior: expected a softeq.Prior, got {type(prior).__name__}")
    if likelihood not in LIKELIHOODS:
        raise SofteqValueError(f"likelihood: expected one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    if curvature not in CURVATURES:
        raise SofteqValueError(f"curvature: expected one of {', '.join(CURVATURES)}, got {curvature!r}")
    if noise is not None and not 0 < noise < math.inf:
        raise SofteqValueError(f"noise: expected a finite variance above 0, got {noise}")


def _own_precisions(charges: list[Charge], prior: Prior) -> list[float]:
    return [p[charge.pathway] for charge, p in zip(charges, precisions_of(charges, prior), strict=True)]


def _derivatives(model: nn.Module, charges: list[Charge], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and per parameter the derivatives ``(B, outputs, *shape)``, of its spanned part."""
    names = {id(p): name for name, p in model.named_parameters()}
    keys = [names[id(charge.parameter)] for charge in charges]
    given = {key: charge.parameter.detach() for key, charge in zip(keys, charges, strict=True)}

    def one(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample[None],))[0].flatten()

    found = vmap(jacrev(one), in_dims=(None, 0))(given, x)
    with torch.no_grad():
        output = model(x)
    return output, [found[key].detach() for key in keys]


def _rooted(jacobians: list[Tensor], output: Tensor, likelihood: str) -> list[Tensor]:
    """``R J`` with ``R'R`` the likelihood's curvature in the output: the identity, or ``diag p - p p'``."""
    if likelihood == "gaussian":
        return jacobians
    p = output.detach().softmax(1)
    # sqrt(p) (e - p) has the outer product diag p - p p' summed over classes.
    return [
        p.sqrt().view(*p.shape, *[1] * (j.ndim - 2)) * (j - torch.einsum("nk,nk...->n...", p, j)[:, None])
        for j in jacobians
    ]


class _Sums:
    """The Gauss-Newton matrix of the data so far, in one of three forms."""

    def __init__(self, charges: list[Charge], curvature: str) -> None:
        self.charges, self.curvature = charges, curvature
        total = sum(charge.parameter.numel() for charge in charges)
        if curvature == "full":
            if total > _LARGEST:
                raise SofteqValueError(
                    f"curvature: expected 'kfac' or 'diagonal' for {total} parameters, got 'full', which takes up to "
                    f"{_LARGEST}"
                )
            self.full = torch.zeros(total, total, dtype=torch.float64)
        self.parts: list[list[Tensor]] = [[] for _ in charges]

    def add(self, jacobians: list[Tensor]) -> None:
        """Takes one batch in."""
        if self.curvature == "full":
            rows = torch.cat([j.flatten(0, 1).flatten(1) for j in jacobians], 1).double().cpu()
            self.full += rows.T @ rows
            return
        for parts, j in zip(self.parts, jacobians, strict=True):
            g = j.flatten(0, 1).double()
            if self.curvature == "kfac" and g.ndim > 2:
                m = g.flatten(2)
                new = [torch.einsum("bij,bkj->ik", m, m), torch.einsum("bij,bik->jk", m, m)]
            else:
                new = [g.square().sum(0).flatten()]
            parts[:] = new if not parts else [a + b for a, b in zip(parts, new, strict=True)]

    def occam(self, noise: float, precisions: list[float]) -> tuple[float, int]:
        """``1/2 log det(1 + J'J / (noise precision))`` over what has a precision, and how many dimensions that are."""
        kept = [k for k, precision in enumerate(precisions) if precision > 0]
        if not kept:
            raise SofteqValueError("prior: expected a precision above 0 for some pathway, all are 0")
        rank = sum(self.charges[k].rank for k in kept)
        if self.curvature == "full":
            ends = torch.tensor([0, *(c.parameter.numel() for c in self.charges)]).cumsum(0).tolist()
            rows = torch.cat([torch.arange(ends[k], ends[k + 1]) for k in kept])
            scale = torch.cat(
                [self.full.new_full((ends[k + 1] - ends[k],), (noise * precisions[k]) ** -0.5) for k in kept]
            )
            matrix = self.full[rows][:, rows] * scale[:, None] * scale + torch.eye(len(rows), dtype=torch.float64)
            return 0.5 * float(torch.linalg.slogdet(matrix).logabsdet), rank
        return 0.5 * sum(float(self._values(k).div(noise * precisions[k]).log1p().sum()) for k in kept), rank

    def _values(self, index: int) -> Tensor:
        """Eigenvalues of one parameter's block; redundant coordinates have zeros, which add nothing."""
        parts = self.parts[index]
        if len(parts) == 1:
            return parts[0]
        left, right = (torch.linalg.eigvalsh(part).clamp_min(0) for part in parts)
        return (left[:, None] * right / left.sum().clamp_min(1e-300)).flatten()


def best_run(evidences: Iterable[Evidence]) -> int:
    """The index of the run with the highest evidence; of equal ones the first.

    Raises:
        SofteqValueError: no run, or none with a finite evidence.
    """
    values = [one.value for one in evidences]
    finite = [k for k, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        raise SofteqValueError("evidences: expected at least one run with a finite evidence, got none")
    return max(finite, key=lambda k: values[k])
