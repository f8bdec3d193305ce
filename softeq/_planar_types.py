"""escnn's types in a form that pickles, hashes and is shared by copies; escnn's own objects hold closures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from escnn.group import Representation
    from escnn.gspaces import GSpace
    from escnn.nn import FieldType


class PlaneType:
    """An escnn ``FieldType`` over the plane. It never changes, so that copies share it.

    Args:
        gspace: a group and how it acts on the plane.
        representations: of its fields.
    """

    def __init__(self, gspace: GSpace, representations: Sequence[Representation]) -> None:
        self.gspace, self.representations = gspace, tuple(representations)
        self._type: FieldType | None = None

    @staticmethod
    def of(field_type: FieldType) -> PlaneType:
        """Of escnn's own."""
        return PlaneType(field_type.gspace, field_type.representations)

    @property
    def type(self) -> FieldType:
        """escnn's own."""
        if self._type is None:
            from escnn.nn import FieldType

            self._type = FieldType(self.gspace, list(self.representations))
        return self._type

    def __eq__(self, other: object) -> bool:
        own = (self.gspace, self.representations)
        return isinstance(other, PlaneType) and own == (other.gspace, other.representations)

    def __hash__(self) -> int:
        return hash((self.gspace, self.representations))

    def __deepcopy__(self, memo: dict[int, Any]) -> PlaneType:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        kinds = list(dict.fromkeys(self.representations))
        fields = [kinds.index(representation) for representation in self.representations]
        # The subgroup of O(2), which is all that a gspace on the plane is made from.
        return _built, (self.gspace._sg_id, [_parts(kind) for kind in kinds], fields)


def _parts(kind: Representation) -> tuple[Any, ...]:
    basis = torch.as_tensor(kind.change_of_basis, dtype=torch.float64).tolist()
    return kind.name, list(kind.irreps), basis, sorted(kind.supported_nonlinearities)


def _built(subgroup: Any, kinds: list[tuple[Any, ...]], fields: list[int]) -> PlaneType:
    import numpy as np
    from escnn.group import Representation
    from escnn.gspaces import GSpace2D

    gspace = GSpace2D(subgroup)
    group = gspace.fibergroup
    made = []
    for name, irreps, basis, nonlinearities in kinds:
        for irrep in irreps:
            group.irrep(*irrep)  # enters it among the group's representations
        known = group.representations.get(name)
        same = known is not None and known.irreps == irreps and np.allclose(known.change_of_basis, basis)
        made.append(known if same else Representation(group, name, irreps, np.array(basis), nonlinearities))
    return PlaneType(gspace, [made[field] for field in fields])
