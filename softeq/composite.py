"""Sums of modules: the soft layer of any two, and the plain module that it folds into."""

from __future__ import annotations

from torch import Tensor, nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import CONSTRAINTS, EQUIVARIANT, RESIDUAL, SoftLayer


class SoftPathways(SoftLayer):
    """The sum of any two modules, ``equivariant(x) + residual(x)``, for pathways that do not merge.

    Args:
        equivariant: the constrained module, or ``None``.
        residual: the unconstrained one, or ``None``; both must map the same inputs to outputs of one shape.

    Soft layers inside a pathway count as part of that pathway: their parameters take its precision.
    """

    def __init__(self, *, equivariant: nn.Module | None = None, residual: nn.Module | None = None) -> None:
        super().__init__()
        given = {EQUIVARIANT: equivariant, RESIDUAL: residual}
        for name, module in given.items():
            if module is not None and not isinstance(module, nn.Module):
                raise SofteqTypeError(f"{name}: expected an nn.Module or None, got {type(module).__name__}")
        self.pathways = nn.ModuleDict({name: module for name, module in given.items() if module is not None})
        if not self.pathways:
            raise SofteqValueError("SoftPathways: expected an equivariant or a residual module, got neither")
        self.constraint = next(kind for kind, names in CONSTRAINTS.items() if names == tuple(self.pathways))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum of the pathways' outputs."""
        outputs = [pathway(*inputs) for pathway in self.pathways.values()]
        if len(outputs) == 1:
            return outputs[0]
        first, second = outputs
        if first.shape != second.shape:
            raise SofteqValueError(
                f"SoftPathways: the equivariant output has shape {tuple(first.shape)} and the residual one "
                f"{tuple(second.shape)}: they must agree"
            )
        return first + second

    def folded(self) -> nn.Module:
        """The single pathway where there is one, folded; else the sum of both, each folded inside."""
        from softeq._fold import fold

        parts = {name: fold(pathway) for name, pathway in self.pathways.items()}
        return next(iter(parts.values())) if len(parts) == 1 else Sum(*parts.values())

    def hardened(self) -> SoftPathways:
        """The equivariant pathway alone, with the soft layers inside it hardened too."""
        from softeq._fold import harden

        return SoftPathways(equivariant=harden(self.kept_pathway())).train(self.training)


class Sum(nn.Module):
    """The sum of the outputs of several modules on the same inputs."""

    def __init__(self, *terms: nn.Module) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, *inputs: Tensor) -> Tensor:
        """``sum_i terms[i](*inputs)``."""
        total = self.terms[0](*inputs)
        for term in list(self.terms)[1:]:
            total = total + term(*inputs)
        return total
