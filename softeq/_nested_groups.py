"""Ladders of matrix groups: which are nested, and the spaces of maps between representations that they give."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from softeq._ladder import Described, Ladder, ladders_of, rung_names, spaces
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Group
from softeq.pathways import PATHWAYS
from softeq.reps import Rep, Scalar, T, Word
from softeq.solve import equivariant_basis

_LARGEST_TENSOR = 256
"""Invariant tensors of up to this many entries tell whether a group is a subgroup of another."""

_TOLERANCE = 1e-8


def checked_groups(ladder: Any, own: Group, argument: str = "rep_in") -> tuple[Group, ...]:
    """A ladder of groups, the layer's own first, each a subgroup of the one before.

    What a larger group leaves alone, a subgroup does too: that is tried on the tensors of small orders. A pair of
    groups that these do not tell apart passes; a layer tries its own maps as well.

    Args:
        ladder: what the user gave.
        own: the group that the layer's representations are bound to.
        argument: the name of a representation, for the errors.

    Raises:
        SofteqTypeError: no list of groups.
        SofteqValueError: another first group, groups of different dimension, or groups that are not nested.
    """
    for group in ladder if isinstance(ladder, list | tuple) else ():
        if not isinstance(group, Group):
            raise SofteqTypeError(f"ladder: expected Groups, e.g. [O(3), O2eR3()], got {type(group).__name__}")
    rung_names(ladder, [group.name for group in ladder] if isinstance(ladder, list | tuple) else [], PATHWAYS)
    groups = tuple(ladder)
    if groups[0] != own:
        raise SofteqValueError(f"ladder: expected the group of {argument} first, {own}, got {groups[0]}")
    for larger, smaller in itertools.pairwise(groups):
        if smaller.d != larger.d:
            raise SofteqValueError(
                f"ladder: expected groups of one dimension, got {larger} on R^{larger.d} and {smaller} on R^{smaller.d}"
            )
        with torch.device("cpu"):  # also where a model is built on the meta device
            _check_subgroup(larger, smaller)
    return groups


@functools.lru_cache(maxsize=256)
def _check_subgroup(larger: Group, smaller: Group) -> None:
    orthogonal = larger.is_orthogonal and smaller.is_orthogonal
    order = 1
    while larger.d**order <= _LARGEST_TENSOR and order <= 8:
        for dual in range(0 if orthogonal else order, -1, -1):
            rep = T(order - dual, dual)
            wide, narrow = (equivariant_basis(Scalar(group), rep(group)).flatten(1) for group in (larger, smaller))
            outside = wide - (wide @ narrow.T) @ narrow
            if len(wide) and float(outside.norm(dim=1).max()) > _TOLERANCE:
                raise SofteqValueError(
                    f"ladder: expected each group to be a subgroup of the one before it, but {smaller} changes a "
                    f"tensor of type {rep!r} that {larger} leaves alone"
                )
        order += 1


def labels(groups: Sequence[Group]) -> dict[str, str]:
    """Per group its name, and a text that tells it from others of that name."""
    return {group.name: group.fingerprint[:12] for group in groups}


def ladders_between(rep_in: Rep, rep_out: Rep, groups: tuple[Group, ...], *, bias: bool) -> dict[str, Ladder]:
    """The spaces of a linear layer's weight ``(out, in)`` and bias ``(out,)`` under nested groups.

    Raises:
        SofteqValueError: groups that are not nested on these maps.
    """
    descriptions: dict[str, Described] = {"weight": ((rep_out.size, rep_in.size), (rep_in, rep_out, groups))}
    if bias:
        descriptions["bias"] = (rep_out.size,), (Scalar(rep_out.bound_group), rep_out, groups)
    return ladders_of(_map_spaces, descriptions, labels(groups))


def _map_spaces(rep_in: Rep, rep_out: Rep, groups: Sequence[Group]) -> dict[str, Tensor]:
    places: dict[tuple[Word, Word], list[Tensor]] = {}
    for word_out, rows in _blocks(rep_out):
        for word_in, columns in _blocks(rep_in):
            flat = rows[:, None, :, None] * rep_in.size + columns[None, :, None, :]
            places.setdefault((word_out, word_in), []).append(flat.reshape(len(rows) * len(columns), -1))
    return spaces(
        (torch.cat(found), [_single_basis(word_in, word_out, group) for group in groups])
        for (word_out, word_in), found in places.items()
    )


def _single_basis(word_in: Word, word_out: Word, group: Group) -> Tensor:
    return equivariant_basis(Rep([(word_in, 1)], group), Rep([(word_out, 1)], group)).flatten(1)


def _blocks(rep: Rep) -> Iterator[tuple[Word, Tensor]]:
    """The types of a rep in order, each with the coordinates of its copies ``(copies, size)``."""
    start = 0
    for word, copies in rep.terms:
        size = Rep([(word, 1)], rep.group).size
        yield word, torch.arange(start, start + copies * size).view(copies, size)
        start += copies * size
