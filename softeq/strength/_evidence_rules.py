"""Rules that choose precisions by the evidence of the training data, or an upper bound of minus its logarithm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from softeq.errors import SofteqValueError
from softeq.strength._learned import Learned, Pathway

_TINY = 1e-30


class Variational(Learned):
    """A Gaussian over each pathway's weights, and precisions by EM (a variational free energy).

    The posterior has mean w and precision ``H / noise + precision`` with H the Gauss-Newton curvature, from probes; one
    draw of it is on the weights in every step, so that the gradient is that of the expected loss. Of squared errors the
    draw has a share of the posterior's covariance, the square root of effective parameters over numbers to be fitted
    (samples times outputs): all of it where the weights could fit everything, which is where it keeps the training
    error from going to zero, and little where there are many samples, where all that it does is slow the training. Of
    classes it has all: a classifier that is sure has no effective parameters left to say so. Where there is batch
    norm, the steps of a probe are without noise, and its running statistics are taken in those alone: the noise would
    widen them, and the network that is used has none. The precision is ``d / (||w||^2 + tr posterior covariance)``,
    which lowers the free energy (Graves 2011; Khan et al. 2018; for precisions per layer van der Ouderaa et
    al. 2023). One option, ``start``.
    """

    name = "variational"
    SWEEPS = 2

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """See ``Rule.perturbed``."""
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        if norms and self._due:
            with super().perturbed():
                yield
            return
        with self._noisy(self._share()), _statistics_kept(norms):
            yield

    def _used(self) -> float:
        """Effective parameters over the numbers that the training data have to be fitted, at most 1."""
        effective = sum(path.effective for path in self.paths)
        return min(1.0, effective / (self.samples * self._outputs)) if self._outputs else 0.0

    def _share(self) -> float:
        return math.sqrt(self._used()) if self.likelihood == "gaussian" else 1.0

    def _noise_seen(self) -> float:
        # Fitting takes the share `_used` of the noise out of the training error (MacKay 1992), a draw from the whole
        # posterior puts it back.
        return 1 - (1 - self._share()) * self._used()

    def _next(self, path: Pathway, square: float) -> float:
        noise, precision = self._noise_variance(), path.precision
        for _ in range(self.SWEEPS):
            trace = path.inverse_trace(noise, precision)
            path.effective = max(0.0, path.rank - precision * trace)
            precision = path.rank / max(square + trace, _TINY)
        return precision


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """The running statistics of these layers do not change inside."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class MacKay(Learned):
    """MacKay's fixed point of the Laplace evidence (1992), damped, with a little against what is not needed.

    ``precision = (effective + sparsity) / ||w||^2``, where the effective number of parameters is
    ``d - precision tr (H / noise + precision)^-1``. It has no weight noise.

    On data that obey the symmetry exactly, the evidence of a pathway has its maximum at infinity in half of all draws
    of the noise only. ``sparsity`` s adds ``s / 2 log precision`` to it: with d dimensions of one curvature h the
    maximum is then at infinity unless ``||gradient||^2 / h`` exceeds ``(sqrt(d + s) + sqrt(s))^2``, which noise alone
    does in about 1 of 20 draws for s = 1, whatever d; a pathway that the data use hardly notices. As long as a misfit
    counts as noise it would hold what is going to be used, so it comes in over the first `RAMP` updates. Options:
    ``start``, which is tight, 10; ``sparsity``, 1, and 0 for MacKay's own.
    """

    name = "mackay"
    MIX, RAMP = 0.3, 50

    def __init__(
        self, model: nn.Module, *, samples: int, start: float = 10.0, sparsity: float = 1.0, **options: Any
    ) -> None:
        if not 0 <= sparsity < math.inf:
            raise SofteqValueError(f"sparsity: expected a finite number of at least 0, got {sparsity}")
        self.sparsity = sparsity
        super().__init__(model, samples=samples, start=start, **options)

    def _next(self, path: Pathway, square: float) -> float:
        precision = path.precision
        path.effective = max(path.rank - precision * path.inverse_trace(self._noise_variance(), precision), 0.0)
        sparsity = self.sparsity * min(1.0, max(curvature.probes for curvature in path.curvatures) / self.RAMP)
        wanted = max(path.effective + sparsity, _TINY) / max(square, _TINY)
        return math.exp((1 - self.MIX) * math.log(precision) + self.MIX * math.log(wanted))


class GroupLasso(Learned):
    """A group lasso per pathway, scaled by curvature: ``precision = eta sqrt(tr H / noise) / ||w||``.

    A pathway leaves zero where ``||gradient of the log likelihood||^2 > eta^2 tr H / noise``, for eta = 1 the
    evidence's own condition. Options: ``eta``, and ``start`` until the first probe.
    """

    name = "group-lasso"

    def __init__(self, model: nn.Module, *, samples: int, eta: float = 0.7, **options: Any) -> None:
        if not 0 < eta < math.inf:
            raise SofteqValueError(f"eta: expected a finite number above 0, got {eta}")
        self.eta = eta
        super().__init__(model, samples=samples, **options)

    def _next(self, path: Pathway, square: float) -> float:
        noise = self._noise_variance()
        path.effective = max(path.rank - path.precision * path.inverse_trace(noise, path.precision), 0.0)
        total = sum(curvature.total() for curvature in path.curvatures)
        return self.eta * math.sqrt(max(total, 0.0) / noise) / max(math.sqrt(square), _TINY)
