"""What a split over modules returns: signed shares of ||L f||^2, with their intervals over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.checks import check_integer

_LISTED = 10  # of what could not be attributed, in the text
HOW_TO_READ = (
    "A share is signed: a module of a positive share adds to the error, one of a negative share takes away from what "
    "modules before it made (it blurs, pools or averages it), so that single shares may exceed 100%."
)
WHOLE = ""  # the model's own name among the modules, as in nn.Module.named_modules()


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class LayerwiseResult:
    """The error's signed parts by module.

    Attributes:
        flows: names of the flows.
        output: the output space.
        stencil, boundary, margin: how the images' derivatives were taken ("own": as each flow says, if at all).
        names: module names in the order of their first call, the model itself ("") last; a module called several
            times stands once, with the sum of its calls.
        types: the modules' class names.
        leaf: per name, False where the part is that of the operations between a module's submodules.
        contributions: (n_flows, n_names, B) float64, in the units of ||L f||^2.
        total: (n_flows, B) float64, ||L f||^2 from forward mode.
        not_attributable: (name, reason) of the modules whose part went to the nearest module around them.
    """

    flows: tuple[str, ...]
    output: str
    stencil: str
    boundary: str
    margin: int
    names: tuple[str, ...]
    types: tuple[str, ...]
    leaf: tuple[bool, ...]
    contributions: Tensor
    total: Tensor
    not_attributable: tuple[tuple[str, str], ...]

    def _index(self, flow: str | None) -> int:
        if flow is None and len(self.flows) == 1:
            return 0
        if flow not in self.flows:
            raise SofteqValueError(f"flow: expected one of {', '.join(self.flows)}, got {flow!r}")
        return self.flows.index(flow)

    def shares(self, flow: str | None = None) -> dict[str, float]:
        """Module name -> its signed share of sum ||L f||^2 over the batch; they sum to 1 up to `gap`.

        `flow` may be left out where there is one alone.
        """
        k = self._index(flow)
        return dict(zip(self.names, (self.contributions[k].sum(1) / self.total[k].sum()).tolist(), strict=True))

    def intervals(
        self, flow: str | None = None, level: float = 0.95, draws: int = 2000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Module name -> bootstrap interval of its share over images (NaN for fewer than two): whole images are drawn
        again, with all parts of theirs, so that intervals of several modules belong together."""
        check_integer("draws", draws, 1)
        if not 0 < level < 1:
            raise SofteqValueError(f"level: expected a number between 0 and 1, got {level}")
        k, n = self._index(flow), self.total.shape[1]
        if n < 2:
            return dict.fromkeys(self.names, (math.nan, math.nan))
        drawn = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
        weights = torch.nn.functional.one_hot(drawn, n).sum(1).to(torch.float64)  # (draws, n): how often each
        shares = (weights @ self.contributions[k].T) / (weights @ self.total[k])[:, None]
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = torch.nanquantile(shares, tails, dim=0)
        return dict(zip(self.names, zip(low.tolist(), high.tolist(), strict=True), strict=True))

    def by_type(self, flow: str | None = None) -> dict[str, float]:
        """Class name -> summed share; "functional" for what lies between modules. Largest magnitude first."""
        sums: dict[str, float] = {}
        for share, kind, leaf in zip(self.shares(flow).values(), self.types, self.leaf, strict=True):
            label = kind if leaf else "functional"
            sums[label] = sums.get(label, 0.0) + share
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))

    def top(self, n: int = 10, flow: str | None = None) -> list[tuple[str, float]]:
        """The n modules of the largest share in magnitude, with it."""
        return sorted(self.shares(flow).items(), key=lambda item: -abs(item[1]))[:n]

    def gap(self, flow: str | None = None) -> float:
        """|sum of the parts - ||L f||^2| / ||L f||^2: backward mode against forward mode."""
        k = self._index(flow)
        whole = self.total[k].sum()
        return float((self.contributions[k].sum() - whole).abs() / whole)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: per flow the shares, the shares by type and the gap; what could not be attributed, and why."""
        return {
            "flows": list(self.flows),
            **{name: getattr(self, name) for name in ("output", "stencil", "boundary", "margin")},
            "samples": self.total.shape[1],
            "modules": [
                {"name": name, "type": kind, "functional": not leaf}
                for name, kind, leaf in zip(self.names, self.types, self.leaf, strict=True)
            ],
            "shares": {flow: self.shares(flow) for flow in self.flows},
            "intervals": {flow: {n: list(ends) for n, ends in self.intervals(flow).items()} for flow in self.flows}
            if self.total.shape[1] > 1
            else None,
            "how_to_read": HOW_TO_READ,
            "by_type": {flow: self.by_type(flow) for flow in self.flows},
            "gap": {flow: self.gap(flow) for flow in self.flows},
            "not_attributable": [{"name": name, "reason": reason} for name, reason in self.not_attributable],
        }

    def table(self, flow: str | None = None, n: int = 10) -> str:
        """The n modules of the largest share for one flow, as text."""
        kinds = dict(zip(self.names, zip(self.types, self.leaf, strict=True), strict=True))
        name_of_flow = self.flows[self._index(flow)]
        lines = [f"{name_of_flow}: shares of ||L f||^2 ({self.output}), gap {self.gap(flow):.1e}"]
        ends = self.intervals(flow)
        for name, share in self.top(n, flow):
            (kind, leaf), (low, high) = kinds[name], ends[name]
            told = f"[{low:7.1%}, {high:7.1%}]" if low <= high else ""
            where = f"{name or '(the model)'}  {kind if leaf else f'{kind}: functional operations'}"
            lines.append(f"{share:8.1%}  {told}  {where}" if told else f"{share:8.1%}  {where}")
        return "\n".join(lines)

    def __str__(self) -> str:
        tables = "\n\n".join(self.table(flow) for flow in self.flows)
        if not self.not_attributable:
            return tables
        lines = [f"  {name}: {reason}" for name, reason in self.not_attributable[:_LISTED]]
        if len(self.not_attributable) > _LISTED:
            lines.append(f"  and {len(self.not_attributable) - _LISTED} more: see not_attributable")
        listed = "\n".join(lines)
        return f"{tables}\n\nnot attributable, counted in the module around it:\n{listed}"
