"""The problems on which rules for the prior's strength are compared: families from whole to broken symmetry.

Each is a network with ``constraint=``, training data, a loss and a test error, and says how it is trained; all arms of
one problem and seed have the same data, start and order of batches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from softeq import Scalar, SoftLinear, T, Vector
from softeq.groups import O, Z

BREAKINGS = (0.0, 0.03, 0.1, 0.3, 1.0)
Action = Callable[[torch.Generator], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]
"""Draws an element of the assumed group: how it acts on inputs and on outputs."""


@dataclass(frozen=True)
class Problem:
    """One problem with its data.

    Attributes:
        build: the untrained network under ``"soft"``, ``"hard"`` or ``"none"``, the same for each seed.
        x, y: the training data.
        held: held-out data of a fifth of the training data's size, for rules that ask for it.
        loss: of outputs and targets, a mean over samples.
        error: of a trained model on test data; lower is better (for images 1 - accuracy).
        action: of the assumed symmetry, for the rule that penalises the function.
        likelihood: ``"gaussian"`` or ``"categorical"``.
        steps, batch, lr, clip: how it is trained, by Adam with a warm-up and a cosine.
        equivariant: precision of the equivariant pathway.
        unfit: rules that this problem cannot be trained under.
        grid: residual precisions of the grid; decays: those tried for the unconstrained network.
    """

    build: Callable[[str], nn.Module]
    x: Tensor
    y: Tensor
    held: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[nn.Module], float]
    likelihood: str
    steps: int
    batch: int
    lr: float
    grid: tuple[float, ...]
    decays: tuple[float, ...]
    action: Action
    equivariant: float = 1e-6
    clip: float | None = None
    unfit: tuple[str, ...] = ()

    def fit(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The loss on these rows of the training data, and the output that it was computed from."""
        output = model(self.x[rows])
        return self.loss(output, self.y[rows]), output

    def held_batch(self, model: nn.Module, rows: Tensor) -> Tensor:
        """The loss on these rows of the held-out data, with its graph."""
        x, y = self.held
        return self.loss(model(x[rows]), y[rows])

    @torch.no_grad()
    def held_loss(self, model: nn.Module) -> float:
        """On all held-out data; of classes at the best temperature, as accuracy knows of none."""
        x, y = self.held
        output = model(x)
        temperatures = (1.0,) if self.likelihood == "gaussian" else TEMPERATURES
        return min(self.loss(output / t, y).item() for t in temperatures)

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Rows of one batch after the other: the data in a random order, and again in another."""
        order = torch.Generator().manual_seed(seed + 10_000)
        size, queue = min(self.batch, len(self.x)), torch.empty(0, dtype=torch.long)
        while True:
            if len(queue) < size:
                queue = torch.randperm(len(self.x), generator=order)
            rows, queue = queue[:size], queue[size:]
            yield rows


TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0)


def rate(step: int, steps: int) -> float:
    """The learning rate's factor: it rises over a twentieth of the steps and falls by a cosine."""
    rise = max(1, steps // 20)
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))


def names(family: str) -> list[str]:
    """The problems of a family, small data first."""
    if family == "z6":
        return [f"z6/n{n}/e{e:g}" for n in (100, 1000) for e in BREAKINGS]
    if family == "inertia":
        return [f"inertia/n{n}/e{e:g}" for n in (200, 1000) for e in BREAKINGS]
    if family == "images":
        return [f"images/n{n}/{kind}" for n in (1000, 5000) for kind in ("turned", "upright", "angle")]
    if family == "molecules":
        return [f"molecules/n200/{field:g}" for field in (0.0, 0.02)]
    raise KeyError(family)


FAMILIES = ("z6", "inertia", "images", "molecules")


@functools.lru_cache(maxsize=2)
def problem(name: str, seed: int) -> Problem:
    """The problem of this name, its data drawn from ``seed``."""
    family, size, rest = name.split("/")
    n = int(size[1:])
    if family == "z6":
        return _z6(n, float(rest[1:]), seed)
    if family == "inertia":
        return _inertia(n, float(rest[1:]), seed)
    if family == "molecules":
        from benchmarks.strength_molecules import molecules

        return molecules(n, float(rest), seed)
    return _images(n, rest, seed)


def _seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def z6_network(constraint: str, width: int = 6) -> nn.Module:
    """Three soft layers between copies of the regular representation of Z(6), with tanh, which commutes with shifts."""
    small, wide = Vector(Z(6)), (width * Vector)(Z(6))
    sizes = [small, wide, wide, small]
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(pairwise(sizes)):
        layers += ([nn.Tanh()] if k else []) + [SoftLinear(a, b, constraint=constraint)]
    return nn.Sequential(*layers)


