"""A periodic cell as a batch of one, with the neighbours across its faces (extra: ``molecules``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.models.molecule_batches import NEAREST, MoleculeBatch, check_finite, check_molecules, uniform_field

MOST_PAIRS = 20_000_000
"""Pairs that a batch may list, several GB of messages: more come of a cutoff that was meant in another unit."""


def periodic_batch(
    species: Any,
    positions: Any,
    cell: Any,
    periodic: Sequence[bool],
    *,
    cutoff: float,
    field: Any = None,
) -> MoleculeBatch:
    """One cell and its images: every atom with all atoms and images nearer than the cutoff, its own images too.

    Atoms may stand outside of the cell, and the cell may be smaller than the cutoff.

    Args:
        species: ``(n,)`` atomic numbers.
        positions: ``(n, 3)`` tensor, Angstrom.
        cell: ``(3, 3)``, its vectors as rows, Angstrom.
        periodic: along which of the three vectors images repeat, at least one.
        cutoff: Angstrom.
        field: see `molecule_batch`.

    Raises:
        MissingExtraError: ase is not installed.
        SofteqValueError: what `molecule_batch` refuses, vectors that are no cell, images on top of each other, or more
            pairs than `MOST_PAIRS`.
    """
    try:
        from ase.cell import Cell
        from ase.neighborlist import primitive_neighbor_list
    except ImportError as error:
        raise MissingExtraError("periodic cells need ase: pip install 'softeq[molecules]'") from error
    vectors, flags = np.asarray(cell, dtype=np.float64), np.asarray(periodic, dtype=bool)
    places = torch.as_tensor(positions)
    numbers, molecule = torch.as_tensor(species), torch.zeros(len(places), dtype=torch.long)
    check_molecules([numbers], [places])
    check_finite("positions", places, molecule)
    _check_cell(vectors, flags, len(places), cutoff)
    away = places.detach().double().cpu().numpy()
    whole = Cell(np.where(flags[:, None], vectors, 0.0)).complete()
    receiver, sender, steps = primitive_neighbor_list("ijS", flags, whole, away, float(cutoff))
    shifts = steps @ whole.array
    distance = np.linalg.norm(away[sender] + shifts - away[receiver], axis=1)
    if (distance < NEAREST).any():
        pair = int(distance.argmin())
        raise SofteqValueError(
            f"positions: atom {receiver[pair]} and atom {sender[pair]}, in the image {steps[pair].tolist()} of the "
            f"cell, are {distance[pair]:.3g} apart, expected at least {NEAREST} Angstrom"
        )
    pairs, device = torch.as_tensor(np.stack([sender, receiver])), places.device
    return MoleculeBatch(
        positions=places,
        species=numbers.long().to(device),
        molecule=molecule.to(device),
        pairs=pairs.to(device),
        size=1,
        cutoff=float(cutoff),
        field=uniform_field(field, places, 1),
        shifts=torch.as_tensor(shifts).to(places),
    )


def _check_cell(vectors: np.ndarray, flags: np.ndarray, atoms: int, cutoff: float) -> None:
    if not 0 < cutoff < np.inf:
        raise SofteqValueError(f"cutoff: expected a finite distance above 0 in Angstrom, got {cutoff}")
    if vectors.shape != (3, 3) or not np.isfinite(vectors).all():
        raise SofteqValueError(f"cell: expected (3, 3) finite numbers in Angstrom, got {vectors.tolist()}")
    if flags.shape != (3,) or not flags.any():
        raise SofteqValueError(f"periodic: expected three flags, at least one of them set, got {flags.tolist()}")
    sizes = np.linalg.svd(vectors[flags], compute_uv=False)
    if sizes.min() < NEAREST:
        raise SofteqValueError(
            f"cell: expected independent vectors where it is periodic ({flags.tolist()}), got {vectors.tolist()}"
        )
    expected = atoms**2 * (1 + 2 * cutoff / sizes).prod()
    if expected > MOST_PAIRS:
        raise SofteqValueError(
            f"cutoff: {cutoff} Angstrom lists up to {expected:.1e} pairs in this cell, expected at most "
            f"{MOST_PAIRS:.0e}"
        )
