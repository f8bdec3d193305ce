"""Nested symmetries: the spaces between a layer's constraint and none, one for each rung of a ladder.

Under a smaller group more maps are equivariant: ``V_0 < V_1 < ...``, the layer's own constraint first. Rung k is what
``V_k`` has beyond ``V_{k-1}``, in coordinates of an orthonormal basis, and the residual is what lies outside all of
them: every weight is one sum of these parts, which are orthogonal to each other, each under a precision of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softeq._arguments import check_read
from softeq._block_space import BlockSpace
from softeq._constants import Build, Constants
from softeq._grid_filters import orthonormal_rows
from softeq.errors import SofteqTypeError, SofteqValueError

Levels = Sequence[Tensor]
"""Orthonormal rows ``(rank, entries)`` per group of a ladder, the largest group first."""

Described = tuple[tuple[int, ...], tuple[Hashable, ...]]
"""The shape of a layer's part, and the arguments that its constants are built from."""

FIRST = "equivariant"
"""The name of the layer's own constraint, as ``pathways`` has it."""

_EXACT = 1e-6
_LARGEST_BASIS = 2**22
"""Entries of one kind of block's basis, 32 MiB: more takes minutes to make orthonormal."""


@dataclass(frozen=True)
class Spanned:
    """The orthogonal projection through which a layer reads a parameter, and the dimension of its image.

    Attributes:
        project: a tensor of the parameter's shape to another.
        rank: at most the number of its entries.
    """

    project: Callable[[Tensor], Tensor]
    rank: int


class NotNested(Exception):
    """A space that does not lie in the next one, by its place in the ladder."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.level = level


@dataclass(frozen=True)
class Ladder:
    """The spaces of one part of a layer, its weight or its bias.

    Attributes:
        rungs: per rung what it adds to those before it.
        within: per group of the ladder, the layer's own first under ``"equivariant"``, all that is equivariant.
        groups: per rung a text that tells its group from others, for a state dict's metadata.
    """

    rungs: Mapping[str, BlockSpace]
    within: Mapping[str, BlockSpace]
    groups: Mapping[str, str]

    def up_to(self, rung: str) -> Ladder:
        """The ladder that ends with this rung."""
        names = list(self.rungs)[: list(self.rungs).index(rung) + 1]
        return Ladder(
            {name: self.rungs[name] for name in names},
            {name: space for name, space in self.within.items() if name not in self.rungs or name in names},
            {name: self.groups[name] for name in names},
        )

    def rest(self, weight: Tensor) -> Tensor:
        """What of a weight lies outside all groups' spaces: the residual's part."""
        *_, last = self.within.values()
        return last.without(weight)

    def part_of(self, pathway: str, weight: Tensor) -> Tensor:
        """What a pathway stores of a weight: a rung its coordinates, the residual what lies outside all spaces."""
        return self.rungs[pathway].coordinates_of(weight) if pathway in self.rungs else self.rest(weight)

    @property
    def rest_rank(self) -> int:
        """The dimension of the residual's part."""
        *_, last = self.within.values()
        return torch.Size(last.shape).numel() - last.rank

    def merged(self, pathways: nn.ModuleDict, part: str, free: Tensor | None) -> Tensor | None:
        """The rungs' parts and what of the residual's lies outside all groups' spaces; ``None`` if there is neither."""
        total = free if free is None else self.within[FIRST].without(free)
        for name, space in self.rungs.items():
            own = getattr(check_read(pathways[name]), part, None) if name in pathways else None
            if own is not None:
                total = space.expand(own) if total is None else space.replaced(total, own)
        return total


Ladders = Mapping[str, Ladder]
"""By part of a layer, ``"weight"`` and ``"bias"``; empty without a ladder."""


def part_of(ladders: Ladders, pathway: str, part: str, whole: Tensor) -> Tensor:
    """What a rung, or the residual, stores of a whole weight or bias; all of it where there is no ladder."""
    return ladders[part].part_of(pathway, whole) if part in ladders else whole


def signature_of(ladders: Ladders) -> str:
    """What a layer's signature says of its ladder."""
    return "".join(f" > {name} [{group}]" for name, group in ladders["weight"].groups.items()) if ladders else ""


def described(ladders: Ladders) -> str:
    """What ``print(layer)`` says of its ladder."""
    return f", ladder={list(ladders['weight'].within)}" if ladders else ""


def ladders_of(build: Build, descriptions: Mapping[str, Described], groups: Mapping[str, str]) -> dict[str, Ladder]:
    """The ladders of a layer's parts.

    Args:
        build: of a description to the constants that `spaces` makes.
        descriptions: per part its shape and its description.
        groups: the ladder's, the layer's own first: per name a text that tells the group from others of that name.

    Raises:
        SofteqValueError: groups that are not nested on these maps.
    """
    own, *rungs = groups
    names = {FIRST: groups[own], **{name: groups[name] for name in rungs}}
    try:
        return {
            part: _ladder_of(shape, Constants.of(build, *description), names)
            for part, (shape, description) in descriptions.items()
        }
    except NotNested as error:
        larger, smaller = list(groups)[error.level - 1 : error.level + 1]
        raise SofteqValueError(
            f"ladder: expected each group to be a subgroup of the one before it, but a map that is equivariant under "
            f"{larger} is not under {smaller}"
        ) from error