def _z6(n: int, breaking: float, seed: int) -> Problem:
    """An equivariant teacher plus ``breaking`` times one that is not, outputs of unit variance, noise of .1."""
    with torch.no_grad():
        teachers = [_seeded(1000 + seed, lambda c=c: z6_network(c)) for c in ("hard", "none")]
        for teacher in teachers:
            for layer in teacher:
                if isinstance(layer, SoftLinear):
                    for p in layer.parameters():
                        p.mul_(3.0)
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(n + n // 5 + 2000, 6, generator=g)
        parts = [t(x) for t in teachers]
        parts = [(p - p.mean(0)) / p.std() for p in parts]
        clean = (parts[0] + breaking * parts[1]) / (1 + breaking**2) ** 0.5
        y = clean + 0.1 * torch.randn(clean.shape, generator=g)
    split = [n, n // 5, 2000]
    (x, x_held, x_test), (y, y_held, _), (_, _, truth) = x.split(split), y.split(split), clean.split(split)

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return mse_loss(model(x_test), truth).item()

    return Problem(
        build=lambda constraint: _seeded(seed, lambda: z6_network(constraint)),
        x=x, y=y, held=(x_held, y_held), loss=mse_loss, error=error, likelihood="gaussian", action=_shift,
        steps=1000, batch=100, lr=5e-3,
        grid=(1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5), decays=(1e-3, 1e-1, 1.0, 10.0),
    )  # fmt: skip


def _shift(generator: torch.Generator) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    by = int(torch.randint(0, 6, (), generator=generator))
    return lambda x: x.roll(by, -1), lambda y: y.roll(by, -1)


def _inertia(n: int, breaking: float, seed: int) -> Problem:
    """Y + ``breaking`` (Y z) z^T, Y the moment of inertia of five bodies; a narrow SoftEMLP under O(3)."""
    from softeq.experiments.data.inertia import (
        BODIES,
        MODIFICATION,
        inertia_data,
        modified_moment_of_inertia,
        moment_of_inertia,
    )
    from softeq.models.dynamics import SoftEMLP

    rep_in, rep_out = (BODIES * Scalar + BODIES * Vector)(O(3)), T(2)(O(3))
    raw = inertia_data(seed, sizes=(n, n // 5, 1000), dtype=torch.float64)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        whole = moment_of_inertia(x)
        broken = whole + breaking / MODIFICATION * (modified_moment_of_inertia(x) - whole)
        return x.float(), broken.float()

    (x, y), held, (x_test, y_test) = both(raw.x_train), both(raw.x_validation), both(raw.x_test)

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return mse_loss(model(x_test), y_test).item()

    def build(constraint: str) -> nn.Module:
        return _seeded(seed, lambda: SoftEMLP(rep_in, rep_out, channels=108, layers=2, constraint=constraint))

    def turn(generator: torch.Generator) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        (g,) = O(3).sample(1, generator=generator)
        by_in, by_out = (rep.rho(g).float().T for rep in (rep_in, rep_out))
        return lambda x: x @ by_in, lambda y: y @ by_out

    return Problem(
        build=build, x=x, y=y, held=held, loss=mse_loss, error=error, likelihood="gaussian", action=turn,
        steps=1500, batch=100, lr=3e-3,
        grid=(1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5), decays=(1e-3, 1e-1, 1.0, 10.0),
    )  # fmt: skip


_POINTS = {"turned": (180.0, 0.0), "upright": (0.0, 0.0), "angle": (180.0, 1.0)}


def _images(n: int, kind: str, seed: int) -> Problem:
    """Fashion-MNIST of 14 x 14, turned by any angle, upright, or with labels that depend on the angle; C4 assumed."""
    from softeq.experiments.data.dial import Dial, Stage, dialled
    from softeq.experiments.data.images import default_dataset, load_images
    from softeq.experiments.images.tasks import accuracy
    from softeq.models import build

    reach, breaking = _POINTS[kind]
    held = n // 5
    images = load_images(default_dataset(), (n, held, 2000), torch.Generator().manual_seed(seed), torch.float32)
    stage = Stage(Dial("rotation", reach, breaking), 14, 0)
    data = dialled(images, stage, 180.0, torch.Generator().manual_seed(seed + 1)).data

    def make(constraint: str) -> nn.Module:
        return _seeded(seed, lambda: build(**_NETWORK, constraint=constraint))

    return Problem(
        build=make, x=data.x_train, y=data.y_train, held=(data.x_validation, data.y_validation), loss=cross_entropy,
        error=lambda model: 1 - accuracy(model, data.x_test, data.y_test), likelihood="categorical",
        action=_quarters,
        steps=1200, batch=64, lr=3e-2, clip=1.0, equivariant=0.1,
        grid=(1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6), decays=(1e-1, 1.0, 10.0),
    )  # fmt: skip


def _quarters(generator: torch.Generator) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    by = int(torch.randint(0, 4, (), generator=generator))
    return lambda x: x.rot90(by, (-2, -1)), lambda y: y


_NETWORK = {"name": "steerable", "size": (14, 14), "group": "C4", "kernel_size": 5, "width": 4}
