"""Several priors trained side by side, and held-out data that halve them: for where the training data do not tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.prior import Prior
from softeq.strength._copies import Copy
from softeq.strength._evidence_rules import GroupLasso, MacKay, Variational
from softeq.strength._probes import average_over_ranks
from softeq.strength._rule import Rule
from softeq.strength._schedules import HARD, Fixed

Candidate = float | str | Prior
"""A residual precision in the units of `Prior`, the name of a rule that learns it, or a whole `Prior`."""

_LEARNED: dict[str, type[Rule]] = {kind.name: kind for kind in (MacKay, Variational, GroupLasso)}


class Halving(Rule):
    """Successive halving over priors by held-out data (Jamieson, Talwalkar 2016), in one loop over one model.

    The candidates start alike and take turns on the model, `CHUNK` steps each; the rule swaps weights, buffers and the
    optimizer's state. After a quarter of a candidate's own training (of four; of K after ``1 / 2^ceil(log2 K)``) the
    worse half by ``held()`` goes, and so on until one is left, which trains alone over the rest. Of a loop of S steps
    the last one gets S / 1.5 with two candidates, S / 1.75 with three, S / 2 with four: make ``steps`` so many times a
    usual run's to train it as long. The learning rate is the loop's own schedule. A candidate may learn its precisions
    from the training data; then held-out data only say whether to trust it.

    Weights outside the model (an average over steps, say) would mix the candidates: start them after ``alone``.

    Args:
        model, samples, options: see `Rule`.
        held: how bad the model is on held-out data, all of them, as a number: the loss, or the error where that is
            wanted. Called in evaluation mode without gradients.
        steps: of the whole loop.
        candidates: two or more. The default tries the symmetry itself, a learned prior and a free residual.
    """

    name: ClassVar[str] = "halving"
    CHUNK: ClassVar[int] = 10

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int,
        held: Callable[[], Tensor | float],
        steps: int,
        likelihood: str = "gaussian",
        prior: Prior | None = None,
        candidates: Sequence[Candidate] = (HARD, "mackay", 0.1),
        **options: Any,
    ) -> None:
        if not callable(held):
            raise SofteqTypeError(f"held: expected a function that returns a number, got {type(held).__name__}")
        self.held = held
        super().__init__(model, samples=samples, likelihood=likelihood, prior=prior, **options)
        given = tuple(candidates)
        self.plan = Plan(len(given), steps, self.CHUNK)
        own = Copy(model)
        self.candidates = []
        self.copies: list[Copy] = []
        for candidate in given:
            own.restore(model)
            self.candidates.append(self._built(candidate))
            self.copies.append(Copy(model))
        self.alive = list(range(len(given)))
        self.found: list[dict[str, Any]] = []
        self._now = 0
        self.copies[0].restore(model)

    def _built(self, candidate: Candidate) -> Rule:
        common: dict[str, Any] = {"samples": self.samples, "likelihood": self.likelihood, "record": self.record}
        common["elsewhere"] = self.elsewhere
        if isinstance(candidate, str):
            if candidate not in _LEARNED:
                raise SofteqValueError(
                    f"candidates: expected a precision, a Prior or one of {', '.join(_LEARNED)}, got {candidate!r}"
                )
            return _LEARNED[candidate](self.model, prior=self._base, **common)
        if isinstance(candidate, Prior):
            return Fixed(self.model, prior=candidate, **common)
        if isinstance(candidate, bool) or not isinstance(candidate, int | float):
            raise SofteqTypeError(f"candidates: expected precisions, names or Priors, got {type(candidate).__name__}")
        return Fixed(self.model, prior=Prior(self._base.equivariant, float(candidate)), **common)

    @property
    def current(self) -> Rule:
        """The candidate that the model holds now."""
        return self.candidates[self._now]

    @property
    def alone(self) -> bool:
        """Whether one candidate is left."""
        return len(self.alive) == 1

    @property
    def prior(self) -> Prior:
        """Of the candidate that the model holds now; see ``Rule.prior``."""
        return self.current.prior if hasattr(self, "candidates") and self.candidates else self._base

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """See ``Rule.perturbed``."""
        with self.current.perturbed():
            yield

    def backward(
        self,
        loss: Tensor,
        output: Tensor | None = None,
        *,
        target: Tensor | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """See ``Rule.backward``."""
        self.current.backward(loss, output, target=target, scaler=scaler)

    def step(self, optimizer: Optimizer) -> None:
        """See ``Rule.step``; then the model may become the next candidate's."""
        self.current.step(optimizer)
        self.steps += 1
        self._take_history()
        if not self.alone and self.plan.ends(self.steps):
            self._halve(optimizer)
        elif not self.alone:
            self._show(optimizer, self.alive[self.plan.turn(self.steps)])

    def _take_history(self) -> None:
        if self.current.history:
            self.history += [{**row, "candidate": self._now} for row in self.current.history]
            self.current.history = []

    def _show(self, optimizer: Optimizer, index: int) -> None:
        """Puts a candidate's weights on the model, after keeping those that are there."""
        if index == self._now:
            return
        self.copies[self._now].keep(self.model, optimizer)
        self._now = index
        self.copies[index].restore(self.model, optimizer)
        self.current._prior_step.left_alone()

    def _halve(self, optimizer: Optimizer) -> None:
        found = {}
        for index in self.alive:
            self._show(optimizer, index)
            found[index] = self._measured()
        if not any(math.isfinite(value) for value in found.values()):
            raise SofteqValueError(f"held: expected a finite number for some candidate, got {list(found.values())}")
        self.found.append({"step": self.steps, "held": {str(index): value for index, value in found.items()}})
        kept = sorted(self.alive, key=lambda index: found[index])[: (len(self.alive) + 1) // 2]
        for index in set(self.alive) - set(kept):
            self.copies[index].drop()
        self.alive = sorted(kept)
        self._show(optimizer, self.alive[0])

    @torch.no_grad()
    def _measured(self) -> float:
        """``held()`` of the model as it is; infinite where it is not finite, so that a diverged candidate goes."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            value = self.held()
        finally:
            for module in training:
                module.training = True
        if isinstance(value, bool) or not isinstance(value, Tensor | int | float):
            raise SofteqTypeError(f"held: expected it to return a number, got {type(value).__name__}")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise SofteqTypeError(f"held: expected it to return one number, got shape {tuple(value.shape)}")
        device = next(self.model.parameters()).device
        number = torch.tensor([float(value)], dtype=torch.float64, device=device)
        average_over_ranks([number])
        return float(number) if math.isfinite(float(number)) else math.inf

    def _state(self) -> dict[str, Any]:
        return {
            "alive": list(self.alive),
            "now": self._now,
            "found": [dict(row) for row in self.found],
            "candidates": [one.state_dict() for one in self.candidates],
            "copies": [copy.state() if k in self.alive else {} for k, copy in enumerate(self.copies)],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        if len(state["candidates"]) != len(self.candidates):
            raise SofteqValueError(
                f"state: expected {len(self.candidates)} candidates, got {len(state['candidates'])}; build the rule "
                "with those that it was saved with"
            )
        for one, kept in zip(self.candidates, state["candidates"], strict=True):
            one.load_state_dict(kept)
        for copy, kept in zip(self.copies, state["copies"], strict=True):
            copy.load(kept)
        self.alive, self._now = [int(index) for index in state["alive"]], int(state["now"])
        self.found = [dict(row) for row in state["found"]]


class Plan:
    """Whose turn it is at each step of the loop, and after which steps the worse half goes.

    Args:
        candidates: how many there are at first.
        steps: of the whole loop.
        chunk: steps of a turn.
    """

    def __init__(self, candidates: int, steps: int, chunk: int) -> None:
        if candidates < 2:
            raise SofteqValueError(f"candidates: expected two or more, got {candidates}")
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise SofteqTypeError(f"steps: expected the number of steps of the whole loop, got {type(steps).__name__}")
        alive, own = [candidates], []
        while alive[-1] > 1:
            alive.append((alive[-1] + 1) // 2)
        halvings = len(alive) - 1
        own = [2.0**-halvings] + [2.0 ** (k - halvings) / 2 for k in range(1, halvings + 1)]
        self.cost = sum(n * share for n, share in zip(alive, own, strict=True))
        self.chunk = chunk
        self.rounds: list[tuple[int, int, int]] = []  # first step, candidates, steps of each
        first = 0
        for n, share in zip(alive[:-1], own[:-1], strict=True):
            each = int(steps * share / self.cost)
            if each < 1:
                raise SofteqValueError(f"steps: expected enough for {candidates} candidates to train, got {steps}")
            self.rounds.append((first, n, each))
            first += n * each
        self.alone_from = first

    def ends(self, step: int) -> bool:
        """Whether a round is over after so many steps."""
        return any(step == first + n * each for first, n, each in self.rounds)

    def turn(self, step: int) -> int:
        """Which of those alive has the step with this number, counted from 0; 0 once one is left."""
        for first, n, each in self.rounds:
            if step < first + n * each:
                done, within = divmod(step - first, n * self.chunk)
                return within // min(self.chunk, each - done * self.chunk)
        return 0
