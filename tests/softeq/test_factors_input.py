"""Factors: what is no representation is refused on binding, and every refusal names what was expected."""

from dataclasses import dataclass

import pytest
import torch

from softeq import (
    Rep,
    SofteqTypeError,
    SofteqValueError,
    Vector,
    groups,
)
from softeq.reps import Factor, Irrep, custom, of_factor, quotient, regular

from .test_factors import QUARTER, SO2xS3


@dataclass
class Unhashable(Factor):
    """Lacks ``frozen=True``."""

    name: str = "unhashable"

    def size(self, group):
        return group.d

    def rho(self, group, g):
        return g


def wrong_product(g):
    return g @ g


def wrong_shape(g):
    return g[..., :2, :2]


def wrong_derivative(A):
    return 2 * A


def through_numpy(g):
    return torch.from_numpy(g.detach().numpy().copy())


def itself(g):
    return g


def raises(g):
    raise RuntimeError("no such thing")


def narrow(g):
    return g.float()


REFUSED = {
    "no homomorphism": (lambda: custom("bad", 3, wrong_product), r"rho\(g h\) differs"),
    "another size": (lambda: custom("bad", 3, wrong_shape), "shape"),
    "another dtype": (lambda: custom("bad", 3, narrow, wrong_derivative), "float64"),
    "a wrong derivative": (lambda: custom("bad", 3, itself, wrong_derivative), "not the derivative"),
    "a derivative that torch cannot see": (lambda: custom("bad", 3, through_numpy), "not the derivative|failed"),
    "an error inside": (lambda: custom("bad", 3, raises), "no such thing"),
    "no size": (lambda: custom("bad", 0, itself), "size of at least 1"),
    "irreps of another space": (lambda: Irrep(2).of(0), "no separate product"),
    "regular of a Lie group": (lambda: regular, "finite group"),
    "the factor of a plain group": (lambda: Vector.of(0), "no separate product.*separate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_representation_is_refused_on_binding(case):
    make, message = REFUSED[case]
    with pytest.raises(SofteqValueError, match=message):
        make()(groups.SO(3))


def test_other_refusals_name_what_was_expected():
    with pytest.raises(SofteqValueError, match="rotations and reflections of R\\^3, not of SL"):
        Irrep(1)(groups.SL(3))
    with pytest.raises(SofteqValueError, match="degree from 0 to 8, got 9"):
        Irrep(9)
    with pytest.raises(SofteqValueError, match="parity 1, -1 or None, got 2"):
        Irrep(1, 2)
    with pytest.raises(SofteqValueError, match="at most 512 elements"):
        regular(groups.Permutation(6))
    with pytest.raises(SofteqValueError, match="no elements of Cyclic"):
        quotient(QUARTER[1])(groups.Cyclic(4))
    with pytest.raises(SofteqValueError, match="has 2 factors"):
        Vector.of(2)(SO2xS3)
    with pytest.raises(SofteqValueError, match="is bound"):
        Vector(groups.SO(3)).of(0)
    with pytest.raises(SofteqValueError, match="from 0 on, got -1"):
        Vector.of(-1)
    with pytest.raises(SofteqTypeError, match=r"expected a softeq.reps.Factor, got str"):
        of_factor("V")
    with pytest.raises(SofteqTypeError, match=r"Unhashable is none: write it as @dataclass\(frozen=True\)"):
        of_factor(Unhashable())
    with pytest.raises(SofteqTypeError, match="Factor for every index, got bool"):
        Rep([((True,), 1)], groups.SO(3))
    with pytest.raises(SofteqValueError, match="none"):
        regular(groups.Cyclic(4)).rho(groups.Cyclic(3).discrete_generators)
