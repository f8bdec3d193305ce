"""escnn's types in a form that pickles, hashes and is shared by copies; escnn's own objects hold closures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from softeq.errors import SofteqValueError

if TYPE_CHECKING:
    from escnn.group import Representation
    from escnn.gspaces import GSpace
    from escnn.nn import FieldType


class GridType:
    """An escnn ``FieldType`` over the plane or space. It never changes, so that copies share it.

    Args:
        gspace: a group and how it acts on the plane or on space.
        representations: of its fields.
    """

    def __init__(self, gspace: GSpace, representations: Sequence[Representation]) -> None:
        self.gspace, self.representations = gspace, tuple(representations)
        self._type: FieldType | None = None

    @staticmethod
    def of(field_type: FieldType) -> GridType:
        """Of escnn's own."""
        return GridType(field_type.gspace, field_type.representations)

    @property
    def type(self) -> FieldType:
        """escnn's own."""
        if self._type is None:
            from escnn.nn import FieldType

            self._type = FieldType(self.gspace, list(self.representations))
        return self._type

    def __eq__(self, other: object) -> bool:
        own = (self.gspace, self.representations)
        return isinstance(other, GridType) and own == (other.gspace, other.representations)

    def __hash__(self) -> int:
        # Not the gspace's own hash, which depends on how it was named when it was made.
        return hash((self.gspace.dimensionality, self.gspace.fibergroup.name, self.representations))

    def __deepcopy__(self, memo: dict[int, Any]) -> GridType:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        kinds = list(dict.fromkeys(self.representations))
        fields = [kinds.index(representation) for representation in self.representations]
        where = self.gspace.dimensionality, [_described(part) for part in subgroup_id(self.gspace)]
        return _built, (where, [_parts(kind) for kind in kinds], fields)


def fields_of_one_group(fields: Sequence[Representation], groups: int, name: str) -> list[Representation]:
    """The fields of the first group of channels; raises unless those of the others are the same."""
    count = len(fields) // groups
    first = list(fields[:count])
    if first * groups != list(fields):
        raise SofteqValueError(f"{name}: expected {groups} times the same fields for groups={groups}, got {fields}")
    return first


def subgroup_id(gspace: GSpace) -> tuple[Any, ...]:
    """The subgroup of O(2) or O(3) that a gspace on the plane or on space is made from, as escnn names it.

    escnn keeps it to itself. What it makes public (the orders, the action on the plane) gives an axis back to rounding
    alone, and gspaces are equal where their names are, to the last digit.
    """
    found: tuple[Any, ...] = gspace._sg_id
    return found


def _described(part: Any) -> Any:
    """A part of a subgroup's name; an element of O(3), which says how the subgroup is tilted, by its matrix."""
    from escnn.group import GroupElement

    if not isinstance(part, GroupElement):
        return part
    flip, rotation = part.to("MAT")
    return {"flip": int(flip), "rotation": [[float(x) for x in row] for row in rotation]}


def _parts(kind: Representation) -> tuple[Any, ...]:
    basis = torch.as_tensor(kind.change_of_basis, dtype=torch.float64).tolist()
    return kind.name, list(kind.irreps), basis, sorted(kind.supported_nonlinearities)


def _space(dimensionality: int, parts: list[Any]) -> GSpace:
    import numpy as np
    from escnn.group import o3_group
    from escnn.gspaces import GSpace2D, GSpace3D

    if dimensionality == 2:
        return GSpace2D(tuple(parts))
    tilt = [o3_group().element((p["flip"], np.array(p["rotation"])), "MAT") for p in parts if isinstance(p, dict)]
    return GSpace3D((*(p for p in parts if not isinstance(p, dict)), *tilt))


def _built(where: tuple[int, list[Any]], kinds: list[tuple[Any, ...]], fields: list[int]) -> GridType:
    import numpy as np
    from escnn.group import Representation

    gspace = _space(*where)
    group = gspace.fibergroup
    made = []
    for name, irreps, basis, nonlinearities in kinds:
        for irrep in irreps:
            group.irrep(*irrep)  # enters it among the group's representations
        known = group.representations.get(name)
        same = known is not None and known.irreps == irreps and np.allclose(known.change_of_basis, basis)
        made.append(known if same else Representation(group, name, irreps, np.array(basis), nonlinearities))
    return GridType(gspace, [made[field] for field in fields])
