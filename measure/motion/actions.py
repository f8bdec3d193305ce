"""How an output, or a feature inside a network, moves when the input does: declared, or inferred where that is safe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.irreps import as_irreps
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.colour import ColourFlow
from softeq.measure.motion.fields import FibreFlow, TokenFlow, check_field, fibre_generator
from softeq.measure.motion.flows import AffineFlow, Flow
from softeq.measure.motion.spaces import IrrepsFlow, PointFlow, RepFlow, ZeroFlow, check_rep
from softeq.reps import Rep

Shape = Sequence[int]


class Action(ABC):
    """From the input's flow to the output's.

    Attributes:
        name: in words, for reports and records.
    """

    name: str

    @abstractmethod
    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The flow of the output, batch axes included in both shapes.

        Raises:
            NotMeasurable: an output of that shape does not move so, or not under that flow; the message says why.
        """

    def select(self, output: Any) -> Tensor:
        """The tensor that moves, out of what the function returned.

        Raises:
            NotMeasurable: what it returned is no tensor.
        """
        if not isinstance(output, Tensor):
            raise NotMeasurable(
                f"output: expected a tensor, got {type(output).__name__}; pick an entry with Pick(entry, action), "
                "entry an index, a key or the name of an attribute"
            )
        return output

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"


class Invariant(Action):
    """The output should not move."""

    name = "invariant"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """No motion."""
        return ZeroFlow(flow_in.name, flow_in.unit)


class ImageMap(Action):
    """The output is a map that moves with the image: ``(B, C, H', W')``, of the input's or any other resolution.

    A map covers the image's frame: what is at p from the image's centre is at ``D p`` from the map's, with
    ``D = diag(W'/W, H'/H)``, so the matrix is conjugated by D and the shift multiplied.

    Args:
        channels_last: the map is ``(B, H', W', C)``.
        field: an escnn ``FieldType``; its fibre turns too. Continuous groups; discrete ones under translations alone.
    """

    def __init__(self, channels_last: bool = False, field: Any = None) -> None:
        self.channels_last, self.field = channels_last, None if field is None else check_field(field)
        self.name = "map (B, H, W, C)" if channels_last else "map (B, C, H, W)"
        if field is not None:
            self.name += f" with fibres of {field.gspace.name}"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The input's flow in the map's pixels, with the fibre's part where one is declared; colours move no map."""
        if isinstance(flow_in, ColourFlow):
            return ZeroFlow(flow_in.name, flow_in.unit)
        image = flow_in.base if isinstance(flow_in, FibreFlow) else flow_in
        if not isinstance(image, AffineFlow):
            raise NotMeasurable(f"output: a map moves under the flows of images, and {flow_in.name} is none")
        height, width = _spatial("input", input_shape, image.channels_last)
        rows, columns = _spatial("output", output_shape, self.channels_last)
        zoom = torch.tensor([columns / width, rows / height], dtype=torch.float64)
        moved = image.with_(
            matrix=zoom[:, None] * image.matrix / zoom,
            shift=zoom * image.shift,
            margin=int(image.margin * float(zoom.min())),  # pixels of the map that lie wholly in the image's margin
            channels_last=self.channels_last,
        )
        if self.field is None:
            return moved
        channels = output_shape[-1 if self.channels_last else 1]
        _expect(channels == self.field.size, output_shape, f"{self.field.size} channels, as the field type has")
        return FibreFlow(moved, fibre_generator(self.field, image.matrix))


class Tokens(Action):
    """The output is a sequence of tokens ``(B, prefix + h * w, C)``: a map row by row, after some that do not move.

    Args:
        grid: (h, w).
        prefix: how many class and register tokens stand in front.
    """

    def __init__(self, grid: tuple[int, int], prefix: int = 0) -> None:
        counts = (*grid, prefix) if isinstance(grid, tuple | list) else ()
        if len(counts) != 3 or not all(type(n) is int for n in counts) or min(counts[:2]) < 1 or prefix < 0:
            raise SofteqValueError(f"grid, prefix: expected whole numbers (h, w) and >= 0, got {grid!r} and {prefix!r}")
        self.grid, self.prefix = (int(grid[0]), int(grid[1])), prefix
        self.name = f"tokens, {grid[0]} x {grid[1]} after {prefix}"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The map's flow on the tokens of the grid."""
        (h, w), n = self.grid, self.prefix + self.grid[0] * self.grid[1]
        _expect(len(output_shape) == 3 and output_shape[1] == n, output_shape, f"(B, {self.prefix} + {h} * {w}, C)")
        as_map = (output_shape[0], h, w, output_shape[2])
        return TokenFlow(ImageMap(channels_last=True).flow(flow_in, input_shape, as_map), self.grid, self.prefix)


