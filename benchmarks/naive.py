"""The reference twin of a soft linear layer: what one writes first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq import Prior, Rep, Scalar, SoftLinear, equivariant_basis


class NaiveTwoPathways(nn.Module):
    """Two linear maps whose outputs are summed; the equivariant weight is projected block by block.

    Each pair of tensor types is projected with its dense basis by einsum, under automatic differentiation. Copies of
    a type must lie together, as they do in ``uniform_rep``. It starts with copies of a soft layer's parameters.
    """

    def __init__(self, soft: SoftLinear) -> None:
        super().__init__()
        group = soft.rep_in.bound_group
        self.columns, self.rows = _blocks(soft.rep_in), _blocks(soft.rep_out)
        for b, row in enumerate(self.rows):
            type_out = Rep([(row.word, 1)], group)
            self.register_buffer(f"bias_basis_{b}", equivariant_basis(Scalar(group), type_out)[:, :, 0].float())
            for a, column in enumerate(self.columns):
                basis = equivariant_basis(Rep([(column.word, 1)], group), type_out)
                self.register_buffer(f"basis_{b}_{a}", basis.float())
        for name in ("equivariant", "residual"):
            pathway = soft.pathways[name]
            self.register_parameter(name, nn.Parameter(pathway.weight.detach().clone()))
            self.register_parameter(f"{name}_bias", nn.Parameter(pathway.bias.detach().clone()))

    def projected_weight(self) -> Tensor:
        """``P(W_e)``, ``(out, in)``."""
        rows = []
        for b, row in enumerate(self.rows):
            parts = []
            for a, column in enumerate(self.columns):
                basis = getattr(self, f"basis_{b}_{a}")
                block = self.equivariant[row.start : row.stop, column.start : column.stop]
                coefficients = torch.einsum("kij,minj->kmn", basis, block.reshape(row.copies, row.d, -1, column.d))
                parts.append(torch.einsum("kij,kmn->minj", basis, coefficients).reshape(block.shape))
            rows.append(torch.cat(parts, dim=1))
        return torch.cat(rows)

    def projected_bias(self) -> Tensor:
        """``P_b b_e``, ``(out,)``."""
        parts = []
        for b, row in enumerate(self.rows):
            basis = getattr(self, f"bias_basis_{b}")
            part = self.equivariant_bias[row.start : row.stop].reshape(row.copies, row.d)
            parts.append((part @ basis.T @ basis).flatten())
        return torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in)`` to ``(n, out)``."""
        equivariant = F.linear(x, self.projected_weight(), self.projected_bias())
        return equivariant + F.linear(x, self.residual, self.residual_bias)

    def penalty(self, prior: Prior) -> Tensor:
        """What ``prior_penalty`` gives for the soft layer."""
        equivariant = self.equivariant.square().sum() + self.equivariant_bias.square().sum()
        residual = self.residual.square().sum() + self.residual_bias.square().sum()
        return 0.5 * prior.equivariant * equivariant + 0.5 * prior.residual * residual


@dataclass(frozen=True)
class _Block:
    """All copies of a tensor type in a rep, and where they lie."""

    word: tuple[bool, ...]
    copies: int
    d: int
    start: int
    stop: int


def _blocks(rep: Rep) -> list[_Block]:
    sizes = [rep.bound_group.d ** len(word) for word, _ in rep.terms]
    ends = itertools.accumulate(m * d for (_, m), d in zip(rep.terms, sizes, strict=True))
    return [_Block(word, m, d, end - m * d, end) for (word, m), d, end in zip(rep.terms, sizes, ends, strict=True)]


def l2_penalty(module: nn.Module, precision: float) -> Tensor:
    """``1/2 precision ||w||^2`` over all parameters, written for speed, so that no ratio gains from a slow twin."""
    if torch.compiler.is_compiling():
        squares = [parameter.square().sum() for parameter in module.parameters()]
    else:
        # A dot product reads each parameter once and writes nothing.
        squares = [torch.dot(parameter.flatten(), parameter.flatten()) for parameter in module.parameters()]
    return 0.5 * precision * torch.stack(squares).sum()
