"""Rules that do not look at the data: a fixed prior, and one that is loosened and tightened by a schedule."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from softeq.errors import SofteqValueError
from softeq.pathways import EQUIVARIANT
from softeq.prior import Prior
from softeq.strength._rule import Rule, checked_precision

HARD = 1e12
"""A residual precision that makes a soft network the hard one."""


class Fixed(Rule):
    """The prior that is given, ``prior=Prior(...)``, through the prior step (Finzi, Benton, Wilson 2021).

    Hard layers and free ones take it too, so that baselines run through the same loop. Two free numbers.
    """

    name = "fixed"


class Annealed(Rule):
    """Constraint relaxation: from tight to loose and back, so that training may pass where no hard network can.

    The residual precision goes from ``tight`` to ``loose`` over the share ``turn`` of the steps and back over the rest,
    each in a line of its logarithm (after Pertigkiozoglou et al., NeurIPS 2024, who scale the residual by a factor up
    and down). With ``hard`` it is 1e12 over the last twentieth: then the network is hard, ``softeq.harden`` changes no
    output. Four options.

    Args:
        model, samples, options: see `Rule`; the prior's residual precisions are replaced.
        steps: of the whole training.
        loose, tight: the residual precision at its least and at both ends, in the units of `Prior`.
        turn: where it is least, a share of the steps.
        hard: whether the end is hard.
    """

    name = "annealed"

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int,
        steps: int,
        loose: float = 1.0,
        tight: float = 1e4,
        turn: float = 0.3,
        hard: bool = True,
        **options: Any,
    ) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise SofteqValueError(f"steps: expected the number of steps of the whole training, got {steps!r}")
        if not 0 < turn < 1:
            raise SofteqValueError(f"turn: expected a share of the steps between 0 and 1, got {turn}")
        self.loose, self.tight = checked_precision("loose", loose), checked_precision("tight", tight)
        if not 0 < self.loose <= self.tight:
            raise SofteqValueError(f"loose: expected above 0 and at most tight, got loose={loose}, tight={tight}")
        self.total, self.turn, self.hard = steps, turn, bool(hard)
        self._now: Prior | None = None
        super().__init__(model, samples=samples, **options)
        self._update()

    @property
    def prior(self) -> Prior:
        """See ``Rule.prior``."""
        return self._base if self._now is None else self._now

    def precision(self, step: int) -> float:
        """The residual precision at a step, counted from 0."""
        share = min(1.0, step / max(1, self.total - 1))
        if self.hard and share >= 0.95:
            return HARD
        away = abs(share - self.turn) / (self.turn if share < self.turn else 1 - self.turn)
        return math.exp((1 - away) * math.log(self.loose) + away * math.log(self.tight))

    def _update(self) -> None:
        value = self.precision(self.steps)
        overrides = {
            name: {
                pathway: own if pathway == EQUIVARIANT else value
                for pathway, own in self._base.of(name, layer.pathways).items()
            }
            for name, layer in self.layers.items()
        }
        self._now = Prior(self._base.equivariant, value, overrides)

    def _load(self, state: Any) -> None:
        self.steps = int(state["steps"])
        self._update()
