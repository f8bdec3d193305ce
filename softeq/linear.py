"""SoftLinear: a linear layer between representations of any matrix group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from softeq._layout import linear
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    check_width,
    pathway_penalty,
    pathways_of,
)
from softeq.reps import Rep, Scalar, check_same_group
from softeq.solve import EquivariantProjector


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

    The equivariant weight is stored as an ordinary ``(out, in)`` matrix and projected in the forward pass. So a
    checkpoint does not depend on a choice of basis, and Adam sees the coordinates that it would see in a dense layer.

    Initialisation: the equivariant weight is a projected Gaussian, rescaled per output type to the output variance of a
    standard ``nn.Linear`` (1/3 of the mean square input) -- projection alone would shrink it by rank / size. The
    residual weight is 1e-3 of a standard dense one, so that a soft layer starts at its hard twin, 0.1% away.

    Raises:
        SofteqValueError: unbound or empty reps, reps of different groups, an unknown constraint or parametrization.
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
        self.pathways = nn.ModuleDict()
        self.projected = parametrization == "projected" and constraint == "soft"
        starts = {name: self._start(name, bias, alone=len(names) == 1) for name in names}
        if self.projected:
            weights, biases = zip(*starts.values(), strict=True)
            self.free_weight = nn.Parameter(sum(weights[1:], weights[0]))
            self.register_parameter("free_bias", nn.Parameter(sum(biases[1:], biases[0])) if bias else None)
        else:
            self.pathways.update({name: Weights(*start) for name, start in starts.items()})

    def _start(self, name: str, bias: bool, alone: bool) -> tuple[Tensor, Tensor | None]:
        bound = 1 / math.sqrt(self.in_features)
        offset = torch.empty(self.out_features).uniform_(-bound, bound) if bias else None
        if name == EQUIVARIANT:
            weight = self.projector(torch.randn(self.out_features, self.in_features)) * self._scale()[:, None]
            return weight, None if offset is None else self._project_bias(offset)
        factor = 1.0 if alone else RESIDUAL_START
        weight = torch.empty(self.out_features, self.in_features).uniform_(-bound, bound) * factor
        return weight, None if offset is None else offset * factor

    def _scale(self) -> Tensor:
        """Per output coordinate, what gives a projected standard normal weight the output variance of nn.Linear.

        For output type b a coordinate's row of P(W) has mean square norm sum_a m_a rank_ba / d_b over input types a.
        """
        layout_in, layout_out = self.projector.layout_in, self.projector.layout_out
        scale = torch.zeros(self.out_features)
        for b, (word, _) in enumerate(layout_out.types):
            copies = sum(m * self.projector.ranks[b, a] for a, (_, m) in enumerate(layout_in.types))
            if copies:
                scale[layout_out.places(b)] = math.sqrt(layout_out.d ** len(word) / (3 * copies))
        return scale

    @property
    def weight(self) -> Tensor:
        """The merged weight ``(out, in)``: ``P(W_e) + W_b``."""
        return self._merge("weight", self.projector)

    @property
    def bias(self) -> Tensor | None:
        """The merged bias ``(out,)``: ``P_b b_e + b_b``; ``None`` without one."""
        return None if self.bias_projector is None else self._merge("bias", self._project_bias)

    def _merge(self, kind: str, project: Callable[..., Tensor]) -> Tensor:
        if self.projected:
            return getattr(self, f"free_{kind}")
        equivariant, residual = self._pathway(EQUIVARIANT), self._pathway(RESIDUAL)
        free = None if residual is None else getattr(residual, kind)
        if equivariant is not None:
            return project(getattr(equivariant, kind), free)
        if free is None:
            raise SofteqValueError("SoftLinear has no pathway left: build it again with its constraint")
        return free

    def _pathway(self, name: str) -> Weights | None:
        pathway = self.pathways[name] if name in self.pathways else None  # noqa: SIM401 - a ModuleDict has no get
        return pathway if isinstance(pathway, Weights) else None

    def _project_bias(self, bias: Tensor, base: Tensor | None = None) -> Tensor:
        if self.bias_projector is None:
            raise SofteqValueError("this SoftLinear was built with bias=False and has no bias to project")
        return self.bias_projector(bias[:, None], None if base is None else base[:, None])[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``; under autocast the weight is merged in its own dtype and cast after."""
        check_width(x, self.in_features, self.rep_in)
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.weight, self.bias
            return linear(x, weight, bias)
        return linear(x, self.weight, self.bias)

    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """``pathways``: see ``SoftLayer.penalty``. ``projected``: the cost of the best split of the free weight.

        ``||P W||^2 / (2 (s_e^2 + s_r^2)) + ||W - P W||^2 / (2 s_r^2)`` with ``s^2 = 1 / precision``, W less its mean.
        """
        if not self.projected:
            return pathway_penalty(self, precisions, seen)
        equivariant, residual = precisions[EQUIVARIANT], precisions[RESIDUAL]
        both = equivariant * residual / (equivariant + residual) if equivariant + residual > 0 else 0.0
        total = self.free_weight.new_zeros(())
        means = self.prior_means()
        parts: list[tuple[nn.Parameter, EquivariantProjector]] = [(self.free_weight, self.projector)]
        if self.free_bias is not None and self.bias_projector is not None:
            parts.append((self.free_bias, self.bias_projector))
        for parameter, projector in parts:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                away = parameter if id(parameter) not in means else parameter - means[id(parameter)]
                shaped = away.view(projector.shape)
                total = total + projector.split_squared_norm(shaped, 0.5 * both, 0.5 * residual)
        return total

    @torch.no_grad()
    def weight_defect(self) -> float:
        """``||W - P(W)|| / ||W||`` of the merged weight in float64, in [0, 1]; 0 for a weight of zeros."""
        weight = self.weight.detach().double().cpu()
        size = float(weight.norm())
        exact = EquivariantProjector(self.rep_in, self.rep_out).double()
        return 0.0 if size == 0 else min(1.0, float((weight - exact(weight)).norm()) / size)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The plain ``nn.Linear`` that this layer equals, with copies of the merged weight and bias."""
        weight, bias = self.weight, self.bias
        plain = nn.Linear(self.in_features, self.out_features, bias is not None, weight.device, weight.dtype)
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
        return plain.train(self.training)

    @torch.no_grad()
    def hardened(self) -> SoftLinear:
        """The hard layer with this one's equivariant pathway; of the projected form, with ``P(W)``."""
        source = self.folded() if self.projected else self._pathway(EQUIVARIANT)
        if source is None:
            raise SofteqValueError("harden: a layer with constraint='none' has no equivariant pathway to keep")
        has_bias = self.bias_projector is not None
        hard = SoftLinear(self.rep_in, self.rep_out, constraint="hard", bias=has_bias)
        target = hard.to(source.weight.device, source.weight.dtype)._pathway(EQUIVARIANT)
        if target is None:
            raise SofteqValueError("harden: the hard layer was built without its equivariant pathway")
        target.weight.copy_(hard.projector(source.weight))
        if source.bias is not None and target.bias is not None:
            target.bias.copy_(hard._project_bias(source.bias))
        return hard.train(self.training)

    @staticmethod
    @torch.no_grad()
    def from_linear(linear: nn.Linear, rep_in: Rep, rep_out: Rep, *, parametrization: str = "pathways") -> SoftLinear:
        """The soft layer that computes what this ``nn.Linear`` does: ``P(W)`` equivariant, ``W - P(W)`` residual.

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
        soft = SoftLinear(rep_in, rep_out, parametrization=parametrization, bias=linear.bias is not None)
        soft = soft.to(linear.weight.device, linear.weight.dtype).train(linear.training)
        if soft.projected:
            soft.free_weight.copy_(linear.weight)
            if soft.free_bias is not None:
                soft.free_bias.copy_(linear.bias)
            return soft
        own, free = soft._pathway(EQUIVARIANT), soft._pathway(RESIDUAL)
        if own is None or free is None:
            raise SofteqValueError("SoftLinear was built without its pathways")
        own.weight.copy_(soft.projector(linear.weight))
        free.weight.copy_(linear.weight - own.weight)
        if own.bias is not None and free.bias is not None:
            own.bias.copy_(soft._project_bias(linear.bias))
            free.bias.copy_(linear.bias - own.bias)
        return soft

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        form = "projected" if self.projected else "pathways"
        return f"{self.rep_in!r} -> {self.rep_out!r}, constraint={self.constraint!r}, parametrization={form!r}"
