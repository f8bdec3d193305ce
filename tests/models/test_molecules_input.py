"""What the potential refuses, and how it says so."""

import builtins

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential

SPECIES = (1, 6, 8)
FIELD = [0.2, -0.3, 0.5]
CHAIN = 1.2 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 1, 1]])


def build(**options):
    return SoftPotential(SPECIES, channels=4, **options)


def batch(species=(1, 6, 8, 1), cutoff=4.5, field=None):
    return molecule_batch([torch.tensor(species)], [CHAIN], cutoff=cutoff, field=field)


def test_unknown_species_are_named():
    with pytest.raises(SofteqValueError, match=r"expected atomic numbers among \(1, 6, 8\), got \[7, 99\]"):
        build()(batch([7, 99, 8, 1]))
    with pytest.raises(SofteqValueError, match=r"got \[-1, 0\]"):
        build()(batch([-1, 0, 8, 1]))


def test_a_list_of_pairs_that_is_too_short():
    with pytest.raises(SofteqValueError, match=r"cutoff of 4.5 Angstrom, got 3.0"):
        build()(batch(cutoff=3.0))


def test_fields_that_are_missing_or_unexpected():
    with pytest.raises(SofteqValueError, match="field=True, got none"):
        build(field=True)(batch())
    with pytest.raises(SofteqValueError, match="field=False, got one"):
        build()(batch(field=FIELD))


def test_something_else_than_a_batch():
    with pytest.raises(SofteqTypeError, match="MoleculeBatch"):
        build()(CHAIN)


@pytest.mark.parametrize(
    ("species", "options", "message"),
    [
        ((), {}, "species: expected different atomic numbers"),
        ((1, 1), {}, "species: expected different"),
        ((0, 1), {}, "from 1 to 118"),
        ((1, 119), {}, "from 1 to 118"),
        (SPECIES, {"channels": 0}, "channels: expected at least 1"),
        (SPECIES, {"layers": 0}, "layers: expected at least 1"),
        (SPECIES, {"lmax": -1}, "lmax: expected at least 0"),
        (SPECIES, {"lmax": 0, "field": True}, "lmax: expected at least 1"),
        (SPECIES, {"cutoff": 0.0}, "cutoff: expected a finite number above 0"),
        (SPECIES, {"neighbours": float("nan")}, "neighbours: expected a finite"),
        (SPECIES, {"shift": [1.0, 2.0]}, "shift: expected a finite number or 3 of them, in eV"),
        (SPECIES, {"scale": float("inf")}, "scale: expected a finite"),
        (SPECIES, {"constraint": "firm"}, "constraint: expected 'soft', 'hard' or 'none'"),
    ],
)
def test_arguments(species, options, message):
    with pytest.raises(SofteqError, match=message):
        SoftPotential(species, **options)


def test_without_e3nn_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def missing(name, *rest, **options):
        if name.split(".")[0] == "e3nn":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'softeq\[e3nn\]'"):
        SoftPotential(SPECIES)
