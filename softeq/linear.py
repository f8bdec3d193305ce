"""SoftLinear: a linear layer between representations of any matrix group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from softeq._arguments import check_width, no_equivariant_map
from softeq._constants import Constants
from softeq._kernels import unsharded, weighted_squares
from softeq._ladder import Spanned, described, part_of, signature_of
from softeq._layout import linear
from softeq._nested_groups import checked_groups, ladders_between
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Group
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    pathways_of,
    plain_linear,
)
from softeq.reps import Rep, Scalar, check_same_group
from softeq.solve import EquivariantProjector, equivariant_basis


class SoftLinear(MergedLayer):
    """``y = x (P(W_e) + W_b)^T + P_b b_e + b_b`` (Finzi, Benton, Wilson 2021, section 4), as one linear operation.

    Args:
        rep_in, rep_out: representations bound to one group, of input ``(..., rep_in.size)`` and output
            ``(..., rep_out.size)``.
        constraint: ``"soft"``, ``"hard"`` (equivariant pathway alone) or ``"none"`` (residual pathway alone).
        parametrization: ``"pathways"``, the paper's, two weights; or ``"projected"``, one free weight whose penalty
            prices its equivariant part and the rest apart (equal at the optimum of the split). Hard and none have one
            pathway in either.
        bias: whether there is a bias, with pathways of its own.
        ladder: nested groups, that of the representations first, e.g. ``[O(3), O2eR3()]``: between the two pathways
            there is one for each further group, under its name. For ``"soft"`` in the ``"pathways"`` parametrization.

    The equivariant weight is stored as an ordinary ``(out, in)`` matrix and projected in the forward pass. So a
    checkpoint does not depend on a choice of basis, and Adam sees the coordinates that it would see in a dense layer.

    Initialisation: the equivariant weight is a projected Gaussian, rescaled per output type to the output variance of a
    standard ``nn.Linear`` (1/3 of the mean square input) -- projection alone would shrink it by rank / size. The
    residual weight is 1e-3 of a standard dense one, so that a soft layer starts at its hard twin, 0.1% away.

    With a ladder, a rung holds the maps that are equivariant under its group and orthogonal to those of the groups
    before it, as coordinates in an orthonormal basis, ``(rank,)``; the residual weight is stored whole and read as its
    part outside all groups' maps. Each starts as that part of a dense layer of 1e-3 of the standard size.

    Raises:
        SofteqTypeError: a ladder that is no list of groups.
        SofteqValueError: unbound or empty reps, reps of different groups, an unknown constraint or parametrization; a
            ladder of groups that are not nested, or have another dimension, or do not begin with the reps' group.
    """

    free_weight: nn.Parameter
    free_bias: nn.Parameter | None

    def __init__(
        self,
        rep_in: Rep,
        rep_out: Rep,
        *,
        constraint: str = "soft",
        parametrization: str = "pathways",
        bias: bool = True,
        ladder: Sequence[Group] | None = None,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        if parametrization not in ("pathways", "projected"):
            raise SofteqValueError(f"parametrization: expected 'pathways' or 'projected', got {parametrization!r}")
        check_same_group(rep_in, rep_out)
        self.rep_in, self.rep_out, self.constraint = rep_in, rep_out, constraint
        self.in_features, self.out_features = rep_in.size, rep_out.size
        self.projector = EquivariantProjector(rep_in, rep_out)
        self.bias_projector = EquivariantProjector(Scalar(rep_out.bound_group), rep_out) if bias else None
        # Two products with a small dense basis cost less than the projector's many steps.
        small = self.bias_projector is not None and self.bias_projector.rank * rep_out.size <= 2**18
        self._bias_basis = Constants.of(_invariant_vectors, rep_out) if small else None
        self.projected = parametrization == "projected" and constraint == "soft"
        if EQUIVARIANT in names and not self.projector.rank:
            raise no_equivariant_map(rep_in, rep_out)
        self._climb(ladder, bias)
        starts = {name: self._start(name, bias, alone=len(names) == 1) for name in names}
        if self.projected:
            weights, biases = zip(*starts.values(), strict=True)
            self.free_weight = nn.Parameter(sum(weights[1:], weights[0]))
            self.register_parameter("free_bias", nn.Parameter(sum(biases[1:], biases[0])) if bias else None)
        else:
            order = [EQUIVARIANT, *self.rungs, RESIDUAL] if self.rungs else names
            starts |= {rung: self._start(rung, bias, alone=False) for rung in self.rungs}
            self.pathways.update({name: Weights(*starts[name]) for name in order})

    def _climb(self, ladder: Sequence[Group] | None, bias: bool) -> None:
        if ladder is None:
            return
        groups = checked_groups(ladder, self.rep_in.bound_group)
        if self.projected:
            raise SofteqValueError(
                "ladder: expected parametrization='pathways', as one free weight has the precision of the whole split "
                "in two; got 'projected'"
            )
        if self.constraint == "soft":
            self.ladders = ladders_between(self.rep_in, self.rep_out, groups, bias=bias)

    def _start(self, name: str, bias: bool, alone: bool) -> tuple[Tensor, Tensor | None]:
        bound = 1 / math.sqrt(self.in_features)
        offset = torch.empty(self.out_features).uniform_(-bound, bound) if bias else None
        if name == EQUIVARIANT:
            weight = self.projector(torch.randn(self.out_features, self.in_features)) * self._scale()[:, None]
            return weight, None if offset is None else self._project_bias(offset)
        factor = 1.0 if alone else RESIDUAL_START
        weight = torch.empty(self.out_features, self.in_features).uniform_(-bound, bound) * factor
        offset = None if offset is None else offset * factor
        return part_of(self.ladders, name, "weight", weight), None if offset is None else part_of(
            self.ladders, name, "bias", offset
        )

    def _scale(self) -> Tensor:
        """Per output coordinate, what gives a projected standard normal weight the output variance of nn.Linear.

        For output type b a coordinate's row of P(W) has mean square norm sum_a m_a rank_ba / d_b over input types a.
        """
        layout_in, layout_out = self.projector.layout_in, self.projector.layout_out
        scale = torch.zeros(self.out_features)
        for b, dim in enumerate(layout_out.dims):
            copies = sum(m * self.projector.ranks[b, a] for a, (_, m) in enumerate(layout_in.types))
            if copies:
                scale[layout_out.places(b)] = math.sqrt(dim / (3 * copies))
        return scale

    @property
    def signature(self) -> str:
        """See ``SoftLayer.signature``."""
        group = self.rep_in.bound_group
        maps = f"{Rep(self.rep_in.terms)!r} -> {Rep(self.rep_out.terms)!r}"
        return f"{maps} [{group.fingerprint[:12]}]{signature_of(self.ladders)} # under {group}"

    def _merged_part(self, part: str) -> Tensor | None:
        return getattr(self, f"free_{part}") if self.projected else super()._merged_part(part)

    def spanned(self, pathway: str, part: str) -> Spanned | None:
        """See ``SoftLayer.spanned``: the equivariant weight is stored whole."""
        projector = self.projector if part == "weight" else self.bias_projector
        if pathway != EQUIVARIANT or projector is None:
            return super().spanned(pathway, part)
        return Spanned(projector if part == "weight" else self._project_bias, projector.rank)

    def expand(self, part: str, own: Tensor, base: Tensor | None) -> Tensor:
        """``base + P(own)``."""
        return self.projector(own, base) if part == "weight" else self._project_bias(own, base)

    def nearest(self, weight: Tensor) -> Tensor:
        """``P(weight)``."""
        return self.projector(weight)

    def _project_bias(self, bias: Tensor, base: Tensor | None = None) -> Tensor:
        if self.bias_projector is None:
            raise SofteqValueError("this SoftLinear was built with bias=False and has no bias to project")
        if self._bias_basis is None:
            return self.bias_projector(bias[:, None], None if base is None else base[:, None])[:, 0]
        basis = self._bias_basis.on(bias)["basis"]
        own = ((basis @ bias.to(basis.dtype)) @ basis).to(bias.dtype)
        return own if base is None else base + own

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``; under autocast the weight is merged in its own dtype and cast after."""
        check_width(x, self.in_features, self.rep_in)
        return linear(x, *self.merged_for(x))

    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """``pathways``: see ``SoftLayer.penalty``. ``projected``: the cost of the best split of the free weight.

        ``||P W||^2 / (2 (s_e^2 + s_r^2)) + ||W - P W||^2 / (2 s_r^2)`` with ``s^2 = 1 / precision``, W less its mean.
        """
        if not self.projected:
            return super().penalty(precisions, seen)
        equivariant, residual = precisions[EQUIVARIANT], precisions[RESIDUAL]
        both = equivariant * residual / (equivariant + residual) if equivariant + residual > 0 else 0.0
        total = torch.zeros((), dtype=self.free_weight.dtype, device=self.free_weight.device)
        means = self.prior_means()
        parts: list[tuple[nn.Parameter, EquivariantProjector]] = [(self.free_weight, self.projector)]
        if self.free_bias is not None and self.bias_projector is not None:
            parts.append((self.free_bias, self.bias_projector))
        for parameter, projector in parts:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                away = parameter if id(parameter) not in means else parameter - means[id(parameter)]
                total = total + self._split_cost(unsharded(away), projector, 0.5 * both, 0.5 * residual)
        return total

    def _split_cost(self, value: Tensor, projector: EquivariantProjector, inside: float, outside: float) -> Tensor:
        """``inside ||P v||^2 + outside ||v - P v||^2`` of the weight, or of the bias by its own basis."""
        if value.dim() == 2 or self._bias_basis is None:
            return projector.split_squared_norm(value.view(projector.shape), inside, outside)
        basis = self._bias_basis.on(value)["basis"]
        return weighted_squares((outside, inside - outside), (value, (basis @ value.to(basis.dtype)).to(value.dtype)))

    def folded(self) -> nn.Linear:
        """The plain ``nn.Linear`` that this layer equals, with copies of the merged weight and bias."""
        return plain_linear(self.weight, self.bias).train(self.training)

    @torch.no_grad()
    def hardened(self) -> SoftLinear:
        """The hard layer with this one's equivariant pathway; of the projected form, with ``P(W)``."""
        if not self.projected:
            hard = super().hardened()
            if not isinstance(hard, SoftLinear):
                raise SofteqTypeError(f"harden: expected a SoftLinear, got {type(hard).__name__}")
            return hard
        bias = None if self.free_bias is None else self._project_bias(self.free_bias)
        hard = SoftLinear(self.rep_in, self.rep_out, constraint="hard", bias=bias is not None)
        hard.pathways[EQUIVARIANT] = Weights(self.nearest(self.free_weight), bias)
        return hard.train(self.training)

    @staticmethod
    @torch.no_grad()
    def from_linear(
        linear: nn.Linear,
        rep_in: Rep,
        rep_out: Rep,
        *,
        parametrization: str = "pathways",
        ladder: Sequence[Group] | None = None,
    ) -> SoftLinear:
        """The soft layer that computes what this ``nn.Linear`` does: ``P(W)`` equivariant, ``W - P(W)`` the rest.

        Raises:
            SofteqTypeError: no ``nn.Linear``.
            SofteqValueError: representations of other sizes than the layer's.
        """
        if not isinstance(linear, nn.Linear):
            raise SofteqTypeError(f"linear: expected an nn.Linear, got {type(linear).__name__}")
        if (linear.in_features, linear.out_features) != (rep_in.size, rep_out.size):
            raise SofteqValueError(
                f"linear: expected {rep_in.size} -> {rep_out.size} features for these representations, got {linear}"
            )
        soft = SoftLinear(rep_in, rep_out, parametrization=parametrization, bias=linear.bias is not None, ladder=ladder)
        soft = soft.to(linear.weight.device, linear.weight.dtype).train(linear.training)
        if soft.projected:
            soft.free_weight.copy_(linear.weight)
            if soft.free_bias is not None:
                soft.free_bias.copy_(linear.bias)
            return soft
        weight, bias = linear.weight, linear.bias
        nearest = soft.projector(weight), None if bias is None else soft._project_bias(bias)
        for name in soft.pathways:
            pathway = soft.pathway(name)
            off = name != EQUIVARIANT
            pathway.weight.copy_(part_of(soft.ladders, name, "weight", weight - nearest[0]) if off else nearest[0])
            if bias is not None:
                pathway.bias.copy_(part_of(soft.ladders, name, "bias", bias - nearest[1]) if off else nearest[1])
        return soft

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        form = "projected" if self.projected else "pathways"
        how = f"constraint={self.constraint!r}, parametrization={form!r}{described(self.ladders)}"
        return f"{self.rep_in!r} -> {self.rep_out!r}, {how}"


def _invariant_vectors(rep: Rep) -> dict[str, Tensor]:
    """An orthonormal basis of the vectors that the group leaves alone, ``(rank, size)``."""
    return {"basis": equivariant_basis(Scalar(rep.bound_group), rep)[..., 0]}
