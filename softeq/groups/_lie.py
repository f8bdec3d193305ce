"""The named continuous groups."""

from __future__ import annotations

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.groups._group import Group, check_size, eye, none, on_cpu
from softeq.groups._sampling import EmbeddedSampler, HaarOrthogonal


def whole_number(name: str, n: int, least: int = 1) -> int:
    """``n``, or an error that names the group."""
    if isinstance(n, bool) or not isinstance(n, int) or n < least:
        raise SofteqValueError(f"{name}(n): expected an integer n >= {least}, got {n!r}")
    return n


def flip(d: int, *axes: int) -> Tensor:
    """The reflection of some axes, ``(1, d, d)``."""
    h = eye(d)
    h[list(axes), list(axes)] = -1.0
    return h.unsqueeze(0)


def unit(d: int, i: int, j: int) -> Tensor:
    """The matrix with a one in row i and column j, ``(d, d)``."""
    a = torch.zeros(d, d, dtype=torch.float64)
    a[i, j] = 1.0
    return a


def _pseudo_rotations(name: str, p: int, q: int) -> Tensor:
    """so(p, q): A with A^T eta + eta A = 0 for eta = diag(+1 p times, -1 q times)."""
    d = p + q
    check_size(name, d * (d - 1) // 2, d)
    eta = torch.cat([torch.ones(p), -torch.ones(q)]).double()
    i, j = torch.triu_indices(d, d, 1)
    a = torch.zeros(len(i), d, d, dtype=torch.float64)
    index = torch.arange(len(i))
    a[index, i, j], a[index, j, i] = -1.0, eta[i] * eta[j]
    return a


@on_cpu
def SO(n: int) -> Group:
    """Rotations of R^n."""
    name = f"SO({whole_number('SO', n)})"
    return Group(name, _pseudo_rotations(name, n, 0), none(n), sampler=HaarOrthogonal(n, special=True))


@on_cpu
def O(n: int) -> Group:  # noqa: E743 - the group's own name
    """Rotations and reflections of R^n."""
    name = f"O({whole_number('O', n)})"
    return Group(name, _pseudo_rotations(name, n, 0), flip(n, 0), sampler=HaarOrthogonal(n, special=False))


@on_cpu
def SOpq(p: int, q: int) -> Group:
    """Determinant-one isometries of the metric diag(+1 p times, -1 q times); two connected components if p, q > 0."""
    name = _indefinite("SO", p, q)
    return Group(name, _pseudo_rotations(name, p, q), flip(p + q, 0, p) if p and q else none(p + q))


@on_cpu
def Opq(p: int, q: int) -> Group:
    """All isometries of the metric diag(+1 p times, -1 q times)."""
    name = _indefinite("O", p, q)
    flips = [flip(p + q, 0)] if p else []
    flips += [flip(p + q, *range(p, p + q)) if q % 2 else flip(p + q, p)] if q else []
    return Group(name, _pseudo_rotations(name, p, q), torch.cat(flips))


@on_cpu
def SOpqp(p: int, q: int) -> Group:
    """SO+(p, q): the isometries of diag(+1 p times, -1 q times) that are connected to the identity."""
    name = _indefinite("SO+", p, q)
    return Group(name, _pseudo_rotations(name, p, q), none(p + q))


def _indefinite(name: str, p: int, q: int) -> str:
    function = {"SO": "SOpq", "O": "Opq", "SO+": "SOpqp"}[name]
    whole_number(function, p, 0), whole_number(function, q, 0), whole_number(function, p + q)
    return f"{name}({p},{q})"


@on_cpu
def SO13() -> Group:
    """SO(1,3): Lorentz transformations of determinant one, time first, metric (+, -, -, -)."""
    return SOpq(1, 3)


@on_cpu
def SO13p() -> Group:
    """SO+(1,3): the part of the Lorentz group that is connected to the identity (rotations and boosts)."""
    return SOpqp(1, 3)


@on_cpu
def Lorentz() -> Group:
    """O(1,3): rotations, boosts, parity and time reversal; time first, metric (+, -, -, -)."""
    return Opq(1, 3)


@on_cpu
def SO11() -> Group:
    """SO(1,1): the boosts of one direction, and the reversal of time and space together."""
    return SOpq(1, 1)


@on_cpu
def SO11p() -> Group:
    """SO+(1,1): the boosts of one direction."""
    return SOpqp(1, 1)


@on_cpu
def O11() -> Group:
    """O(1,1): the boosts of one direction, parity and time reversal."""
    return Opq(1, 1)


@on_cpu
def Parity() -> Group:
    """The reflection of space in R^4, time first: (t, x) to (t, -x)."""
    return Group("Parity", none(4), flip(4, 1, 2, 3))


@on_cpu
def TimeReversal() -> Group:
    """The reflection of time in R^4, time first: (t, x) to (-t, x)."""
    return Group("TimeReversal", none(4), flip(4, 0))


@on_cpu
def Sp(n: int) -> Group:
    """Symplectic matrices of R^n, n = 2m even, coordinates (q_1 .. q_m, p_1 .. p_m). The n is the space's dimension."""
    whole_number("Sp", n, 2)
    if n % 2:
        raise SofteqValueError(f"Sp(n): n is the dimension 2m of phase space and must be even, got {n}")
    m = n // 2
    check_size(f"Sp({n})", m * (2 * m + 1), n)
    generators = []
    for i in range(m):
        for j in range(m):
            generators.append(unit(n, i, j) - unit(n, m + j, m + i))
            if j >= i:
                b = torch.maximum(unit(n, i, m + j), unit(n, j, m + i))
                generators.extend([b, b.T])
    return Group(f"Sp({n})", generators, none(n))


@on_cpu
def SL(n: int) -> Group:
    """Volume-preserving linear maps of R^n."""
    whole_number("SL", n)
    check_size(f"SL({n})", n * n - 1, n)
    generators = [none(n)]
    for i in range(n):
        for j in range(n):
            if i != j:
                generators.append(unit(n, i, j).unsqueeze(0))
            elif i + 1 < n:
                generators.append((unit(n, i, i) - unit(n, i + 1, i + 1)).unsqueeze(0))
    return Group(f"SL({n})", torch.cat(generators), none(n))


@on_cpu
def GL(n: int) -> Group:
    """All invertible linear maps of R^n, orientation-reversing ones included."""
    whole_number("GL", n)
    check_size(f"GL({n})", n * n + 1, n)
    return Group(f"GL({n})", torch.eye(n * n, dtype=torch.float64).view(-1, n, n), flip(n, 0))


@on_cpu
def Scaling(n: int) -> Group:
    """Multiples of the identity of R^n by positive numbers."""
    check_size(f"Scaling({whole_number('Scaling', n)})", 1, n)
    return Group(f"Scaling({n})", eye(n).unsqueeze(0), none(n))


@on_cpu
def U(n: int) -> Group:
    """Unitary matrices of C^n in their real form on R^2n, coordinates (real parts, imaginary parts)."""
    check_size(f"U({whole_number('U', n)})", n * n, 2 * n)
    phases = [1j * unit(n, i, i) for i in range(n)]
    return Group(f"U({n})", [*_off_diagonal(n), *phases])


@on_cpu
def SU(n: int) -> Group:
    """Unitary matrices of C^n with determinant one, in their real form on R^2n, coordinates (real, imaginary parts)."""
    check_size(f"SU({whole_number('SU', n)})", n * n - 1, 2 * n)
    phases = [1j * (unit(n, i, i) - unit(n, i + 1, i + 1)) for i in range(n - 1)]
    return Group(f"SU({n})", [*_off_diagonal(n), *phases] or none(2))


def _off_diagonal(n: int) -> list[Tensor]:
    """The antihermitian matrices with two entries off the diagonal, real antisymmetric and imaginary symmetric."""
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    real = [(unit(n, i, j) - unit(n, j, i)).to(torch.complex128) for i, j in pairs]
    return real + [1j * (unit(n, i, j) + unit(n, j, i)) for i, j in pairs]


@on_cpu
def SO2eR3() -> Group:
    """Rotations of R^3 about the z axis."""
    return Group("SO2eR3", _about_z(), none(3), sampler=EmbeddedSampler(SO(2), 3, 0))


@on_cpu
def O2eR3() -> Group:
    """Rotations of R^3 about the z axis, and reflections in planes that contain it."""
    return Group("O2eR3", _about_z(), flip(3, 0), sampler=EmbeddedSampler(O(2), 3, 0))


def _about_z() -> Tensor:
    return (unit(3, 1, 0) - unit(3, 0, 1)).unsqueeze(0)


@on_cpu
def Embed(group: Group, d: int, start: int = 0) -> Group:
    """A group on the coordinates ``start .. start + group.d`` of R^d, the others left alone.

    Raises:
        SofteqValueError: the coordinates do not fit into R^d.
    """
    whole_number("Embed", d), whole_number("Embed", start, 0)
    stop = start + group.d
    if stop > d:
        raise SofteqValueError(f"Embed: coordinates {start} to {stop} of {group} do not fit into R^{d}")
    check_size(f"Embed({group}, {d})", len(group.lie_algebra) + len(group.discrete_generators), d)
    algebra = torch.zeros(len(group.lie_algebra), d, d, dtype=torch.float64)
    algebra[:, start:stop, start:stop] = group.lie_algebra
    discrete = eye(d).repeat(len(group.discrete_generators), 1, 1)
    discrete[:, start:stop, start:stop] = group.discrete_generators
    name = f"Embed({group}, {d}, {start})" if start else f"Embed({group}, {d})"
    return Group(name, algebra, discrete, sampler=EmbeddedSampler(group, d, start))
