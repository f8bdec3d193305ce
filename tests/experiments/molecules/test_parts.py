"""Molecules as tensors: how they are split, rotated, and held against dipoles."""

import dataclasses
import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.molecules import parts
from softeq.experiments.molecules.frames import rotations

from .set_configs import config

pytestmark = pytest.mark.usefixtures("few")


def part():
    generator = torch.Generator().manual_seed(0)
    drawn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return parts.Part([torch.tensor([6, 1]), torch.tensor([8])], [drawn(2, 3), drawn(1, 3)], drawn(2), drawn(2, 3))


def test_the_seed_draws_the_training_molecules_and_not_the_tests():
    first, second = (parts.prepared(config("hard-100", seed=seed)) for seed in (0, 1))
    torch.testing.assert_close(torch.cat(list(first[2].places)), torch.cat(list(second[2].places)))
    assert [len(z) for z in first[0].numbers] != [len(z) for z in second[0].numbers]
    sides = [{tuple(x.flatten().tolist()) for x in part.places} for part in first]
    assert [len(side) for side in sides] == [12, 4, 8]
    assert len(set.union(*sides)) == 24


def test_the_elements_energies_know_nothing_of_test_molecules(few, monkeypatch):
    own = config("hard-100")
    train, _, test = parts.prepared(own)
    sizes, last = own["data"]["sizes"], few.energies.copy()
    held = torch.randperm(30, generator=parts.generator_for(0, 5))[: sizes[2]]
    last[held.numpy()] += 100.0
    monkeypatch.setattr(parts, "_molecules", lambda *_: dataclasses.replace(few, energies=last))
    again, _, moved = parts.prepared(own)
    torch.testing.assert_close(again.energy, train.energy)
    torch.testing.assert_close(moved.energy, test.energy + 100.0)


def test_more_molecules_than_there_are():
    with pytest.raises(SofteqValueError, match="at most 30 molecules together, got 38"):
        parts.prepared(config("hard-100", sizes=(30, 4, 4)))


def test_each_molecule_is_rotated_by_its_own_element_and_its_dipole_with_it():
    one, g = part(), rotations(2, 0)
    moved = one.turned(g)
    for k in range(2):
        torch.testing.assert_close(moved.places[k], torch.stack([g[k] @ x for x in one.places[k]]))
        torch.testing.assert_close(moved.dipole[k], g[k] @ one.dipole[k])
    assert torch.equal(moved.energy, one.energy)


def test_rows_are_those_molecules():
    one = part()
    other = one.rows(torch.tensor([1]))
    assert [len(place) for place in other.places] == [1]
    assert torch.equal(other.dipole, one.dipole[1:])
    assert torch.equal(other.energy, one.energy[1:])


def test_dipoles_are_held_against_what_is_known_of_them():
    whole, wrong = part(), torch.zeros(2, 3, dtype=torch.float64)
    torch.testing.assert_close(whole.dipole_error(wrong), whole.dipole.norm(dim=1))
    sizes = dataclasses.replace(whole, dipole=None, dipole_size=whole.dipole.norm(dim=1))
    torch.testing.assert_close(sizes.dipole_error(-whole.dipole), torch.zeros(2, dtype=torch.float64))
    assert sizes.dipole_rms == pytest.approx(whole.dipole_rms)
    neither = dataclasses.replace(whole, dipole=None)
    assert neither.dipole_error(wrong) is None
    assert math.isnan(neither.dipole_rms)
