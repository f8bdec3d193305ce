"""What most phenomena share: networks that are hard, soft or free under quarter turns, and how they are trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from softeq import Scalar, SoftLinear, Vector
from softeq.errors import SofteqError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.data.quarters import orbits, quarter_turned
from softeq.experiments.engine.bookkeeping import ORDER, generator_for, rounded
from softeq.experiments.engine.experiment import Metrics
from softeq.experiments.images.tasks import accuracy
from softeq.experiments.training.loop import LoopSettings, Training, train
from softeq.experiments.training.regression import defects
from softeq.experiments.training.rules import rule_of
from softeq.experiments.training.task import Task, evaluated
from softeq.groups import Z
from softeq.prior import soft_layers

CONSTRAINTS = ("hard", "soft", "none")


class Orbits(nn.Module):
    """Images ``(B, 1, side, side)`` to ``(B, side^2)``, pixel by pixel in the order of `data.quarters.orbits`."""

    order: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("order", orbits(side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.flatten(1)[:, self.order]


def quarter_network(
    side: int, width: int, constraint: str, *, layers: int = 1, classes: int = 10, parametrization: str = "pathways"
) -> nn.Sequential:
    """Images ``(B, 1, side, side)`` to logits ``(B, classes)``, invariant under quarter turns where it is hard.

    Args:
        side: even number of pixels.
        width: of each hidden layer, in vectors of `Z(4)`: ``4 width`` units, with a ReLU each, which is equivariant.
        constraint: ``"hard"``, ``"soft"`` or ``"none"``, see `SoftLinear`.
        layers: hidden, 0 for a linear map.
        classes: of the output, scalars.
        parametrization: of soft layers.
    """
    group = Z(4)
    reps = [(side * side // 4 * Vector)(group), *[(width * Vector)(group)] * layers, (classes * Scalar)(group)]
    parts: list[nn.Module] = [Orbits(side)]
    for before, after in itertools.pairwise(reps):
        parts += [SoftLinear(before, after, constraint=constraint, parametrization=parametrization), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def free_parameters(model: nn.Module) -> int:
    """The dimension of the functions' parameters: equivariant weights count by their basis, a soft layer's pathways as
    the one weight that they merge to."""
    total = 0
    for _, layer in soft_layers(model):
        if not isinstance(layer, SoftLinear):
            raise SofteqError(f"free_parameters: expected layers of SoftLinear, got {type(layer).__name__}")
        if layer.constraint == "hard":
            total += layer.projector.rank + (0 if layer.bias_projector is None else layer.bias_projector.rank)
        else:
            total += layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())
    return total


class QuarterTask(Task):
    """Images to classes, by the cross-entropy.

    Args:
        data: images and labels, see `data.quarters.load_quarters`.
        augmented: whether training images are rotated anew in every batch, by random quarter turns.
    """

    likelihood: ClassVar[str] = "categorical"
    headline = "test_accuracy"
    keys = ("test_accuracy", "test_nll", "train_accuracy", "train_nll", "equivariance_error")

    def __init__(self, data: LabelledImages, augmented: bool = False) -> None:
        self.data, self.augmented = data, augmented

    @property
    def samples(self) -> int:
        """Training images."""
        return len(self.data.x_train)

    def loss(self, model: nn.Module, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The cross-entropy of some images; with ``motion`` each is rotated first."""
        x = self.data.x_train[rows]
        if motion is not None:
            x = quarter_turned(x, torch.randint(0, 4, (len(x),), generator=motion))
        output = model(x)
        return cross_entropy(output, self.data.y_train[rows]), output

    def validation_error(self, model: nn.Module) -> float:
        """The cross-entropy of the validation images, nats per image."""
        return nll(model, self.data.x_validation, self.data.y_validation)

    def test(self, model: nn.Module) -> float:
        """``test_accuracy``."""
        return accuracy(model, self.data.x_test, self.data.y_test)

    def measure(self, model: nn.Module) -> Metrics:
        """Accuracies, ``nll`` in nats per image, `equivariance_error` on test images, weight defects."""
        data = self.data
        return {
            "test_accuracy": self.test(model),
            "test_nll": rounded(nll(model, data.x_test, data.y_test)),
            "train_accuracy": accuracy(model, data.x_train, data.y_train),
            "train_nll": rounded(nll(model, data.x_train, data.y_train)),
            "equivariance_error": rounded(equivariance_error(model, data.x_test)),
            **defects(model),
        }


def nll(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The mean cross-entropy in nats per image."""
    return cross_entropy(evaluated(model, x).double(), y).item()


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """``(n, classes)``, float64."""
    return evaluated(model, x).double().softmax(-1)


def equivariance_error(predict: nn.Module | Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The mean total variation distance between the predictions at an image and at its three quarter turns, in [0, 1].

    Args:
        predict: a network that gives logits, or a function that gives probabilities ``(n, classes)``.
        x: images ``(n, 1, H, H)``.
    """
    find = (lambda images: probabilities(predict, images)) if isinstance(predict, nn.Module) else predict
    still = find(x)
    moved = [find(x.rot90(k, (-2, -1))) for k in (1, 2, 3)]
    return float(torch.stack([(m - still).abs().sum(-1).mean() / 2 for m in moved]).mean())


def fitted(
    model: nn.Module,
    task: Task,
    training: Mapping[str, Any],
    seed: int,
    *,
    prior: Mapping[str, float] | None = None,
    rule: str = "fixed",
    augmented: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Training:
    """Train in place through the one loop of all comparisons.

    Args:
        model: with soft layers where there is a prior.
        task: what it learns.
        training: fields of `LoopSettings`.
        seed: draws the order of the samples, and their turns.
        prior: precisions ``equivariant`` and ``residual`` in nats for the whole data set, for the rule ``"fixed"``;
            None for no prior with that rule.
        rule: of `softeq.strength.RULES`.
        augmented: see `QuarterTask`.
        on_step: called after each step.

    Raises:
        SofteqError: the training diverged.
    """
    settings = LoopSettings(**training)
    done = train(
        model,
        task,
        settings,
        generator_for(seed, ORDER),
        rule=rule_of(model, task, rule, prior, steps=settings.steps, seed=seed),
        motion=generator_for(seed, ORDER + 100) if augmented else None,
        on_step=on_step,
    )
    model.eval()
    if done.diverged_at_step:
        raise SofteqError(f"the training diverged at step {done.diverged_at_step}: a lower lr may help")
    return done
