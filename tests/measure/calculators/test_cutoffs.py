"""A sharp cutoff and a cap on neighbours are told from each other."""

import numpy as np
import pytest
import toy_calculators as toys

from softeq.measure.calculators.continuity import jumps, path_of
from softeq.measure.calculators.cutoffs import cause_of
from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.errors import NotMeasurable

KINDS = {"cluster": toys.cluster, "crystal": toys.crystal}


def found(calculator, atoms, seed):
    path, evaluate = path_of(atoms, np.random.default_rng(seed)), Evaluate(calculator)
    large = [jump for jump in jumps(evaluate, path) if max(jump.energy, jump.forces) > 1e-5]
    return cause_of(evaluate, path, large)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("atoms", KINDS.values(), ids=KINDS)
def test_a_sharp_cutoff_is_named_by_its_distance(atoms, seed):
    why = found(toys.Sharp(), atoms(), seed)
    assert why.cutoff == pytest.approx(4.0, abs=1e-5)
    assert why.ranks == ()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_cap_on_the_nearest_is_named_by_its_number(seed):
    why = found(toys.Nearest(), toys.cluster(), seed)
    assert why.ranks == (5,)
    assert why.cutoff is None


class Elsewhere(toys.Right):
    """Jumps at one place in space, which is neither."""

    def answer(self, found, atoms):
        return found | {"energy": found["energy"] + 0.1 * (np.linalg.norm(atoms.positions[-1]) > 6.0)}


def test_a_jump_of_another_kind_has_neither():
    why = found(Elsewhere(), toys.cluster(), 0)
    assert why.cutoff is None
    assert why.ranks == ()


def test_no_jump_has_no_cause():
    with pytest.raises(NotMeasurable, match="no jump"):
        cause_of(Evaluate(toys.Right()), path_of(toys.water(), np.random.default_rng(0)), [])
