"""A network whose weights are an origin plus few random directions, and its quantisation.

Li et al. (ICLR 2018) train a network in a random subspace; Lotfi et al. (2022) quantise the coordinates there and code
them. Here the directions have a side: equivariant ones, residual ones (what an unconstrained draw has beside its
equivariant part), or unconstrained ones. Each is a further draw of the network's initialisation, over the root of their
number, so that coordinates are of order one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from softeq import Scalar, Vector, equivariant_projector
from softeq.experiments.data.quarters import orbits
from softeq.experiments.phenomena.occam import clustered
from softeq.experiments.training.pace import LoopSettings, Pace
from softeq.groups import Z

EQUIVARIANT, RESIDUAL, FREE = "equivariant", "residual", "free"


def draws(side: int, width: int, classes: int, kind: str, n: int, generator: torch.Generator) -> list[Tensor]:
    """``n`` draws of weights and biases of `phenomena.quarters.quarter_network` with one hidden layer.

    Args:
        side, width, classes: see there.
        kind: `EQUIVARIANT`, `RESIDUAL` or `FREE`; each has the variance 1 / (3 inputs) of a standard layer.
        n: how many.
        generator: draws.

    Returns:
        Weights ``(n, out, in)`` and biases ``(n, out, 1)`` in turn.
    """
    group = Z(4)
    reps = [(side * side // 4 * Vector)(group), (width * Vector)(group), (classes * Scalar)(group)]
    found = []
    for before, after in ((reps[0], reps[1]), (reps[1], reps[2])):
        bound = math.sqrt(1 / (3 * before.size))
        for source in (before, Scalar(group)):
            drawn = bound * torch.randn(n, after.size, source.size, generator=generator)
            if kind != FREE:
                projector = equivariant_projector(source, after)
                inside = torch.stack([projector(one) for one in drawn])
                rank, size = projector.rank, after.size * source.size
                drawn = inside * math.sqrt(size / rank) if kind == EQUIVARIANT else drawn - inside
            found.append(drawn)
    return found


class SubspaceNetwork(nn.Module):
    """Images ``(B, 1, side, side)`` to logits through weights ``origin + sum_p z_p D_p``.

    Args:
        side, width, classes: see `draws`.
        parts: kind of direction to their number.
        levels: of each part's codebook.
        generator: draws origin and directions, before any data are seen.

    Attributes:
        coordinates: by part, ``(d,)``, zero at first.
        codebooks: by part, ``(levels,)``; used once ``quantised`` is true. One level of a residual part is zero.
    """

    order: Tensor
    origin: Tensor

    def __init__(
        self,
        side: int,
        width: int,
        classes: int,
        parts: Mapping[str, int],
        levels: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.levels, self.quantised = levels, False
        self.register_buffer("order", orbits(side), persistent=False)
        first = EQUIVARIANT if EQUIVARIANT in parts else FREE
        origin = draws(side, width, classes, first, 1, generator)
        self.shapes = [part.shape[1:] for part in origin]
        self.register_buffer("origin", _flat(origin)[0])
        self.coordinates, self.codebooks = nn.ParameterDict(), nn.ParameterDict()
        for kind, d in parts.items():
            directions = _flat(draws(side, width, classes, kind, d, generator)) / math.sqrt(d)
            self.register_buffer(f"directions_{kind}", directions)
            self.coordinates[kind] = nn.Parameter(torch.zeros(d))
            self.codebooks[kind] = nn.Parameter(torch.zeros(levels))

    def begin_quantisation(self) -> None:
        """Take the coordinates to the levels of codebooks that fit them; gradients go to both from now on."""
        self.quantised = True
        for kind, z in self.coordinates.items():
            with torch.no_grad():
                levels = clustered(z.detach(), self.levels)
                if kind == RESIDUAL:
                    levels[levels.abs().argmin()] = 0.0
                self.codebooks[kind].copy_(levels)

    def drop(self, kind: str) -> None:
        """Do without a part: its coordinates are no longer sent."""
        del self.coordinates[kind]
        del self.codebooks[kind]

    def symbols(self, kind: str) -> Tensor:
        """The index of each coordinate's level, ``(d,)``."""
        return (self.coordinates[kind].detach()[:, None] - self._sent(kind).detach()).abs().argmin(1)

    def _sent(self, kind: str) -> Tensor:
        """The codebook as it is sent: in half precision, zero kept zero, the gradient passed through."""
        book = self.codebooks[kind]
        sent = book.detach().half().float()
        return book + (sent - book).detach()

    def _values(self, kind: str) -> Tensor:
        z = self.coordinates[kind]
        if not self.quantised:
            return z
        return self._sent(kind)[self.symbols(kind)] + z - z.detach()

    def weights(self) -> list[Tensor]:
        """Weights ``(out, in)`` and biases ``(out, 1)`` in turn."""
        flat = self.origin
        for kind in self.coordinates:
            flat = flat + self._values(kind) @ getattr(self, f"directions_{kind}")
        parts = flat.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        w1, b1, w2, b2 = self.weights()
        hidden = linear(x.flatten(1)[:, self.order], w1, b1[:, 0]).relu()
        return linear(hidden, w2, b2[:, 0])


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def trained(
    model: SubspaceNetwork,
    x: Tensor,
    y: Tensor,
    order: torch.Generator,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    precision: Mapping[str, float],
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Minimise the mean cross-entropy plus ``sum_p precision_p |z_p|^2 / (2 n)`` by Adam, the rate along half a cosine.

    Args:
        model: trained in place, its codebooks too where it is quantised (a level of zero stays zero).
        x, y: training images and labels.
        order: draws the batches.
        steps, batch_size, lr: of Adam.
        precision: by part.
        on_step: called after each step.
    """
    # Not `training.loop`: batches are drawn with replacement, and the gradients of codebooks are changed in a step.
    optimizer, pace = torch.optim.Adam(model.parameters(), lr=lr), Pace(LoopSettings(steps, batch_size, lr))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = pace.rate(step)
        rows = torch.randint(0, len(x), (batch_size,), generator=order)
        loss = cross_entropy(model(x[rows]), y[rows])
        penalty = sum(precision[kind] * z.square().sum() for kind, z in model.coordinates.items())
        optimizer.zero_grad()
        (loss + penalty / (2 * len(x))).backward()
        for book in model.codebooks.values():
            if book.grad is not None:
                book.grad[book.detach() == 0] = 0.0
        optimizer.step()
        on_step()
