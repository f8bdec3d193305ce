"""The prior's part of a training step: the proximal map of its negative logarithm in the optimizer's own metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from softeq._blocks import Basis, OrbitBasis
from softeq._kernels import unsharded
from softeq.errors import SofteqValueError
from softeq.solve import EquivariantProjector
from softeq.strength._charges import Charge, merged_precision
from softeq.strength._optimizers import Metric, Metrics, Number, check_decay, check_optimizer

_Plain = tuple[nn.Parameter, Tensor | None, Metric, float]
"""A parameter, its mean, its metric and c."""
_FLUSH_EVERY = 50
"""Prior steps between two looks for weights that have decayed below the smallest normal number."""
_CACHED = 2**15
"""Entries up to which parameters are taken together: one call for each costs more than their copy."""


@dataclass(frozen=True)
class Pull:
    """How strongly a parameter is pulled to its mean: the curvature c of ``c / 2 ||w - m||^2`` in the loss.

    Attributes:
        charge: the parameter.
        residual: of the parameter; of the projected parametrization the one of ``W - P W``.
        equivariant: of ``P W``, for the projected parametrization alone.
        mean: m, or ``None`` for zero.
    """

    charge: Charge
    residual: float
    equivariant: float = 0.0
    mean: Tensor | None = None


class PriorStep:
    """Applies ``w <- m + (w - m) / (1 + rate c / D)`` after an optimizer's step, which moved w by ``- rate g / D``.

    For the projected parametrization, one weight W under ``e / 2 ||P W||^2 + r / 2 ||W - P W||^2``, the map is solved
    exactly in the same diagonal metric: the W that minimises ``1/2 ||W - Z||^2_{D / rate} + e / 2 ||P W||^2 + r / 2
    ||W - P W||^2``, Z the weight after the optimizer's step; one small linear system for each block of the weight.

    A parameter that the optimizer did not move in this step, for want of a gradient or because a gradient scaler left
    the step out, is not moved either.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Number] = {}
        self._watched: dict[int, _Watch] = {}
        self._applied = 0

    @torch.no_grad()
    def apply(self, optimizer: Optimizer, pulls: Sequence[Pull]) -> None:
        """One prior step for all of ``pulls``.

        Raises:
            SofteqTypeError: an optimizer of another kind than the supported ones.
            SofteqValueError: it does not hold a parameter that takes gradients, or decays one in the gradient.
        """
        check_optimizer(optimizer)
        groups, metrics = _groups(optimizer), Metrics(optimizer)
        stepped, overflowed = self._watch(optimizer).stepped()
        plain: list[_Plain] = []
        for pull in pulls:
            parameter = pull.charge.parameter
            if not parameter.requires_grad:
                continue
            if id(parameter) not in groups:
                raise SofteqValueError(
                    f"optimizer: expected the one that trains {pull.charge.name}, which the prior prices and this "
                    f"{type(optimizer).__name__} does not hold"
                )
            group = groups[id(parameter)]
            check_decay(group, pull.charge.name)
            metric, taken = metrics.of(group, parameter)
            if not self._moved(optimizer, parameter, stepped, taken):
                continue
            if overflowed is not None:
                metric = metric.unless(overflowed.to(parameter.device))
            _take_back(parameter, metric, metrics)
            if pull.charge.projector is not None:
                _solve(parameter, pull.mean, metric, pull, pull.charge.projector)
            elif pull.residual > 0:
                plain.append((parameter, pull.mean, metric, pull.residual))
        for batch in _batches(plain):
            _shrink(batch)
        self._applied += 1
        if self._applied % _FLUSH_EVERY == 0:
            for parameter, mean, *_ in plain:
                if mean is None:
                    _flush(parameter)

    def left_alone(self) -> None:
        """What the optimizer did since the last step was not for these parameters."""
        for watch in self._watched.values():
            watch.stepped()

    def _watch(self, optimizer: Optimizer) -> _Watch:
        watch = self._watched.get(id(optimizer))
        if watch is None or watch.optimizer is not optimizer:
            watch = self._watched[id(optimizer)] = _Watch(optimizer)
        return watch

    def _moved(self, optimizer: Optimizer, parameter: nn.Parameter, stepped: bool, taken: Number) -> bool:
        # Comparing a tensor would make its device wait; what a scaler leaves out there is known as ``overflowed``.
        if isinstance(taken, Tensor) or type(optimizer) is SGD:
            return stepped and parameter.grad is not None
        before, self._seen[id(parameter)] = self._seen.get(id(parameter), 0.0), taken
        return taken != before


