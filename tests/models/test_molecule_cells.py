"""Periodic cells: the pairs are those of a double loop over images, and what is refused."""

import itertools

import numpy as np
import pytest
import torch

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.models import molecule_cells
from softeq.models.molecule_cells import periodic_batch

SKEWED = np.array([[3.0, 0.0, 0.0], [1.1, 2.7, 0.0], [-0.4, 0.8, 3.4]])
CUTOFF = 4.2  # longer than the cell: atoms meet their own images
FLAGS = {"bulk": (True, True, True), "slab": (True, True, False), "wire": (False, False, True)}


def atoms(count=3, spread=1.0):
    """Some of them outside of the cell."""
    places = np.random.default_rng(4).uniform(-0.6, 1.6, (count, 3)) * spread @ SKEWED
    return np.array([8, 1, 6])[:count], torch.as_tensor(places)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_pairs_are_those_of_a_loop_over_images(flags):
    numbers, places = atoms()
    batch = periodic_batch(numbers, places, SKEWED, flags, cutoff=CUTOFF)
    expected = []
    steps = itertools.product(*(range(-7, 8) if flag else (0,) for flag in flags))
    for step, i, j in itertools.product(steps, range(3), range(3)):
        shift = np.array(step) @ SKEWED
        if (i != j or any(step)) and np.linalg.norm(places[j].numpy() + shift - places[i].numpy()) < CUTOFF:
            expected.append((j, i, *shift.round(6)))
    found = np.column_stack([batch.pairs.numpy().T, batch.shifts.numpy().round(6)])
    assert len(expected) > 5
    assert sorted(map(tuple, (found + 0.0).tolist())) == sorted(map(tuple, (np.array(expected) + 0.0).tolist()))


def test_dtype_and_what_else_a_batch_has():
    numbers, places = atoms()
    batch = periodic_batch(numbers, places.float(), SKEWED, FLAGS["bulk"], cutoff=2.0, field=[0, 0, 1.0])
    assert batch.positions.dtype == batch.shifts.dtype == batch.field.dtype == torch.float32
    assert batch.size == 1
    assert batch.species.tolist() == [8, 1, 6]
    assert batch.to(torch.float64).shifts.dtype == torch.float64


def test_one_atom_alone_and_with_its_images():
    numbers, places = atoms(1)
    assert periodic_batch(numbers, places, 50 * np.eye(3), FLAGS["bulk"], cutoff=4.0).pairs.shape == (2, 0)
    assert periodic_batch(numbers, places, 3.0 * np.eye(3), FLAGS["bulk"], cutoff=3.1).pairs.tolist() == [[0] * 6] * 2


def refused(match, error=SofteqValueError, **changed):
    numbers, places = atoms()
    given = {"species": numbers, "positions": places, "cell": SKEWED, "periodic": FLAGS["bulk"], "cutoff": 3.0}
    with pytest.raises(error, match=match):
        periodic_batch(**given | changed)


def test_bad_input(monkeypatch):
    places = atoms()[1]
    refused("cell: expected independent vectors", cell=np.zeros((3, 3)))
    refused("cell: expected independent vectors", cell=SKEWED[[0, 0, 1]])
    refused("cell: expected .* finite", cell=np.full((3, 3), np.nan))
    refused("periodic: expected three flags", periodic=(False, False, False))
    refused("cutoff: expected a finite distance", cutoff=0.0)
    refused("cutoff: .* lists up to", cutoff=1e6)
    refused("positions: expected finite", positions=places * float("nan"))
    refused("expected atomic numbers as whole numbers", SofteqTypeError, species=np.array([1.5, 1, 1]))
    image = torch.cat([places[:2], places[:1] + torch.as_tensor(SKEWED[1]) + 0.01])
    refused(r"atom . and atom ., in the image .* are 0\.01", positions=image)
    monkeypatch.setattr(molecule_cells, "MOST_PAIRS", 10)
    refused("expected at most 1e\\+01")
