"""Groups by name: ``named("O(3)")``."""

from __future__ import annotations

import re
from collections.abc import Callable

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import _finite, _lie
from softeq.groups._group import Group, separate

_FUNCTIONS: dict[str, Callable[..., Group]] = {
    f.__name__: f
    for f in (
        _lie.SO, _lie.O, _lie.SOpq, _lie.Opq, _lie.SOpqp, _lie.SO13, _lie.SO13p, _lie.Lorentz, _lie.SO11, _lie.SO11p,
        _lie.O11, _lie.Parity, _lie.TimeReversal, _lie.Sp, _lie.SL, _lie.GL, _lie.Scaling, _lie.U, _lie.SU, _lie.SO2eR3,
        _lie.O2eR3, _finite.Trivial, _finite.Cyclic, _finite.Dihedral, _finite.DkeR3, _finite.Z, _finite.Permutation,
        _finite.ZksZnxZn, _finite.Cube, _finite.RubiksCube,
    )
}  # fmt: skip
# Other names of the same groups: of the literature, and of the emlp package.
_ALIASES = {"SO+": "SOpqp", "S": "Permutation", "C": "Cyclic", "D": "Dihedral", "O13": "Lorentz"}
# With two numbers SO(1,3) and O(1,3) are the groups of an indefinite metric.
_OF_TWO = {"SO": "SOpq", "O": "Opq"}
_LONGEST = 200
_ATOM = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*\+?)\s*(?:\(([^()]*)\))?\s*")


def named(name: str) -> Group:
    """The group of that name: ``"O(3)"``, ``"SO(1,3)"``, ``"S(5)"``, ``"SO(3) x Z(2)"``, ``"SO(3) + S(5)"``.

    The names are those of the functions of this module and what their groups print as; ``x`` (or ``*``) is the
    Kronecker product ``G1 * G2``, ``+`` is ``separate(G1, G2)``, and ``Embed(G, d, start)`` is ``Embed``.

    Raises:
        SofteqTypeError: no string.
        SofteqValueError: an unknown name, or numbers that the group does not take.
    """
    if not isinstance(name, str):
        raise SofteqTypeError(f"named: expected a string such as 'O(3)', got {type(name).__name__}")
    if len(name) > _LONGEST:
        raise SofteqValueError(f"named: expected a name of at most {_LONGEST} letters, got {len(name)}")
    parts = _split(name, "+")
    groups = [_product(part, name) for part in parts]
    return groups[0] if len(groups) == 1 else separate(*groups)


def _product(text: str, name: str) -> Group:
    factors = [_single(part, name) for part in _split(text, "x*")]
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


def _split(text: str, operators: str) -> list[str]:
    """The parts between operators that stand outside of brackets, and apart from letters and ``SO+``."""
    parts, depth = [""], 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        apart = (place and (text[place - 1] in " )")) or letter == "*"
        if letter in operators and depth == 0 and apart:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _single(text: str, name: str) -> Group:
    stripped = text.strip()
    if stripped.startswith("(") and stripped.endswith(")"):
        return named(stripped[1:-1])
    if stripped.startswith("Embed(") and stripped.endswith(")"):
        return _embedded(stripped[6:-1], name)
    match = _ATOM.fullmatch(text)
    if match is None:
        raise _unknown(name, f"cannot read {stripped!r}")
    function, inside = _ALIASES.get(match[1], match[1]), (match[2] or "").strip()
    try:
        numbers = [int(number) for number in inside.split(",")] if inside else []
    except ValueError:
        raise _unknown(name, f"expected whole numbers in brackets, got {inside!r}") from None
    if len(numbers) == 2:
        function = _OF_TWO.get(function, function)
    if function not in _FUNCTIONS:
        raise _unknown(name, f"there is no {match[1]!r}")
    try:
        return _FUNCTIONS[function](*numbers)
    except SofteqValueError:
        raise
    except TypeError:
        raise _unknown(name, f"{match[1]} does not take {len(numbers)} numbers") from None


def _embedded(inside: str, name: str) -> Group:
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    try:
        numbers = [int(part) for part in parts[1:]]
    except ValueError:
        raise _unknown(name, "Embed takes a group, a dimension and where it starts") from None
    if not 1 <= len(numbers) <= 2:
        raise _unknown(name, "Embed takes a group, a dimension and where it starts")
    return _lie.Embed(named(parts[0]), *numbers)


def _unknown(name: str, why: str) -> SofteqValueError:
    known = ", ".join(sorted(_FUNCTIONS))
    return SofteqValueError(f"named({name!r}): {why}; expected e.g. 'O(3)' or 'SO(3) x Z(2)', with one of {known}")
