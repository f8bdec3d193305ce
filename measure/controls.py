"""What an error is held against: the answer to changes of the same size that have nothing to do with the flow.

A model that answers to nothing has a small error in every direction, so an error alone says little. Which other
directions are fair? Three kinds, by what they keep of the flow's own tangent:

    samples  tangents of other samples of the set under a flow of the same kind: their spectrum, their edges, and where
             in the frame they lie are those of real motions, but belong to another image;
    phase    the sample's own tangent with its phases drawn at random (the same for all channels): the spectrum alone;
    noise    white noise: the length alone.

White noise is no fair control: an image's tangent lies at low frequencies, noise at high ones, so that a functional of
smooth weights, not equivariant at all, looks worse than one, and one of rough weights equivariant. Phases drawn at
random spread over the frame what the tangent of a rotation has at its rim. `docs/measuring.md` has the experiment on
functions of known equivariance by which "samples" became the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.flows import AffineFlow, Flow, inside, tangents
from softeq.measure.motion.grids import GridFlow
from softeq.measure.settings import Settings

CONTROLS = ("samples", "phase", "noise")
DRAWS = 2
"""Directions drawn per sample and kind of flow: the fewest that have a spread."""


def control_kinds(control: bool | str, flows: Sequence[Flow], samples: int) -> tuple[str, ...]:
    """What `control` asks for, per flow; empty for none.

    True is, on a grid, "samples" where there are others and else "phase"; and "noise" for flows on no grid: colours,
    points and vectors, whose tangents are (nearly) the same for every sample.

    Raises:
        SofteqValueError, SofteqTypeError: neither a truth value nor one of CONTROLS.
        NotMeasurable: there is no such control for these data.
    """
    if isinstance(control, bool):
        usual = "samples" if samples > 1 else "phase"
        return tuple(usual if flow.axes else "noise" for flow in flows) if control else ()
    if not isinstance(control, str):
        raise SofteqTypeError(f"control: expected True, False or a name, got {type(control).__name__}")
    if control not in CONTROLS:
        raise SofteqValueError(f"control: expected True, False or one of {', '.join(CONTROLS)}, got {control!r}")
    if control == "samples" and samples < 2:
        raise NotMeasurable("control: 'samples' takes the tangents of other samples, and there is but one; use 'phase'")
    if control == "phase" and not all(flow.axes for flow in flows):
        raise NotMeasurable("control: 'phase' needs flows on a grid (images, series, volumes); use True or 'noise'")
    return (control,) * len(flows)


@dataclass(frozen=True)
class Controls:
    """Draws the directions for one batch after another.

    Attributes:
        kinds: per flow, one of CONTROLS.
        draws: directions per sample and group of flows.
        settings: the flows.
        whole: (N, ...), the set that the batches are of.
        generator: goes on from sample to sample, so that batching changes nothing.
        partners: (draws, N): for "samples", whose tangents each sample is given.
        groups: per flow the number of its group; flows of one group share a direction per draw.
    """

    kinds: tuple[str, ...]
    draws: int
    settings: Settings
    whole: Tensor
    generator: torch.Generator
    partners: Tensor
    groups: tuple[int, ...]

    @classmethod
    def of(
        cls, kinds: tuple[str, ...], draws: int, settings: Settings, whole: Tensor, generator: torch.Generator
    ) -> Controls:
        """The directions to come; partners are drawn here, other samples each."""
        n = len(whole)
        steps = torch.randperm(max(n - 1, 1), generator=generator) + 1
        steps = steps[torch.arange(draws) % len(steps)]
        partners = (torch.arange(n) + steps[:, None]) % n
        keys = [(kind, *_kind_of(flow, kind)) for kind, flow in zip(kinds, settings.flows, strict=True)]
        order = list(dict.fromkeys(keys))
        return cls(kinds, draws, settings, whole, generator, partners, tuple(order.index(key) for key in keys))

    @property
    def n_groups(self) -> int:
        """How many directions a draw has."""
        return max(self.groups) + 1

    @property
    def name(self) -> str:
        """The kinds in words."""
        return " and ".join(dict.fromkeys(self.kinds))

    def row(self, draw: int, flow: int) -> int:
        """Where in `directions` a flow's direction of that draw stands."""
        return draw * self.n_groups + self.groups[flow]

    def directions(self, x: Tensor, start: int) -> Tensor:
        """(draws * n_groups, B, ...), draw by draw, for the batch `x` that begins at sample `start` of the set."""
        weights, noises = self._drawn(x)
        found = []
        for draw in range(self.draws):
            others = self.whole[self.partners[draw, start : start + len(x)].to(self.whole.device)].detach().to(x)
            for group in range(self.n_groups):
                members = [k for k, g in enumerate(self.groups) if g == group]
                kind, noise = self.kinds[members[0]], noises[draw][group]
                if kind == "noise":
                    found.append(self._masked(noise.to(x), members[0]))
                    continue
                mixed = self._mixed(members, weights[draw], others if kind == "samples" else x)
                if kind == "phase":
                    mixed = _with_phases(mixed, noise, self.settings.flows[members[0]].axes)
                found.append(self._masked(mixed, members[0]) if kind == "phase" else mixed)
        return torch.stack(found)

    def _mixed(self, members: Sequence[int], weights: Tensor, source: Tensor) -> Tensor:
        """The flows' tangents at `source`, each of length 1, in a random combination."""
        fields = tangents([self.settings.flows[k] for k in members], source)
        sizes = torch.stack([lengths(field) for field in fields])
        factors = (weights[members].to(sizes) / sizes).nan_to_num(0, 0, 0)  # 0 where the flow does not move it
        return (fields * factors.view(*factors.shape, *[1] * (source.ndim - 1)).to(fields)).sum(0)

    def _drawn(self, x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        """Weights (draws, n_flows, B), and per draw and group white noise (B, ...); drawn sample by sample."""
        shapes = [self._noise_shape(group, x.shape[1:]) for group in range(self.n_groups)]
        weights, noises = [], []
        for _ in x:
            weights.append(torch.randn(self.draws, len(self.groups), generator=self.generator, dtype=torch.float64))
            noises.append([[torch.randn(s, generator=self.generator) for s in shapes] for _ in range(self.draws)])
        stacked = [
            [torch.stack([noise[draw][group] for noise in noises]) for group in range(self.n_groups)]
            for draw in range(self.draws)
        ]
        return torch.stack(weights, -1), stacked

    def _noise_shape(self, group: int, sample: Sequence[int]) -> list[int]:
        first = self.groups.index(group)
        if self.kinds[first] == "samples":
            return [0]
        axes = self.settings.flows[first].axes
        return [n if self.kinds[first] == "noise" or axis in axes else 1 for axis, n in enumerate(sample, 1)]

    def _masked(self, field: Tensor, member: int) -> Tensor:
        """0 where the flow's margin lets nothing move."""
        flow = self.settings.flows[member]
        if isinstance(flow, GridFlow):
            return field * flow.inside(field.shape[2:]).to(field.device)
        if not isinstance(flow, AffineFlow) or not flow.margin:
            return field
        rows, columns = (field.shape[axis] for axis in flow.axes)
        mask = inside(rows, columns, flow.margin).to(field.device)
        return field * (mask[:, :, None] if flow.channels_last else mask)


def _with_phases(field: Tensor, noise: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The field with the phases of white noise: its spectrum stays, channel by channel and between channels."""
    noise = noise.to(device=field.device, dtype=torch.promote_types(field.dtype, torch.float32))
    spectrum = torch.fft.fftn(noise, dim=axes)
    turned = torch.fft.fftn(field.to(noise.dtype), dim=axes) * (spectrum / spectrum.abs())
    return torch.fft.ifftn(turned, dim=axes).real.to(field.dtype)


def lengths(values: Tensor) -> Tensor:
    """Euclidean norm per sample of (B, ...), (B,) float64."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))  # half precision overflows in the squares
    return wide.flatten(1).square().sum(1, dtype=torch.float64).sqrt()


def _kind_of(flow: Flow, kind: str) -> tuple[object, ...]:
    """Flows whose tangents have the same weight over the frame: shifts, and motions that grow with the distance."""
    if kind == "noise":
        return ()
    if isinstance(flow, AffineFlow | GridFlow):
        return (type(flow).__name__, bool((flow.matrix != 0).any()), bool((flow.shift != 0).any()))
    return (type(flow).__name__, flow.name)
