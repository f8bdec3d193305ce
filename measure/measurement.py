"""One batch's part of a local equivariance error: the flows' derivatives and the control's, in one pass through f."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.measure.controls import Controls, lengths
from softeq.measure.forward.forward_mode import push_forward
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.lie_derivative import pushed_derivatives
from softeq.measure.motion.flows import GENERATORS, tangents
from softeq.measure.output import Output
from softeq.measure.results.classes import ClassChange, class_change
from softeq.measure.results.spread import Spread
from softeq.measure.settings import Settings

_ROUNDING = 100.0  # times the dtype's precision: an answer below is made of rounding alone


@dataclass(frozen=True)
class Piece:
    """A batch's share of a LeeResult.

    Attributes:
        values: norm -> (B, n_flows), but for "centred", which needs the whole set.
        control: norm -> (draws, B, n_flows); None without one.
        gram: (B, 6, 6); None where the data are no images.
        still: (B, n_flows), the flow does not move that sample.
        dead: (B,), f answers to nothing there.
        spread: of the outputs.
        classes: of a classifier's probabilities.
    """

    values: dict[str, Tensor]
    control: dict[str, Tensor] | None
    gram: Tensor | None
    still: Tensor
    dead: Tensor
    spread: Spread
    classes: ClassChange | None


@dataclass(frozen=True)
class Measurement:
    """What every batch is measured with.

    Attributes:
        f, space, settings: the function, what is read of it, the flows.
        controls: draws the directions to compare with; None: none.
        chunk: tangents at once.
        generator: of the noise that tells a constant, where no control is asked for.
    """

    f: Callable[[Tensor], Any]
    space: Output
    settings: Settings
    controls: Controls | None
    chunk: int | None
    generator: torch.Generator

    def of(self, x: Tensor, start: int, labels: Tensor | None) -> Piece:
        """The share of the batch `x`, which begins at sample `start` of the set; the first is checked for coupling."""
        own = self.settings
        extra = None if self.controls is None else self.controls.directions(x, start)
        pushed, combination = own.pushed()
        f, action = self.space.on(self.f), self.space.action
        value, found, answers = pushed_derivatives(f, x, pushed, action, extra, self.chunk)
        check_batch(value, len(x))
        if start == 0:
            check_separate(self.f, x, value, self.space.read)
        vectors, derivatives = _vectors(value), _vectors(found, 2).movedim(0, 1)
        # Flows come from the derivatives, not from the Gram matrix: there an exact symmetry drowns in cancellation.
        moves = torch.einsum("kg,bgd->bkd", combination.to(derivatives.device), derivatives)
        sizes = torch.stack([lengths(t) for t in tangents(own.flows, x)], 1)  # (B, n_flows)
        still = self._still(x, sizes)
        dead = self._dead(x, moves, answers, still)
        hidden = still | dead[:, None]
        size = vectors.square().sum(1)
        names = {"output": self.space.name, "labels": labels}
        units = tuple(flow.unit for flow in own.flows)
        return Piece(
            values=_norms(moves, size, hidden),
            control=None if extra is None else self._control(x, extra, answers, sizes, size, hidden),
            gram=self._gram(x, derivatives, dead),
            still=still.cpu(),
            dead=dead.cpu(),
            spread=Spread.of(vectors),
            classes=class_change(own.names, units, value, moves, hidden, **names),  # type: ignore[arg-type]
        )

    def _still(self, x: Tensor, sizes: Tensor) -> Tensor:
        still = sizes == 0
        if self.settings.images:
            still |= self.settings.still(x, self.settings.coefficients()).to(still.device)
        return still

    def _dead(self, x: Tensor, moves: Tensor, answers: Tensor | None, still: Tensor) -> Tensor:
        """Samples at which f answers to nothing, not even to noise."""
        dead = (moves == 0).flatten(1).all(1)
        if answers is not None:
            dead &= (answers == 0).movedim(0, 1).flatten(1).all(1)
        if bool((dead & ~still.all(1)).any()):
            noise = self.settings.noise(x, self.generator)
            select = self.space.action.select
            _, response = push_forward(self.space.on(self.f), x, noise, select=select)
            dead &= (response[0] == 0).flatten(1).all(1) if response[0].ndim > 1 else response[0] == 0
        return dead

    def _gram(self, x: Tensor, derivatives: Tensor, dead: Tensor) -> Tensor | None:
        if not self.settings.images:
            return None
        generators = derivatives[:, : len(GENERATORS)]
        gram = (generators @ generators.mT / generators.shape[-1]).cpu()
        lost = self.settings.still(x, torch.eye(len(GENERATORS))) | dead.cpu()[:, None]
        return gram.masked_fill(lost[:, :, None] | lost[:, None, :], torch.nan)

    def _control(
        self, x: Tensor, extra: Tensor, answers: Tensor | None, sizes: Tensor, size: Tensor, hidden: Tensor
    ) -> dict[str, Tensor]:
        """Norms of the answers to directions as long as each flow's tangent: (draws, B, n_flows)."""
        controls = self.controls
        if controls is None or answers is None:
            return {}
        eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
        shortest = (_ROUNDING * eps * sizes / lengths(x)[:, None]).square() * size[:, None]  # of ||answer||^2
        found = []
        for draw in range(controls.draws):
            rows = [controls.row(draw, k) for k in range(len(self.settings.flows))]
            scale = sizes / torch.stack([lengths(extra[row]) for row in rows], 1)
            answer = torch.stack([_vectors(answers[row]) for row in rows], 1) * scale[..., None]
            lost = hidden | (answer.square().sum(-1) <= shortest)
            found.append(_norms(answer, size, lost))
        return {name: torch.stack([norms[name] for norms in found]) for name in found[0]}


def _vectors(values: Tensor, axes: int = 1) -> Tensor:
    return values.to(torch.float64).flatten(axes) if values.ndim > axes else values.to(torch.float64).unsqueeze(axes)


def _norms(vectors: Tensor, size: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Norms of (B, n_flows, dim) vectors, (B, n_flows) each; NaN where `hidden`; size: ||f||^2 per sample."""
    squares = vectors.square()
    total = squares.sum(-1)
    # Where f is exactly 0 there is nothing to be relative to.
    relative = torch.where(size[:, None] > 0, total / size[:, None], torch.nan)
    norms = {"mean_square": squares.mean(-1), "mean_abs": vectors.abs().mean(-1), "relative": relative}
    return {name: torch.where(hidden, torch.nan, value).cpu() for name, value in norms.items()}