def _ladder_of(shape: tuple[int, ...], constants: Constants, groups: Mapping[str, str]) -> Ladder:
    within = {name: BlockSpace(shape, constants, f"within_{level}") for level, name in enumerate(groups)}
    rungs = {name: BlockSpace(shape, constants, f"rung_{level}") for level, name in enumerate(groups) if level}
    return Ladder(rungs, within, {name: groups[name] for name in rungs})


def spaces(blocks: Iterable[tuple[Tensor, Levels]], tolerance: float = _EXACT) -> dict[str, Tensor]:
    """The constants of a ladder's spaces.

    Args:
        blocks: per kind of block the places of its copies in the flat weight, ``(copies, entries)``, no place twice;
            and the groups' spaces of weights on such a block.
        tolerance: up to which a unit vector of one space must lie in the next.

    Raises:
        NotNested: a space that does not lie in the next one.
        SofteqValueError: a space of too many dimensions.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for places, levels in blocks:
        within = levels[0]
        found.setdefault("within_0", []).append((places, within))
        for level, wider in enumerate(levels[1:], start=1):
            if wider.numel() > _LARGEST_BASIS:
                raise SofteqValueError(
                    f"ladder: a rung's basis on one kind of block would have {wider.shape[0]} x {wider.shape[1]} "
                    f"entries, more than {_LARGEST_BASIS}: leave that group out (the residual has no basis), or use "
                    "smaller representations"
                )
            added = _complement(within, wider, level, tolerance)
            within = torch.cat([within, added])
            found.setdefault(f"rung_{level}", []).append((places, added))
            found.setdefault(f"within_{level}", []).append((places, within))
    constants: dict[str, Tensor] = {}
    for name, parts in found.items():
        constants |= {f"{name}.{key}": value for key, value in _constants(parts).items()}
    return constants


def _constants(parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of one space: the places that it touches, copies after copies, and the bases of its kinds of block."""
    places = [torch.zeros(0, dtype=torch.int64)]
    sizes: list[tuple[int, int, int]] = []
    found: dict[str, Tensor] = {}
    for where, basis in parts:
        touched = (basis != 0).any(0)
        if touched.any():
            found[f"basis_{len(sizes)}"] = basis[:, touched].contiguous()
            places.append(where[:, touched].flatten())
            sizes.append((len(where), int(touched.sum()), len(basis)))
    return {**found, "places": torch.cat(places), "sizes": torch.tensor(sizes, dtype=torch.int64).view(-1, 3)}


def _complement(within: Tensor, wider: Tensor, level: int, tolerance: float) -> Tensor:
    """An orthonormal basis ``(rank, entries)`` of what ``wider`` has beyond ``within``, both orthonormal rows."""
    outside = within - (within @ wider.T) @ wider
    if len(within) and float(outside.norm(dim=1).max()) > tolerance:
        raise NotNested(level)
    count = len(wider) - len(within)
    if not count:
        return wider.new_zeros(0, wider.shape[1])
    rest = wider - (wider @ within.T) @ within
    # Both are orthonormal and nested: the singular values are `count` ones, and zeros.
    span = torch.linalg.svd(rest, full_matrices=False)[2][:count]
    span = span - (span @ within.T) @ within
    basis = orthonormal_rows(span)  # the same on every machine: a checkpoint is in these coordinates
    return torch.where(basis.abs() < 1e-14, 0.0, basis)


def rung_names(ladder: Sequence[object], names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The names of a ladder's rungs, which are keys of ``pathways``; raises where they cannot be.

    Args:
        ladder: as the user gave it.
        names: of its groups.
        taken: the names that pathways have anyway.

    Raises:
        SofteqTypeError: no list.
        SofteqValueError: fewer than two groups, two of one name, or a name that cannot be a key.
    """
    if not isinstance(ladder, list | tuple):
        raise SofteqTypeError(f"ladder: expected a list of groups, the largest first, got {type(ladder).__name__}")
    if len(names) < 2:
        raise SofteqValueError(
            f"ladder: expected the layer's own group and at least one subgroup, got {list(names)}; without a ladder "
            "there is one constraint and none"
        )
    for name in names[1:]:
        if names.count(name) > 1 or name in taken or not name or "." in name or hasattr(nn.ModuleDict, name):
            raise SofteqValueError(
                f"ladder: expected groups of different names, without a dot, that are not among {tuple(taken)} nor "
                f"attributes of nn.ModuleDict, got {name!r} among {list(names)}"
            )
    return list(names[1:])