class _Watch:
    """Whether an optimizer has stepped since it was asked last: a gradient scaler leaves steps out.

    Of a fused optimizer it calls ``step`` all the same, and tells it on its device to do nothing.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._overflowed: Tensor | None
        # The first step was taken before anybody looked on; its gradients still say how it went.
        self._flag, self._overflowed = _finite(optimizer), None
        optimizer.register_step_post_hook(self._set)

    def _set(self, *_: object) -> None:
        self._flag, self._overflowed = True, getattr(self.optimizer, "found_inf", None)

    def stepped(self) -> tuple[bool, Tensor | None]:
        """Whether ``step`` was called; and, 0-d and not 0 if so, whether a scaler made a fused one do nothing.

        The second is ``None`` where that is known to be false; on a CPU the first then says it all.
        """
        flag, overflowed = self._flag, self._overflowed
        self._flag, self._overflowed = False, None
        if overflowed is not None and overflowed.device.type == "cpu":
            return flag and float(overflowed) == 0, None
        return flag, overflowed


def _finite(optimizer: Optimizer) -> bool:
    """Whether all gradients are finite: where one is not, a scaler has left the step out."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # As tensors until the end: a device is waited for once.
    wrong = [~unsharded(gradient.sum(dtype=torch.float64)).isfinite() for gradient in gradients]
    return not wrong or not bool(torch.stack([one.to(wrong[0].device) for one in wrong]).any())


def _groups(optimizer: Optimizer) -> dict[int, dict[str, object]]:
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def _take_back(parameter: nn.Parameter, metric: Metric, metrics: Metrics) -> None:
    """Undoes a decoupled weight decay of this step: ``w1 = (1 - a) w - s`` becomes ``w - s = (w1 + a s) / (1 - a)``."""
    if isinstance(metric.decay, float) and metric.decay == 0:
        return
    parameter.add_(metric.decay * metrics.moved(parameter, metric)).div_(1 - metric.decay)


def _batches(plain: Sequence[_Plain]) -> Iterable[Sequence[_Plain]]:
    """Small parameters that are pulled alike together, in few calls; large ones and such without a square alone."""
    kinds: dict[tuple[object, ...], list[_Plain]] = {}
    for index, item in enumerate(plain):
        parameter, mean, metric, c = item
        if metric.square is None:  # without a square the factor is a number
            _scale(parameter, mean, metric, c)
            continue
        alone = parameter.numel() > _CACHED or isinstance(metric.rate, Tensor)
        like = (index,) if alone else (metric.rate * c, metric.offset, parameter.device, metric.square.dtype)
        kinds.setdefault(like, []).append(item)
    return kinds.values()


def _scale(parameter: nn.Parameter, mean: Tensor | None, metric: Metric, c: float) -> None:
    factor = 1 / (1 + metric.rate * c)
    if mean is None:
        parameter.mul_(factor)
    else:
        parameter.sub_(mean).mul_(factor).add_(mean)


def _flush(parameter: nn.Parameter) -> None:
    """Weights below the smallest normal number become 0.

    A factor alone never gets there: it shrinks a weight without a gradient to a subnormal number and, being rounded,
    leaves it at one; on many processors arithmetic with these takes a hundred times as long.
    """
    parameter.masked_fill_(parameter.abs() < torch.finfo(parameter.dtype).tiny, 0)


