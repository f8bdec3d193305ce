"""What all rules for the prior's strength share: the loop's interface, the bookkeeping and the prior step."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from softeq._means import MEANS
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import EQUIVARIANT, RESIDUAL, MergedLayer, SoftLayer, soft_layers
from softeq.prior import Prior
from softeq.strength._charges import ELSEWHERE, Charge, charges_of, precisions_of, squared_distance
from softeq.strength._prox import PriorStep, Pull

LIKELIHOODS = ("gaussian", "categorical")
PINNED = 1e10
"""From this precision on a pathway starts at its mean: its prior is narrower than the rounding of its weights."""
RECORD_EVERY = 100


class Rule(ABC):
    """A rule for the prior's strength, and the prior's part of every training step.

    Args:
        model: what is trained, with soft layers; wrapped (DDP, ``torch.compile``) or not.
        samples: how many training samples there are: precisions are for all of them together, the loss is a mean.
        likelihood: ``"gaussian"`` (squared errors) or ``"categorical"`` (cross-entropy).
        prior: the prior at the start. A rule that learns a pathway's precision replaces it there.
        elsewhere: precision of the parameters outside soft layers; 0 leaves them alone. With one above 0 a model
            without soft layers is allowed, so that an unconstrained baseline runs through the same loop.
        record: steps between two entries of ``history`` at least (they become rarer in long trainings); 0 for none.

    Raises:
        SofteqTypeError, SofteqValueError: an argument of a wrong type or value, by its name; a model without soft
            layers.
    """

    name: ClassVar[str]
    needs_layers: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int,
        likelihood: str = "gaussian",
        prior: Prior | None = None,
        elsewhere: float = 0.0,
        record: int = RECORD_EVERY,
    ) -> None:
        _check_arguments(model, samples, likelihood, prior, record)
        self.model, self.samples, self.likelihood, self.record = model, samples, likelihood, record
        self.elsewhere = checked_precision("elsewhere", elsewhere)
        self._base = Prior() if prior is None else prior
        self.charges = charges_of(model, elsewhere=self.elsewhere > 0)
        self.layers: dict[str, SoftLayer] = dict(soft_layers(model))
        if self.needs_layers and not self.charges:
            raise SofteqValueError(
                f"model: expected a soft layer with parameters, {type(model).__name__} has none; build it from "
                "SoftLinear and the like, or give its parameters a precision with elsewhere=..."
            )
        if self.layers:
            self._base.check_names(self.layers)
        self.steps = 0
        self.history: list[dict[str, Any]] = []
        self._next_record = record
        self._prior_step = PriorStep()
        self._backwards = 0
        self._means: tuple[Any, dict[int, Tensor]] = (None, {})
        self._pulled: tuple[Prior, dict[int, Tensor], list[Pull]] | None = None
        self._pin()

    @property
    def prior(self) -> Prior:
        """The prior in force, in the units of the loss.

        Training with ``loss + prior_penalty(model, rule.prior) / samples`` has the stationary points of training under
        the rule as it stands, so it can be handed on as it is: ``rule("fixed", model, samples=n, prior=rule.prior)``.
        """
        return self._base

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Inside, the weights carry the noise that the rule wants; they stay so until ``backward``. Else nothing."""
        yield

    def backward(
        self,
        loss: Tensor,
        output: Tensor | None = None,
        *,
        target: Tensor | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """``loss.backward()``, and what the rule wants to know beside it.

        Args:
            loss: of the data alone, a mean over samples, 0-d; not scaled.
            output: the model's output that the loss was computed from, ``(B, ...)``, with its graph.
            target: what the loss compares it with, for rules that say so.
            scaler: of mixed precision; the loss is scaled by it.

        Raises:
            SofteqTypeError, SofteqValueError: a loss that is no 0-d tensor with a graph, or is not finite: no gradient
                has been added then and nothing of the rule has changed.
        """
        self._check_loss(loss)
        self._observe(loss, output, target)
        (loss if scaler is None else scaler.scale(loss)).backward()
        self._backwards += 1
        self._after_backward(scaler)

    def step(self, optimizer: Optimizer) -> None:
        """To be called after ``optimizer.step()``: applies the prior's part of the step and updates the precisions.

        In this order: between the two the weights of a tight pathway are off by the optimizer's step, as far as it goes
        whatever the precision, and a rule that measured them there would never let the pathway reach its bound.

        Raises:
            SofteqTypeError, SofteqValueError: an optimizer that the step does not follow, or that does not hold the
                priced parameters; or ``backward`` has not been called since the last step.
        """
        if not self._backwards:
            raise SofteqValueError("step: expected rule.backward(loss, output) before it, in place of loss.backward()")
        self._prior_step.apply(optimizer, self._pulls())
        self._backwards = 0
        self.steps += 1
        self._update()
        if self.record and self.steps >= self._next_record:
            self._next_record = self.steps + max(self.record, self.steps // 20)
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: numbers, strings, lists and tensors alone, for ``torch.load(weights_only=True)``."""
        return {
            "rule": self.name,
            "steps": self.steps,
            "next_record": self._next_record,
            "history": [dict(row) for row in self.history],
            **self._state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where another rule of the same name and model was.

        Raises:
            SofteqValueError: the state of another rule, or of other layers.
        """
        if state.get("rule") != self.name:
            raise SofteqValueError(f"state: expected that of the rule {self.name!r}, got {state.get('rule')!r}")
        self._load(state)
        self.steps, self._next_record = int(state["steps"]), int(state["next_record"])
        self.history = [dict(row) for row in state["history"]]
        self._backwards = 0

    # What a rule may add.

    def _observe(self, loss: Tensor, output: Tensor | None, target: Tensor | None) -> None:
        """Before the backward pass, the graph still there."""
        return

    def _after_backward(self, scaler: GradScaler | None) -> None:
        """After it."""
        return

    def _update(self) -> None:
        """After the prior step: the weights are those of the network under the prior in force."""
        return

    def _facts(self, layer: str, pathway: str) -> dict[str, float]:
        """For ``history``: what the rule knows of a pathway beside its precision and norm."""
        return {}

    def _state(self) -> dict[str, Any]:
        return {}

    def _load(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``_state``."""
        return

    # The rest is the same for all.

    def _check_loss(self, loss: Tensor) -> None:
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise SofteqTypeError(f"loss: expected a 0-d tensor with a graph, a mean over samples, got {what}")
        # Elsewhere than on a CPU, reading a number makes the device wait: every tenth step is often enough.
        if (loss.device.type == "cpu" or self.steps % 10 == 0) and not math.isfinite(loss.item()):
            raise SofteqValueError(
                f"loss: expected a finite number, got {loss.item()} at step {self.steps + 1}; a smaller learning rate "
                "or clipped gradients may help"
            )

    def _pulls(self) -> list[Pull]:
        means, prior = self._prior_means(), self.prior
        if self._pulled is not None and self._pulled[0] is prior and self._pulled[1] is means:
            return self._pulled[2]
        pulls = []
        for charge, precisions in zip(self.charges, precisions_of(self.charges, prior, self.elsewhere), strict=True):
            own = precisions[charge.pathway] / self.samples
            merged = precisions[EQUIVARIANT] / self.samples if charge.projector is not None else 0.0
            pulls.append(Pull(charge, own, merged, means.get(id(charge.parameter))))
        self._pulled = prior, means, pulls
        return pulls

    def _prior_means(self) -> dict[int, Tensor]:
        """Per parameter what ``softeq.anchor`` recorded; read anew where a record was replaced or moved."""
        records = tuple(id(layer._modules.get(MEANS)) for layer in self.layers.values())
        key, means = self._means
        devices = {id(c.parameter): c.parameter.device for c in self.charges} if means else {}
        if key != records or any(mean.device != devices.get(name, mean.device) for name, mean in means.items()):
            means = {}
            for layer in self.layers.values():
                means |= layer.prior_means()
            self._means = records, means
        return means

    @torch.no_grad()
    def _pin(self) -> None:
        """Puts what the prior pins to its mean there at once: the first gradient is then that of the hard network."""
        for pull in self._pulls():
            if pull.residual * self.samples >= PINNED:
                parameter, charge = pull.charge.parameter, pull.charge
                away = parameter if pull.mean is None else parameter - pull.mean
                rest = away if charge.spanned is not None else charge.part(away)
                parameter.sub_(rest)

    @torch.no_grad()
    def _write(self) -> None:
        means, prior = self._prior_means(), self.prior
        norms: dict[tuple[str, str], float] = {}
        for charge in self.charges:
            key = charge.layer, charge.pathway
            norms[key] = norms.get(key, 0.0) + squared_distance(charge, means.get(id(charge.parameter)))
        defects = {name: layer.weight_defect() for name, layer in self.layers.items() if isinstance(layer, MergedLayer)}
        for (layer, pathway), square in norms.items():
            precision = (
                self.elsewhere if pathway == ELSEWHERE else prior.of(layer, self.layers[layer].pathways)[pathway]
            )
            row: dict[str, Any] = {"step": self.steps, "layer": layer, "pathway": pathway}
            row |= {"precision": precision, "norm": math.sqrt(square), **self._facts(layer, pathway)}
            if layer in defects and pathway == RESIDUAL:
                row["defect"] = defects[layer]
            self.history.append(row)


def checked_precision(name: str, value: float) -> float:
    """A finite number of at least 0, or an error by this name."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SofteqTypeError(f"{name}: expected a precision as a number, got {type(value).__name__}")
    if not (math.isfinite(value) and value >= 0):
        raise SofteqValueError(f"{name}: expected a finite precision of at least 0, got {value}")
    return float(value)


def _check_arguments(model: object, samples: object, likelihood: object, prior: object, record: object) -> None:
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if not isinstance(samples, int) or isinstance(samples, bool):
        raise SofteqTypeError(f"samples: expected the number of training samples, got {type(samples).__name__}")
    if samples < 1:
        raise SofteqValueError(f"samples: expected at least one training sample, got {samples}")
    if likelihood not in LIKELIHOODS:
        raise SofteqValueError(f"likelihood: expected one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    if prior is not None and not isinstance(prior, Prior):
        raise SofteqTypeError(f"prior: expected a softeq.Prior, got {type(prior).__name__}")
    if not isinstance(record, int) or isinstance(record, bool) or record < 0:
        raise SofteqValueError(f"record: expected a number of steps, 0 for no history, got {record!r}")


__all__ = ["Charge", "Rule"]
