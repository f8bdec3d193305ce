"""An interatomic potential by message passing over irreps of O(3), built from soft layers (extra: ``e3nn``).

After NequIP (Batzner et al., Nature Communications 2022, arXiv 2101.03164): messages are channel-wise products of a
neighbour's features with spherical harmonics of its direction, weighted by functions of its distance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from softeq._arguments import whole
from softeq._constants import Constants
from softeq._irreps_gate import SoftGate
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.irreps import SoftO3Linear, as_irreps
from softeq.models.gradients import recording
from softeq.models.molecule_batches import MoleculeBatch
from softeq.models.molecule_layers import Harmonics, RadialNetwork, SoftChannelwise, natural_irreps
from softeq.pathways import Weights, pathways_of

GATE_GAIN = 2.0
"""Swish and gates halve what is small: linear layers before them start so that they hand on the size they get."""


class Interaction(nn.Module):
    """One round of messages: linear, channel-wise product, sum over neighbours, linear with self-connection, gate.

    Args:
        irreps_in: of the features before, in e3nn's layout, the same number of copies of each irrep.
        irreps_out: of the features after.
        lmax: of the spherical harmonics.
        constraint: see `SoftPotential`.
        neighbours: see `SoftPotential`.
    """

    def __init__(self, irreps_in: Any, irreps_out: Any, lmax: int, *, constraint: str, neighbours: float) -> None:
        super().__init__()
        self.channels = irreps_in[0].mul
        harmonics = natural_irreps(lmax)
        channel = as_irreps([(1, kind) for _, kind in irreps_in], "irreps_in")
        # Scalars that a residual pathway makes of vectors are enough to see a direction, in the last round too.
        kept = natural_irreps(min(lmax, max(1, as_irreps(irreps_out, "irreps_out").lmax)))
        self.product = SoftChannelwise(channel, harmonics, kept, constraint=constraint)
        self.gate = SoftGate(irreps_out, constraint=constraint)
        # With a channel's irreps side by side, what the linear layers write and read needs no transposition.
        self.before = unit_linear(irreps_in, channel * self.channels, constraint)
        gathered = self.product.irreps_out * self.channels + irreps_in
        self.after = unit_linear(gathered, self.gate.irreps_in, constraint, GATE_GAIN)
        self.norm = neighbours**-0.5

    def radial_places(self) -> Tensor:
        """Per coordinate of the messages, ``(channels * out,)``, the number of its channel and path."""
        kinds = [kind.dim for _, kind in self.product.irreps_out]
        path = torch.arange(len(kinds)).repeat_interleave(torch.tensor(kinds))
        return (torch.arange(self.channels)[:, None] * len(kinds) + path).flatten()

    def forward(self, features: Tensor, pairs: Tensor, harmonics: Tensor, radial: Tensor) -> Tensor:
        """``(N, irreps_in)``, ``(2, E)``, ``(E, (lmax + 1)^2)`` and ``(E, channels * out)`` to ``(N, irreps_out)``."""
        sent = self.before(features).index_select(0, pairs[0]).unflatten(-1, (self.channels, -1))
        scale = radial.unflatten(-1, (self.channels, -1))
        message = self.product(sent, harmonics, scale).flatten(1)
        total = message.new_zeros(len(features), message.shape[1]).index_add(0, pairs[1], message)
        return self.gate(self.after(torch.cat([total * self.norm, features], -1)))


class SoftPotential(nn.Module):
    """The energy of molecules as a sum over their atoms, and forces as its gradient, so that energy is conserved.

    An atom's energy is ``shift + scale (net(atom) - net(the same species alone))``: a free atom has the energy
    ``shift`` and molecules that are farther apart than the cutoff have the sum of their energies.

    Hard, the energy is invariant under rotations, reflections and translations; soft, the residual pathways of the
    linear layers mix a vector's components with scalars, so that the energy may depend on the molecule's direction,
    as it does in a field that the model is not told of. With ``field=True`` the field is an input, a vector that
    turns with the molecule, and the hard model is exact for it.

    Args:
        species: the atomic numbers that may occur, e.g. ``(1, 6, 8)``.
        channels: copies of each irrep.
        lmax: highest degree of features and spherical harmonics, all with natural parity (0e, 1o, 2e, ...).
        layers: rounds of messages, at least 1.
        cutoff: Angstrom.
        constraint: ``"soft"``, ``"hard"`` or ``"none"``. In all three the weights of the paths are functions of
            distance and belong to no pathway.
        field: whether a uniform electric field per molecule is an input.
        scale: eV, per species in their order, or one number; trained.
        shift: eV, the energy of a free atom, likewise.
        neighbours: the number of atoms within the cutoff at which messages have unit size.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: a number out of range, species that repeat, or an unknown constraint.
    """

    def __init__(
        self,
        species: Sequence[int],
        *,
        channels: int = 16,
        lmax: int = 1,
        layers: int = 2,
        cutoff: float = 4.5,
        constraint: str = "soft",
        field: bool = False,
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        neighbours: float = 8.0,
    ) -> None:
        super().__init__()
        pathways_of(constraint)
        _check_sizes(channels=(channels, 1), lmax=(lmax, 1 if field else 0), layers=(layers, 1))
        for name, value in {"cutoff": cutoff, "neighbours": neighbours}.items():
            if not 0 < value < math.inf:
                raise SofteqValueError(f"{name}: expected a finite number above 0, got {value}")
        self.species = _checked_species(species)
        self.constants = Constants.of(_species_table, self.species)
        self.cutoff, self.constraint, self.field = float(cutoff), constraint, field
        kinds = len(self.species)
        start, hidden = natural_irreps(1 if field else 0, channels), natural_irreps(lmax, channels)
        self.embedding = unit_linear(natural_irreps(1 if field else 0, kinds), start, constraint)
        irreps = [start, *[hidden] * (layers - 1), natural_irreps(0, channels)]
        rounds = [
            Interaction(a, b, lmax, constraint=constraint, neighbours=neighbours) for a, b in itertools.pairwise(irreps)
        ]
        self.interactions = nn.ModuleList(rounds)
        self.harmonics = Harmonics(lmax)
        self.radial = RadialNetwork(cutoff, [layer.radial_places() for layer in rounds])
        self.last = unit_linear(irreps[-1], "1x0e", constraint)
        self.scale = nn.Parameter(_per_species("scale", scale, kinds))
        self.shift = nn.Parameter(_per_species("shift", shift, kinds))

    def forward(self, batch: MoleculeBatch) -> Tensor:
        """Energies ``(B,)`` in eV, differentiable in ``batch.positions`` and in ``batch.field``.

        Raises:
            SofteqTypeError: no `MoleculeBatch`, or one of half precision.
            SofteqValueError: a species that the model does not know, a batch with a smaller cutoff, or a field where
                none is expected or none where one is.
        """
        atomic = self.atomic_energies(batch)
        return atomic.new_zeros(batch.size).index_add(0, batch.molecule, atomic)

    def atomic_energies(self, batch: MoleculeBatch) -> Tensor:
        """The energies ``(N,)`` in eV whose sums `forward` gives; see there."""
        self._check(batch)
        kind = self._kinds(batch.species)
        sent, received = batch.pairs
        step = batch.positions.index_select(0, sent) - batch.positions.index_select(0, received)
        if batch.shifts is not None:
            step = step + batch.shifts
        distance = step.square().sum(-1, keepdim=True).sqrt()
        harmonics = self.harmonics(step / distance)
        features = self.embedding(self._inputs(kind, batch))
        for layer, radial in zip(self.interactions, self.radial(distance), strict=True):
            features = layer(features, batch.pairs, harmonics, radial)
        atoms, free = self.last(features)[:, 0].split([len(kind), len(self.species)])
        return self.shift[kind] + self.scale[kind] * (atoms - free[kind])

    def energy_and_forces(self, batch: MoleculeBatch, *, create_graph: bool | None = None) -> tuple[Tensor, Tensor]:
        """Energies ``(B,)`` in eV and forces ``(N, 3)`` in eV/Angstrom.

        Args:
            batch: see `forward`.
            create_graph: whether a loss of the forces can be differentiated; by default, in training mode where
                gradients are enabled.
        """
        if create_graph is None:
            create_graph = self.training and torch.is_grad_enabled()
        self._check(batch)
        with recording():
            batch = batch.recordable()
            positions = batch.positions if batch.positions.requires_grad else batch.positions.detach().requires_grad_()
            energy = self(replace(batch, positions=positions))
            (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
        return (energy if create_graph else energy.detach()), -slope

    def _inputs(self, kind: Tensor, batch: MoleculeBatch) -> Tensor:
        """One number per species, and the field in the place of the species; after the atoms a free one of each."""
        everyone = torch.cat([kind, torch.arange(len(self.species), device=kind.device)])
        scalars = nn.functional.one_hot(everyone, len(self.species)).to(batch.positions.dtype)
        if batch.field is None:
            return scalars
        field = batch.field.index_select(0, batch.molecule)
        field = torch.cat([field, field.new_zeros(len(self.species), 3)])
        return torch.cat([scalars, (scalars[:, :, None] * field[:, None, :]).flatten(1)], -1)

    def _kinds(self, species: Tensor) -> Tensor:
        table = self.constants.on(self.scale)["table"]
        known = (species > 0) & (species < len(table))
        kind = torch.where(known, table[species.clamp(0, len(table) - 1)], -1)
        if (kind < 0).any():
            wrong = sorted(set(species[kind < 0].tolist()))
            raise SofteqValueError(f"species: expected atomic numbers among {self.species}, got {wrong}")
        return kind

    def _check(self, batch: MoleculeBatch) -> None:
        if not isinstance(batch, MoleculeBatch):
            raise SofteqTypeError(f"batch: expected a MoleculeBatch (see molecule_batch), got {type(batch).__name__}")
        if batch.positions.dtype not in (torch.float32, torch.float64):
            raise SofteqTypeError(
                f"batch.positions: expected torch.float32 or torch.float64, got {batch.positions.dtype}; half"
                " precision is too coarse for places, and torch.autocast narrows what stands it"
            )
        if batch.cutoff < self.cutoff:
            raise SofteqValueError(
                f"batch: expected pairs up to the model's cutoff of {self.cutoff} Angstrom, got {batch.cutoff}"
            )
        if (batch.field is not None) != self.field:
            raise SofteqValueError(
                "batch.field: expected a field, as the model was built with field=True, got none"
                if self.field
                else "batch.field: expected none, as the model was built with field=False, got one"
            )


def unit_linear(irreps_in: Any, irreps_out: Any, constraint: str, gain: float = 1.0) -> SoftO3Linear:
    """A soft linear layer whose outputs start ``gain`` times the size of its inputs; torch's start is sqrt(1/3)."""
    layer = SoftO3Linear(irreps_in, irreps_out, constraint=constraint)
    with torch.no_grad():
        for pathway in layer.pathways.values():
            if isinstance(pathway, Weights):
                pathway.weight.mul_(gain * math.sqrt(3))
    return layer


def _checked_species(species: Sequence[int]) -> tuple[int, ...]:
    given = species.tolist() if isinstance(species, Tensor) else list(species)
    if not all(isinstance(number, Integral) for number in given):
        raise SofteqTypeError(f"species: expected atomic numbers as whole numbers, got {tuple(given)}")
    numbers = tuple(int(number) for number in given)
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 1 or max(numbers) > 118:
        raise SofteqValueError(f"species: expected different atomic numbers from 1 to 118, got {tuple(species)}")
    return numbers


def _species_table(species: tuple[int, ...]) -> dict[str, Tensor]:
    """Per atomic number its place among the species, -1 where it has none."""
    table = torch.full((max(species) + 1,), -1)
    table[torch.tensor(species)] = torch.arange(len(species))
    return {"table": table}


def _per_species(name: str, value: float | Sequence[float], kinds: int) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if numbers.shape not in ((), (kinds,)) or not numbers.isfinite().all():
        raise SofteqValueError(f"{name}: expected a finite number or {kinds} of them, in eV, got {value}")
    return numbers.expand(kinds).clone()


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (size, least) in sizes.items():
        whole(name, size, least)
