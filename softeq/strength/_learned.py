"""What the rules that learn precisions from the training data share: pathways, noise, curvature, bounds."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from softeq.errors import SofteqValueError, SofteqWarning
from softeq.pathways import EQUIVARIANT
from softeq.prior import Prior
from softeq.strength._charges import Charge, squared_distance
from softeq.strength._curvature import curvature_of
from softeq.strength._learned_pathways import Pathway, agree_over_ranks, check_options, dense_square
from softeq.strength._probes import average_over_ranks, check_output, graph_kept, probe_of, rank, read_twice, scale_of
from softeq.strength._rule import RECORD_EVERY, Rule

LOWEST, HIGHEST = 1e-4, 1e8
"""Bounds of a learned precision, in units of that of a dense layer's start."""
SETTLED = 100
"""The probe from which on probes are half as frequent."""
_NOISE_KEEP = 0.95


class Learned(Rule):
    """A rule with one learned precision per layer and pathway.

    Args:
        model, samples, likelihood, prior, elsewhere, record: see `Rule`; the prior's residual precisions are not used
            where they are learned.
        start: the precision at the start, in units of that of a dense layer's own start (the variance of
            ``nn.Linear``'s initialisation); 3 to 100. A looser start overfits before the rule can tighten it, a tighter
            one does not let go within a training.
        learn: ``"residual"``: every pathway but the equivariant ones, whose precision ``prior`` says; or ``"all"``.
        curvature: ``"kfac"``; ``"diagonal"``, which counts redundant parameters as effective; or ``"trace"``.
        every: steps between two probes and updates; from probe `SETTLED` on twice as many, as curvature settles.
        seed: of probes and noise.
    """

    needs_curvature: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int,
        likelihood: str = "gaussian",
        prior: Prior | None = None,
        elsewhere: float = 0.0,
        record: int = RECORD_EVERY,
        start: float = 30.0,
        learn: str = "residual",
        curvature: str = "kfac",
        every: int = 5,
        seed: int = 0,
    ) -> None:
        check_options(start, learn, curvature, every, seed)
        self.paths: list[Pathway] = []
        self.loss_per_nat = 1.0
        super().__init__(model, samples=samples, likelihood=likelihood, prior=prior, elsewhere=elsewhere, record=record)
        self.start, self.learn, self.curvature, self.every = start, learn, curvature, every
        self.paths = self._pathways()
        self.noise: float = 1.0
        self._noise_sum, self._noise_weight = 0.0, 0.0
        self._scale: float | None = None
        self._outputs = 0
        self._probes = 0
        self._fresh = False
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._warned: set[tuple[str, str]] = set()
        self._draws = torch.Generator().manual_seed(seed)
        self._signs = torch.Generator().manual_seed(seed + 7919 * (rank() + 1))
        self._in_force: Prior | None = None
        self._renew_prior()

    def _pathways(self) -> list[Pathway]:
        groups: dict[tuple[str, str], list[Charge]] = {}
        for charge in self.charges:
            if charge.owner is not None and (charge.pathway != EQUIVARIANT or self.learn == "all"):
                groups.setdefault((charge.layer, charge.pathway), []).append(charge)
        if not groups:
            raise SofteqValueError(
                f"model: expected a residual pathway whose precision can be learned, {type(self.model).__name__} has "
                "none; train it under rule 'fixed', or say learn='all'"
            )
        found = []
        for (layer, pathway), charges in groups.items():
            unit = sum(c.rank for c in charges) / sum(c.rank * dense_square(c) for c in charges)
            own = Pathway(layer, pathway, charges, unit, self.start * unit)
            if self.needs_curvature:
                own.curvatures = [
                    curvature_of(self.curvature, c.parameter.detach(), c.rank, c.shares()) for c in charges
                ]
            found.append(own)
        return found

    @property
    def prior(self) -> Prior:
        """See ``Rule.prior``."""
        return self._base if not self.paths or self._in_force is None else self._in_force

    def _renew_prior(self) -> None:
        """The learned precisions in the loss's units: nats of the whole data set over ``loss * samples``."""
        unit = self.loss_per_nat
        overrides = {name: dict(self._base.of(name, layer.pathways)) for name, layer in self.layers.items()}
        for path in self.paths:
            overrides[path.layer][path.pathway] = path.precision * unit
        self._in_force = Prior(self._base.equivariant, self._base.residual, overrides)

    def _unit(self) -> float:
        """The loss of one sample that one nat is: ``2 a noise`` of ``a ||r||^2``, a of a times the cross-entropy."""
        scale = 1.0 if self._scale is None else self._scale
        return 2 * scale * self.noise if self.likelihood == "gaussian" else scale

    @property
    def _due(self) -> bool:
        """Whether this step has a probe."""
        return self.steps % (self.every if self.steps < SETTLED * self.every else 2 * self.every) == 0

    def _observe(self, loss: Tensor, output: Tensor | None, target: Tensor | None) -> None:
        given = check_output(output, self.likelihood)
        self._outputs = given.numel() // given.shape[0]
        due = self._due and not self._backwards
        if due or self._scale is None:
            found = torch.tensor([scale_of(loss, given, self.likelihood)], dtype=torch.float64, device=given.device)
            average_over_ranks([found])
            self._set_scale(float(found))
        if self.likelihood == "gaussian":
            self._set_noise(loss, given)
        if due:
            self._probe(given)

    def _set_scale(self, found: float) -> None:
        if found <= 0 or not math.isfinite(found):
            return  # a loss of exactly zero says nothing
        if self._scale is not None and not 0.5 < found / self._scale < 2:
            kind = "a squared error" if self.likelihood == "gaussian" else "a cross-entropy"
            raise SofteqValueError(
                f"loss: expected {kind} of output under likelihood={self.likelihood!r}; its gradient is that of one "
                f"with factor {self._scale:.3g} before and {found:.3g} now"
            )
        self._scale = found if self._scale is None else 0.9 * self._scale + 0.1 * found

    def _set_noise(self, loss: Tensor, output: Tensor) -> None:
        """The moving average of the mean squared error, measured with the noise on."""
        value = loss.detach().double().reshape(1).clone()
        average_over_ranks([value])
        now = float(value) / ((self._scale or 1.0) * self._outputs)
        self._noise_sum = _NOISE_KEEP * self._noise_sum + (1 - _NOISE_KEEP) * now
        self._noise_weight = _NOISE_KEEP * self._noise_weight + 1 - _NOISE_KEEP
        self.noise = max(self._noise_sum / self._noise_weight / self._noise_seen(), 1e-20)

    def _noise_seen(self) -> float:
        """The training error to expect, in units of the noise."""
        return 1.0

    def _probe(self, output: Tensor) -> None:
        """One random probe: the curvature of every learned pathway, unbiased for the whole data set."""
        self._fresh = True
        pairs = [
            (path.curvatures[index], charge)
            for path in self.paths
            for index, charge in enumerate(path.charges)
            if path.curvatures and charge.parameter.requires_grad
        ]
        if not pairs:
            return
        u = probe_of(output, self.likelihood, self._signs)
        parameters = [charge.parameter for _, charge in pairs]
        with read_twice(output):
            gradients = torch.autograd.grad(output, parameters, u, retain_graph=True, allow_unused=True)
        factor = math.sqrt(self.samples / output.shape[0])
        for (curvature, charge), gradient in zip(pairs, gradients, strict=True):
            found = torch.zeros_like(charge.parameter) if gradient is None else gradient
            curvature.update(charge.part(found.detach()) * factor)

    def _after_backward(self, scaler: GradScaler | None) -> None:
        self._restore()

    def _update(self) -> None:
        if not self._fresh:
            return
        self._fresh = False
        means = self._prior_means()
        for path in self.paths:
            square = sum(squared_distance(c, means.get(id(c.parameter))) for c in path.charges)
            self._bounded(path, self._next(path, square))
        agree_over_ranks(self.paths)
        self.loss_per_nat = self._unit()
        self._renew_prior()

    @abstractmethod
    def _next(self, path: Pathway, square: float) -> float:
        """The new precision of a pathway whose weights have this squared distance from their mean."""

    def _noise_variance(self) -> float:
        return self.noise if self.likelihood == "gaussian" else 1.0

    def _bounded(self, path: Pathway, precision: float) -> None:
        low, high = LOWEST * path.unit, HIGHEST * path.unit
        path.precision = min(max(precision, low), high) if math.isfinite(precision) else high
        key = path.layer, path.pathway
        if path.precision not in (low, high) or key in self._warned:
            return
        self._warned.add(key)
        why = "the data do not use it" if path.precision == high else "nothing holds it"
        warnings.warn(
            f"strength: {path.label} sits at a bound of its precision, {path.precision:.3g}: {why}",
            SofteqWarning,
            stacklevel=4,
        )

    @contextmanager
    def _noisy(self, share: float) -> Iterator[None]:
        """Adds a draw of the posterior, of this share of its covariance, to the learned weights until ``backward``."""
        self._restore()
        noise, means = self._noise_variance(), []
        with torch.no_grad():
            for path in self.paths:
                for curvature, charge in zip(path.curvatures, path.charges, strict=True):
                    if curvature.probes and charge.parameter.requires_grad:
                        means.append((charge.parameter, charge.parameter.detach().clone()))
                        drawn = curvature.draw(noise, path.precision, self._draws)
                        drawn = drawn if charge.projector is None else charge.part(drawn)
                        charge.parameter.add_(drawn, alpha=math.sqrt(share))
        self._kept = means
        try:
            with graph_kept():
                yield
        except BaseException:
            self._restore()
            raise

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, value in self._kept:
            parameter.copy_(value)
        self._kept = []

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """See ``Rule.perturbed``."""
        with graph_kept():
            yield

    def _facts(self, layer: str, pathway: str) -> dict[str, float]:
        for path in self.paths:
            if (path.layer, path.pathway) == (layer, pathway):
                return {
                    "weight_precision": path.precision,
                    "effective": path.effective,
                    "noise_variance": self._noise_variance(),
                }
        return {}

    def _state(self) -> dict[str, Any]:
        return {
            "precisions": [path.precision for path in self.paths],
            "effective": [path.effective for path in self.paths],
            "labels": [path.label for path in self.paths],
            "curvatures": [[c.state() for c in path.curvatures] for path in self.paths],
            "noise": [self.noise, self._noise_sum, self._noise_weight],
            "scale": self._scale,
            "outputs": self._outputs,
            "loss_per_nat": self.loss_per_nat,
            "generators": [self._draws.get_state(), self._signs.get_state()],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        labels = [path.label for path in self.paths]
        if list(state["labels"]) != labels:
            raise SofteqValueError(f"state: expected the pathways {labels}, got {list(state['labels'])}")
        for path, precision, effective, curvatures in zip(
            self.paths, state["precisions"], state["effective"], state["curvatures"], strict=True
        ):
            path.precision, path.effective = float(precision), float(effective)
            for own, kept in zip(path.curvatures, curvatures, strict=True):
                own.load(kept)
        self.noise, self._noise_sum, self._noise_weight = (float(value) for value in state["noise"])
        self._scale, self.loss_per_nat = state["scale"], float(state["loss_per_nat"])
        self._outputs = int(state.get("outputs", 0))  # states of before 0.2 lack it; the next batch has it
        # A checkpoint read with map_location has them on a GPU; generators are on the CPU.
        self._draws.set_state(state["generators"][0].cpu())
        self._signs.set_state(state["generators"][1].cpu())
        self._renew_prior()