class UnderRep(Action):
    """The last axis moves under a softeq representation of the group that moves the input.

    Under an image's flow the defining space is (column, row).
    """

    def __init__(self, rep: Rep) -> None:
        self.rep = check_rep(rep)
        self.name = f"under {rep!r}"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The input's element of the Lie algebra, on the output."""
        _expect(output_shape[-1:] == (self.rep.size,), output_shape, f"(B, ..., {self.rep.size}) for {self.rep!r}")
        group = self.rep.bound_group
        if isinstance(flow_in, RepFlow) and flow_in.rep.bound_group != group:
            raise NotMeasurable(f"output: declared under {group}, and the input moves under {flow_in.rep.group}")
        return RepFlow(self.rep, _element(flow_in, group.d), name=flow_in.name, unit=flow_in.unit)


class UnderIrreps(Action):
    """The last axis moves under e3nn irreps, e.g. ``"1x0e + 2x1o"``, when the input turns in space."""

    def __init__(self, irreps: Any) -> None:
        self.irreps = as_irreps(irreps, "irreps")
        self.name = f"under {self.irreps}"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The same rotation, on the output."""
        n = self.irreps.dim
        _expect(output_shape[-1:] == (n,), output_shape, f"(B, ..., {n}) for {self.irreps}")
        return IrrepsFlow(self.irreps, _element(flow_in, 3), name=flow_in.name, unit=flow_in.unit)


class Points(Action):
    """The output is places ``(B, ..., d)`` in the input's space, which feel translations too.

    Under an image's flow: (column, row) in pixels from the image's centre.
    """

    name = "points"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The input's motion of places."""
        base = flow_in.base if isinstance(flow_in, FibreFlow) else flow_in
        if not isinstance(base, PointFlow | AffineFlow):
            raise NotMeasurable(f"output: places move under flows of points and images, and {flow_in.name} is none")
        return _carried(base, base.shift, output_shape)


class Vectors(Action):
    """The last axis is a vector that turns with the input and feels no translation: forces, velocities."""

    name = "vectors"

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The linear part of the input's motion."""
        return _carried(flow_in, None, output_shape)


class Pick(Action):
    """One entry of what the function returns, under an action of its own; nest them to go deeper.

    Args:
        entry: an index of a tuple or list, a key of a mapping, or the name of an attribute.
        action: how that entry moves.
    """

    def __init__(self, entry: int | str, action: Action) -> None:
        if not isinstance(action, Action):
            raise SofteqTypeError(f"action: expected an Action, e.g. Invariant(), got {type(action).__name__}")
        self.entry, self.action = entry, action
        self.name = f"entry {entry!r}, {action.name}"

    def select(self, output: Any) -> Tensor:
        """The entry.

        Raises:
            NotMeasurable: there is none, or it is no tensor.
        """
        by_name = isinstance(self.entry, str) and not isinstance(output, Mapping)
        try:
            found = getattr(output, str(self.entry)) if by_name else output[self.entry]
        except (LookupError, AttributeError, TypeError) as error:
            has = f" with keys {list(output)}" if isinstance(output, Mapping) else ""
            raise NotMeasurable(f"output: no entry {self.entry!r} in a {type(output).__name__}{has}") from error
        return self.action.select(found)

    def flow(self, flow_in: Flow, input_shape: Shape, output_shape: Shape) -> Flow:
        """The entry's flow."""
        return self.action.flow(flow_in, input_shape, output_shape)


def _expect(condition: bool, shape: Shape, expected: str) -> None:
    if not condition:
        raise NotMeasurable(f"output: expected {expected}, got shape {tuple(shape)}")


def _spatial(what: str, shape: Shape, channels_last: bool) -> tuple[int, int]:
    if len(shape) != 4:
        raise NotMeasurable(f"{what}: expected a map with four axes, got shape {tuple(shape)}")
    return (shape[1], shape[2]) if channels_last else (shape[2], shape[3])


def _element(flow_in: Flow, d: int) -> Tensor:
    """The flow's element of the Lie algebra, ``(d, d)``."""
    if flow_in.matrix is None or flow_in.matrix.shape != (d, d):
        got = "none" if flow_in.matrix is None else f"one of shape {tuple(flow_in.matrix.shape)}"
        raise NotMeasurable(f"output: expected an input flow with a {d} x {d} matrix; {flow_in.name} has {got}")
    return flow_in.matrix


def _carried(flow_in: Flow, shift: Tensor | None, output_shape: Shape) -> PointFlow:
    if flow_in.matrix is None:
        raise NotMeasurable(f"output: vectors turn under a flow with a matrix; {flow_in.name} has none")
    d = len(flow_in.matrix)
    _expect(len(output_shape) >= 2 and output_shape[-1] == d, output_shape, f"(B, ..., {d}) under {flow_in.name}")
    return PointFlow(flow_in.matrix, shift, name=flow_in.name, unit=flow_in.unit)
