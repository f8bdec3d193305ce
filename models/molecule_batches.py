"""Molecules of different sizes as one batch, with the pairs of atoms that are within a cutoff.

Units are ase's: positions and cutoffs in Angstrom, a uniform electric field in V/Angstrom, which is eV/(e Angstrom).
Numbers carry no unit: a molecule in Bohr or nanometres is computed as if it were in Angstrom, without an error unless
two atoms come nearer than ``NEAREST``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.models.gradients import recordable

NEAREST = 0.1
"""Angstrom. No two atoms of a molecule are nearer: the shortest bond, that of H2, is 0.74."""


_TENSORS = ("positions", "species", "molecule", "pairs", "field", "shifts")


@dataclass(frozen=True)
class MoleculeBatch:
    """B molecules with N atoms in total, molecule after molecule, and E directed pairs. Make it with `molecule_batch`.

    Args:
        positions: ``(N, 3)``, Angstrom.
        species: ``(N,)`` atomic numbers, int64.
        molecule: ``(N,)``, which molecule each atom belongs to, 0 to B - 1, in order.
        pairs: ``(2, E)``, the sending atom, then the receiving one.
        size: B.
        cutoff: Angstrom; the pairs are all those with a distance below it.
        field: ``(B, 3)`` in V/Angstrom, or ``None``.
        shifts: ``(E, 3)``, Angstrom, added to the sending atom's position where it is an image of a periodic cell (see
            `molecule_cells.periodic_batch`), or ``None``.
    """

    positions: Tensor
    species: Tensor
    molecule: Tensor
    pairs: Tensor
    size: int
    cutoff: float
    field: Tensor | None = None
    shifts: Tensor | None = None

    def to(self, target: torch.device | str | torch.dtype) -> MoleculeBatch:
        """The batch on a device, or with its positions, field and shifts in a dtype."""
        every = not isinstance(target, torch.dtype)
        return self._each(lambda value: value.to(target) if every or value.is_floating_point() else value)

    def recordable(self) -> MoleculeBatch:
        """The batch, with copies of what was made in ``torch.inference_mode`` and can enter no gradient."""
        return self._each(recordable)

    def _each(self, change: Callable[[Tensor], Tensor]) -> MoleculeBatch:
        given: dict[str, Any] = {name: getattr(self, name) for name in _TENSORS}
        given.update((name, change(value)) for name, value in given.items() if value is not None)
        return replace(self, **given)


def molecule_batch(
    species: Sequence[Any] | Tensor,
    positions: Sequence[Any] | Tensor,
    *,
    cutoff: float,
    field: Any = None,
) -> MoleculeBatch:
    """Several molecules, or several frames of one, as a batch.

    Args:
        species: per molecule its ``(n,)`` atomic numbers; or one ``(n,)`` tensor for all frames.
        positions: per molecule ``(n, 3)``; or ``(B, n, 3)`` for frames; Angstrom, as tensors (whose dtype and device
            the batch has) or arrays.
        cutoff: Angstrom, above 0; pairs nearer than this are listed.
        field: a uniform electric field, ``(3,)`` for all or ``(B, 3)``, V/Angstrom.

    Raises:
        SofteqValueError: shapes that do not belong together, no atom, a position or field that is not finite, atoms of
            a molecule on top of each other, or a cutoff that is not above 0.
        SofteqTypeError: atomic numbers that are no whole numbers.
    """
    if not 0 < cutoff < float("inf"):
        raise SofteqValueError(f"cutoff: expected a finite distance above 0 in Angstrom, got {cutoff}")
    places = [_floating(p) for p in positions]
    if not places:
        raise SofteqValueError("positions: expected at least one molecule, got none")
    kinds = [species] * len(places) if _is_one_molecule(species) else list(species)
    numbers = [torch.as_tensor(k, device=places[0].device) for k in kinds]
    check_molecules(numbers, places)
    counts = torch.tensor([len(p) for p in places], device=places[0].device)
    joined, molecule = torch.cat(places), torch.repeat_interleave(counts)
    check_finite("positions", joined, molecule)
    pairs = neighbours(joined.detach(), counts, molecule, cutoff)
    uniform = uniform_field(field, joined, len(places))
    return MoleculeBatch(joined, torch.cat(numbers).long(), molecule, pairs, len(places), float(cutoff), uniform)


def neighbours(positions: Tensor, counts: Tensor, molecule: Tensor, cutoff: float) -> Tensor:
    """All ordered pairs of different atoms of a molecule with a distance below ``cutoff``: ``(2, E)``.

    Args:
        positions: ``(N, 3)``, Angstrom, molecule after molecule.
        counts: ``(B,)`` atoms per molecule.
        molecule: ``(N,)``, see `MoleculeBatch`.
        cutoff: Angstrom.

    Raises:
        SofteqValueError: two atoms of a molecule nearer than ``NEAREST``.
    """
    each = counts[molecule]
    atoms = torch.arange(len(positions), device=positions.device)
    receiver = atoms.repeat_interleave(each)
    # Every atom meets the atoms of its molecule, from the molecule's first one on.
    first = (counts.cumsum(0) - counts)[molecule] - (each.cumsum(0) - each)
    sender = torch.arange(len(receiver), device=positions.device) + first.repeat_interleave(each)
    distance = (positions.index_select(0, sender) - positions.index_select(0, receiver)).norm(dim=-1)
    other = sender != receiver
    near = other & (distance < NEAREST)
    if near.any():
        pair = int(near.nonzero()[0, 0])
        i, j, which = int(receiver[pair]), int(sender[pair]), int(molecule[receiver[pair]])
        start = int(counts[:which].sum())
        raise SofteqValueError(
            f"positions: atoms {i - start} and {j - start} of molecule {which} are {float(distance[pair]):.3g} apart, "
            f"expected at least {NEAREST} Angstrom: look for atoms that stand twice and for units that are not Angstrom"
        )
    return torch.stack([sender, receiver])[:, other & (distance < cutoff)]


def _floating(value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _is_one_molecule(species: Any) -> bool:
    return len(species) > 0 and torch.as_tensor(species[0]).ndim == 0


def check_molecules(numbers: Sequence[Tensor], places: Sequence[Tensor]) -> None:
    """Whole atomic numbers ``(n,)`` and positions ``(n, 3)`` for every molecule, n at least 1."""
    if len(numbers) != len(places):
        raise SofteqValueError(f"species: expected {len(places)} molecules as in positions, got {len(numbers)}")
    for index, (number, place) in enumerate(zip(numbers, places, strict=True)):
        if number.is_floating_point() or number.dtype == torch.bool:
            raise SofteqTypeError(f"species: expected atomic numbers as whole numbers, got {number.dtype}")
        if number.ndim != 1 or len(number) == 0 or place.shape != (len(number), 3):
            raise SofteqValueError(
                f"molecule {index}: expected species (n,) and positions (n, 3) with n at least 1, "
                f"got {tuple(number.shape)} and {tuple(place.shape)}"
            )


def check_finite(name: str, value: Tensor, molecule: Tensor) -> None:
    """No row of ``value`` that is not finite; ``molecule`` says for every row which molecule it belongs to."""
    bad = ~value.isfinite().all(-1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise SofteqValueError(
            f"{name}: expected finite numbers, got {value[row].tolist()} in molecule {int(molecule[row])}"
        )


def uniform_field(value: Any, positions: Tensor, size: int) -> Tensor | None:
    """``(size, 3)`` like ``positions`` from ``(3,)`` or ``(size, 3)``, V/Angstrom."""
    if value is None:
        return None
    field = torch.as_tensor(value).to(positions)
    if field.shape not in ((3,), (size, 3)):
        raise SofteqValueError(f"field: expected (3,) or ({size}, 3) in V/Angstrom, got {tuple(field.shape)}")
    field = field.expand(size, 3)
    check_finite("field", field, torch.arange(size, device=field.device))
    return field