def _shrink(batch: Sequence[_Plain]) -> None:
    """``w - m`` times ``D / (D + rate c)`` with ``D = sqrt(v) + offset``, for parameters with the same rate and c."""
    _, _, metric, c = batch[0]
    pull = metric.rate * c
    if isinstance(pull, float) and pull == 0:
        return
    weights = [parameter.data for parameter, *_ in batch]
    means = [(weight, mean) for weight, (_, mean, *_) in zip(weights, batch, strict=True) if mean is not None]
    for weight, mean in means:
        weight.sub_(mean)
    squares = [metric.square for _, _, metric, _ in batch if metric.square is not None]
    flat = squares[0].sqrt() if len(batch) == 1 else torch.cat([square.reshape(-1) for square in squares]).sqrt_()
    flat.add_(metric.offset)
    flat.div_(flat + pull)
    if len(batch) == 1:
        weights[0].mul_(flat)
    else:
        parts = flat.split([weight.numel() for weight in weights])
        factors = [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
        torch._foreach_mul_(weights, factors)
    for weight, mean in means:
        weight.add_(mean)


def _solve(
    parameter: nn.Parameter, mean: Tensor | None, metric: Metric, pull: Pull, projector: EquivariantProjector
) -> None:
    """The exact proximal map of ``e / 2 ||P W||^2 + r / 2 ||W - P W||^2`` in the metric G = D / rate.

    With Q an orthonormal basis of a block of ``P``'s image, stationarity reads ``G (w - z) + r w + (e - r) Q Q'w = 0``.
    For ``a = Q'w`` and ``A = G + r`` that is ``Q'(G + e) A^-1 Q a = Q' A^-1 G z``, in which r and e never cancel; then
    ``w = A^-1 (G z + (r - e) Q a)``.
    """
    r: Number = pull.residual
    e: Number = merged_precision(pull.equivariant, pull.residual)
    if (isinstance(metric.rate, float) and metric.rate == 0) or (r == 0 and e == 0):
        return
    wide = torch.promote_types(parameter.dtype, torch.float32)
    z = (parameter if mean is None else parameter - mean).to(wide).reshape(projector.shape)
    size = torch.ones_like(z) if metric.square is None else metric.square.to(wide).view_as(z).sqrt() + metric.offset
    # Everything times rate: G = D, r and e times rate. A huge r then overflows nothing.
    r, e = r * metric.rate, e * metric.rate
    solved = z * (size / (size + r))
    blocks = projector._blocks(size)
    flat = solved.reshape(-1)
    start = 0
    for (g, basis), (z_block, _) in zip(blocks.gather(size), blocks.gather(z), strict=True):
        places = blocks.places[start : start + g.numel()]
        start += g.numel()
        flat[places] = _block(g, z_block, basis, r, e).reshape(-1)
    result = flat.view_as(parameter).to(parameter.dtype)
    parameter.copy_(result if mean is None else result + mean)


def _block(g: Tensor, z: Tensor, basis: Basis, r: Number, e: Number) -> Tensor:
    """Blocks of one type ``(rows, entries)``; ``basis`` as in ``Blocks``, ``None`` where P is the identity."""
    if basis is None:
        return z * (g / (g + e))
    kept = g / (g + r)  # A^-1 G
    if isinstance(basis, OrbitBasis):  # tensors that share no entry: the system is diagonal
        system = basis._replace(weights=basis.weights.square()).coefficients((g + e) / (g + r))
        return kept * z + ((r - e) / (g + r)) * basis.expanded(basis.coefficients(kept * z) / system)
    system = torch.einsum("ni,ip,iq->npq", (g + e) / (g + r), basis, basis)
    a = torch.linalg.solve(system, (kept * z) @ basis)
    return kept * z + ((r - e) / (g + r)) * (a @ basis.T)
