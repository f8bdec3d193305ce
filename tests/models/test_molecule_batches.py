"""Batches of molecules: which pairs are listed, and what is refused."""

import numpy as np
import pytest
import torch

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.models.molecule_batches import molecule_batch

WATER = torch.tensor([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], dtype=torch.float64)
ATOMS = torch.tensor([8, 1, 1])


def test_pairs_are_those_of_a_double_loop():
    generator = torch.Generator().manual_seed(0)
    sizes = (1, 5, 3, 8)
    places = [3 * torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in sizes]
    batch = molecule_batch([torch.ones(n, dtype=torch.long) for n in sizes], places, cutoff=3.0)
    expected, start = set(), 0
    for place in places:
        for i in range(len(place)):
            for j in range(len(place)):
                if i != j and (place[i] - place[j]).norm() < 3.0:
                    expected.add((start + j, start + i))
        start += len(place)
    assert {tuple(pair) for pair in batch.pairs.T.tolist()} == expected
    assert 0 < len(expected) < 20 + 6 + 56
    assert batch.pairs.shape[1] == len(expected)
    assert batch.molecule.tolist() == [0] + [1] * 5 + [2] * 3 + [3] * 8


def test_frames_of_one_molecule_are_molecules_of_their_own():
    frames = torch.stack([WATER, WATER + 0.01, WATER + 5])
    batch, single = molecule_batch(ATOMS, frames, cutoff=5.0), molecule_batch([ATOMS] * 3, list(frames), cutoff=5.0)
    for name in ("positions", "species", "molecule", "pairs"):
        torch.testing.assert_close(getattr(batch, name), getattr(single, name))
    assert batch.pairs.shape == (2, 18)


def test_arrays_and_dtypes():
    batch = molecule_batch([[8, 1, 1]], [WATER.numpy()], cutoff=5.0, field=np.array([0, 0, 1]))
    assert batch.positions.dtype == batch.field.dtype == torch.float64
    moved = batch.to(torch.float32)
    assert moved.positions.dtype == moved.field.dtype == torch.float32
    assert moved.species.dtype == moved.pairs.dtype == torch.int64


def test_a_field_for_all_or_for_each():
    one = molecule_batch(ATOMS, torch.stack([WATER, WATER]), cutoff=5.0, field=[0.0, 0.0, 0.5])
    assert one.field.tolist() == [[0.0, 0.0, 0.5]] * 2
    with pytest.raises(SofteqValueError, match=r"field: expected \(3,\) or \(2, 3\) in V/Angstrom, got \(3, 3\)"):
        molecule_batch(ATOMS, torch.stack([WATER, WATER]), cutoff=5.0, field=torch.zeros(3, 3))
    field = torch.tensor([[0.0, 0.0, 1.0], [float("inf"), 0.0, 0.0]])
    with pytest.raises(SofteqValueError, match=r"field: expected finite numbers.*molecule 1"):
        molecule_batch(ATOMS, torch.stack([WATER, WATER]), cutoff=5.0, field=field)


def test_atoms_on_top_of_each_other_are_named():
    twice = WATER.clone()
    twice[2] = twice[1]
    with pytest.raises(
        SofteqValueError, match=r"atoms 1 and 2 of molecule 1 are 0 apart.*at least 0.1 Angstrom.*units"
    ):
        molecule_batch([ATOMS, ATOMS], [WATER, twice], cutoff=5.0)
    # Atoms of different molecules may lie anywhere.
    assert molecule_batch([ATOMS, ATOMS], [WATER, WATER], cutoff=5.0).pairs.shape == (2, 12)


def test_positions_that_are_not_finite_are_named():
    broken = WATER.clone()
    broken[1, 2] = float("nan")
    with pytest.raises(SofteqValueError, match=r"positions: expected finite numbers, got .*nan.* in molecule 1"):
        molecule_batch([ATOMS, ATOMS], [WATER, broken], cutoff=5.0)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_cutoffs(cutoff):
    with pytest.raises(SofteqValueError, match="cutoff: expected a finite distance above 0"):
        molecule_batch([ATOMS], [WATER], cutoff=cutoff)


@pytest.mark.parametrize(
    ("species", "positions", "message"),
    [
        ([], [], "at least one molecule"),
        ([ATOMS, ATOMS], [WATER], "expected 1 molecules as in positions, got 2"),
        ([ATOMS], [WATER[:2]], r"molecule 0: .*got \(3,\) and \(2, 3\)"),
        ([ATOMS], [WATER[:, :2]], r"molecule 0: .*got \(3,\) and \(3, 2\)"),
        ([ATOMS, ATOMS[:0]], [WATER, WATER[:0]], "molecule 1: .*n at least 1"),
    ],
)
def test_shapes_that_do_not_belong_together(species, positions, message):
    with pytest.raises(SofteqValueError, match=message):
        molecule_batch(species, positions, cutoff=5.0)


def test_atomic_numbers_are_whole():
    with pytest.raises(SofteqTypeError, match=r"atomic numbers as whole numbers, got torch\.float32"):
        molecule_batch([ATOMS.float()], [WATER], cutoff=5.0)
