"""Three estimates of one parameter's Gauss-Newton curvature, each from the gradients of random probes alone.

A probe g is the gradient of ``sum_n u_n' f(x_n)`` over a batch, with random u of the covariance that the likelihood
says (signs for a squared error), times ``sqrt(samples / batch)``: ``E[g g'] = J'J`` over the whole data set.
Eigenvalues are of ``J'J``; the posterior's precision is ``J'J / noise + precision``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

KEEP = 0.95
"""The share that a moving average keeps per probe."""


class Curvature(ABC):
    """Of a parameter of ``rank`` priced dimensions among ``shape`` entries.

    Args:
        like: the parameter.
        rank: its priced dimensions.
        shares: how much of each entry lies in them, the diagonal of the projection onto them; ``None`` for all of it.
    """

    kind: ClassVar[str]

    def __init__(self, like: Tensor, rank: int, shares: Tensor | None = None) -> None:
        self.shape, self.rank, self.probes = like.shape, rank, 0
        self.share = rank / max(1, like.numel())
        self.shares = shares

    @abstractmethod
    def update(self, probe: Tensor) -> None:
        """Takes one probe in, of the parameter's shape."""

    @abstractmethod
    def total(self) -> float:
        """The trace of ``J'J``."""

    @abstractmethod
    def inverse_trace(self, noise: float, precision: float) -> float:
        """``tr (J'J / noise + precision)^-1`` over the priced dimensions."""

    @abstractmethod
    def draw(self, noise: float, precision: float, generator: torch.Generator) -> Tensor:
        """One draw of the Gaussian with precision ``J'J / noise + precision`` and mean 0, of the parameter's shape."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Tensors and numbers for a checkpoint."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""

    @property
    def correction(self) -> float:
        """What the moving average lacks at its start: divide by it."""
        return 1 - KEEP ** max(self.probes, 1)


class Diagonal(Curvature):
    """The diagonal of ``J'J``, a moving average of ``g^2``: unbiased. It counts redundant parameters as effective."""

    kind = "diagonal"

    def __init__(self, like: Tensor, rank: int, shares: Tensor | None = None) -> None:
        super().__init__(like, rank, shares)
        self.mean = torch.zeros_like(like, requires_grad=False)

    def update(self, probe: Tensor) -> None:
        """See ``Curvature``."""
        self.mean.mul_(KEEP).addcmul_(probe, probe, value=1 - KEEP)
        self.probes += 1

    def total(self) -> float:
        """See ``Curvature``."""
        return float(self.mean.sum()) / self.correction

    def _precision(self, noise: float, precision: float) -> Tensor:
        scaled = self.mean * (1 / (self.correction * noise))
        # Entry i of a projected probe has the part P_ii of a dimension: per dimension its curvature is h_i / P_ii.
        return (scaled if self.shares is None else scaled / self.shares.clamp_min(1e-6)) + precision

    def inverse_trace(self, noise: float, precision: float) -> float:
        """See ``Curvature``."""
        inverse = self._precision(noise, precision).reciprocal_()
        return float((inverse if self.shares is None else inverse.mul_(self.shares)).sum())

    def draw(self, noise: float, precision: float, generator: torch.Generator) -> Tensor:
        """See ``Curvature``."""
        return _normal(self.mean, generator).mul_(self._precision(noise, precision).rsqrt_())

    def state(self) -> dict[str, Any]:
        """See ``Curvature``."""
        return {"probes": self.probes, "mean": self.mean.clone()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Curvature``."""
        self.probes = int(state["probes"])
        self.mean.copy_(state["mean"])


class Kronecker(Curvature):
    """A Kronecker product of one factor per axis: ``E[G_k G_k']``, G_k the probe unfolded along axis k, over traces.

    A convolution's weight has three axes: outputs, inputs, places. For a linear layer's weight, whose ``J'J`` is a
    Kronecker product of two, it is exactly that (the idea of Shampoo, which has a factor per axis too: Gupta, Koren,
    Singer 2018; Morwani et al. 2024); it needs no hooks, so it works on any weight. Of an axis longer than `WIDEST` the
    factor is diagonal, as its eigenvectors would cost more than the training. Eigenvalues are renewed after
    the probes 1, 2, 4, 8, and from 16 on every `RENEW`.
    """

    kind = "kfac"
    RENEW, WIDEST = 10, 1024

    def __init__(self, like: Tensor, rank: int, shares: Tensor | None = None) -> None:
        super().__init__(like, rank, shares)
        self.sizes = (*like.shape[:2], like[0, 0].numel()) if like.ndim > 2 else tuple(like.shape)
        self.factors = [like.new_zeros(n, n) if n <= self.WIDEST else like.new_zeros(n) for n in self.sizes]
        self._renewed = 0
        self._known: tuple[Tensor, list[Tensor | None]] | None = None

    def update(self, probe: Tensor) -> None:
        """See ``Curvature``."""
        g = probe.reshape(self.sizes)
        for axis, factor in enumerate(self.factors):
            unfolded = g.movedim(axis, 0).flatten(1)
            if factor.ndim == 2:
                factor.mul_(KEEP).addmm_(unfolded, unfolded.T, alpha=1 - KEEP)
            else:
                factor.mul_(KEEP).add_(unfolded.square().sum(1), alpha=1 - KEEP)
        self.probes += 1

    def total(self) -> float:
        """See ``Curvature``."""
        return float(self._trace()) / self.correction

    def _trace(self) -> Tensor:
        first = self.factors[0]
        return first.trace() if first.ndim == 2 else first.sum()

    def _eigen(self) -> tuple[Tensor, list[Tensor | None]]:
        """Eigenvalues of ``J'J``, as the weight's axes are, and each full factor's eigenvectors."""
        if self._known is None or self.probes >= self._renewed + min(self.RENEW, self._renewed):
            trace = self._trace().clamp_min(1e-30)
            values, vectors = trace / self.correction, []
            for axis, factor in enumerate(self.factors):
                own, u = torch.linalg.eigh(factor) if factor.ndim == 2 else (factor, None)
                shape = [1] * len(self.sizes)
                shape[axis] = -1
                values = values * (own.clamp_min(0) / trace).view(shape)
                vectors.append(u)
            self._known, self._renewed = (values, vectors), self.probes
        return self._known

    def inverse_trace(self, noise: float, precision: float) -> float:
        """See ``Curvature``."""
        values, _ = self._eigen()
        return self.share * float((values * (1 / (noise * self.share)) + precision).reciprocal_().sum())

    def draw(self, noise: float, precision: float, generator: torch.Generator) -> Tensor:
        """See ``Curvature``."""
        values, vectors = self._eigen()
        drawn = _normal(values, generator) * (values * (1 / (noise * self.share)) + precision).rsqrt_()
        for u in vectors:  # each leaves the first axis last: after all of them the axes are as they were
            drawn = drawn.movedim(0, -1) if u is None else torch.tensordot(drawn, u, dims=([0], [1]))
        return drawn.reshape(self.shape)

    def state(self) -> dict[str, Any]:
        """See ``Curvature``."""
        found = {"probes": self.probes, "renewed": self._renewed, "factors": [f.clone() for f in self.factors]}
        if self._known is not None:  # as old as they are: a training goes on as if nothing had happened
            values, vectors = self._known
            found |= {"values": values.clone(), "vectors": [None if u is None else u.clone() for u in vectors]}
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Curvature``."""
        self.probes, self._renewed = int(state["probes"]), int(state["renewed"])
        for own, kept in zip(self.factors, state["factors"], strict=True):
            own.copy_(kept)
        like, self._known = self.factors[0], None
        if "values" in state:
            vectors = [None if u is None else u.to(like).clone() for u in state["vectors"]]
            self._known = state["values"].to(like).clone(), vectors


class Sketch(Curvature):
    """The last `ROWS` probes S: ``J'J`` is about ``S'S / rows``, whose few eigenvalues are those of ``S S' / rows``.

    A stochastic trace of ``J'J (J'J + noise precision)^-1`` with all correlations between a parameter's entries, so
    redundant ones count once. It sees at most as many effective parameters as rows, and takes that many times the
    parameter's memory. Draws use the diagonal.
    """

    kind = "trace"
    ROWS = 48

    def __init__(self, like: Tensor, rank: int, shares: Tensor | None = None) -> None:
        super().__init__(like, rank, shares)
        self.rows = like.new_zeros(min(self.ROWS, max(1, rank)), like.numel())
        self._values: Tensor | None = None

    def update(self, probe: Tensor) -> None:
        """See ``Curvature``."""
        self.rows[self.probes % len(self.rows)] = probe.reshape(-1)
        self.probes += 1
        self._values = None

    @property
    def _held(self) -> int:
        return max(1, min(self.probes, len(self.rows)))

    def total(self) -> float:
        """See ``Curvature``."""
        return float(self.rows.square().sum()) / self._held

    def inverse_trace(self, noise: float, precision: float) -> float:
        """See ``Curvature``."""
        if self._values is None:
            gram = (self.rows @ self.rows.T).double() / self._held
            self._values = torch.linalg.eigvalsh(gram).clamp_min(0)
        inside = float((self._values / noise + precision).reciprocal().sum())
        return inside + (self.rank - len(self._values)) / precision

    def draw(self, noise: float, precision: float, generator: torch.Generator) -> Tensor:
        """See ``Curvature``."""
        diagonal = self.rows.square().sum(0).view(self.shape) / (self._held * noise * self.share)
        return _normal(diagonal, generator) * (diagonal + precision).rsqrt()

    def state(self) -> dict[str, Any]:
        """See ``Curvature``."""
        return {"probes": self.probes, "rows": self.rows.clone()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Curvature``."""
        self.probes = int(state["probes"])
        self.rows.copy_(state["rows"])
        self._values = None


CURVATURES: dict[str, type[Curvature]] = {kind.kind: kind for kind in (Diagonal, Kronecker, Sketch)}


def curvature_of(kind: str, like: Tensor, rank: int, shares: Tensor | None = None) -> Curvature:
    """The estimate of this kind; a vector, such as a bias, has the diagonal one in place of Kronecker factors."""
    if kind == Kronecker.kind and like.ndim < 2:
        return Diagonal(like, rank, shares)
    return CURVATURES[kind](like, rank, shares)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal of the same shape; the generator is on the CPU, so that devices do not change the numbers."""
    drawn = torch.empty(like.shape, dtype=like.dtype if like.dtype != torch.bfloat16 else torch.float32)
    return drawn.normal_(generator=generator).to(like.device, like.dtype)
