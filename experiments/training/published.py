"""The penalty of the published code of residual pathway priors, set as it is there, in place of a rule.

Finzi, Benton, Wilson (NeurIPS 2021) add ``residual_decay sum ||W_b||^2 + equivariant_decay sum ||W_e||^2`` to the loss,
over the weights of the linear and convolutional
layers alone: no bias, no weight of a bilinear layer or a gate. Through Adam that is not
the prior that it states (see `softeq.strength`); this is here to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim import Optimizer

from softeq.conv import SoftConv2d
from softeq.errors import SofteqValueError
from softeq.linear import SoftLinear


def precision(decay: float, samples: int) -> float:
    """The precision, in nats for the whole data set, that a published weight decay stands for: 2 samples decay.

    ``decay * ||w||^2 == (1/2 * precision * ||w||^2) / samples``.
    """
    return 2.0 * samples * decay


class PublishedPenalty:
    """Has what a training loop needs of a rule: `perturbed`, `backward`, `step`.

    Args:
        model: with at least one `SoftLinear` in the pathways form, or `SoftConv2d`.
        samples: training samples.
        equivariant, residual: precisions in nats for the whole data set, of the weights of the linear layers.

    Raises:
        SofteqValueError: the model has no such layer.
    """

    def __init__(self, model: nn.Module, *, samples: int, equivariant: float, residual: float) -> None:
        precisions = {"equivariant": equivariant, "residual": residual}
        layers = [m for m in model.modules() if isinstance(m, (SoftLinear, SoftConv2d)) and m.pathways]
        if not layers:
            raise SofteqValueError(f"published: {type(model).__name__} has no soft linear layer with pathways")
        self.terms = [
            (0.5 * precisions[name] / samples, parameter)
            for layer in layers
            for name, pathway in layer.pathways.items()
            for own, parameter in pathway.named_parameters()
            if own.rpartition(".")[2] != "bias"
        ]

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Nothing."""
        yield

    def penalty(self) -> Tensor:
        """Per training sample, 0-d."""
        squares = [factor * weight.square().sum() for factor, weight in self.terms]
        return sum(squares[1:], squares[0])

    def backward(self, loss: Tensor, output: Tensor | None = None) -> None:
        """Of the loss with the penalty."""
        (loss + self.penalty()).backward()

    def step(self, optimizer: Optimizer) -> None:
        """Nothing: the optimizer has seen the penalty."""
