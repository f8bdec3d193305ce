"""summary: what each soft layer of a network is, holds, and costs under a prior, as a table."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from softeq._param_groups import PROJECTED
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import RESIDUAL, MergedLayer, SoftLayer, soft_layers
from softeq.prior import Prior

if TYPE_CHECKING:
    from rich.table import Table

_SPACES = (("rep_in", "rep_out"), ("irreps_in", "irreps_out"), ("in_type", "out_type"), ("in_channels", "out_channels"))
_HEADER = ("layer", "maps", "pathway", "parameters", "rank", "defect", "precision", "nats", "effective")
_TEXT_COLUMNS = 3
_NOTHING = "–"


class Counting(Protocol):
    """What of a rule of ``softeq.strength`` is read."""

    @property
    def prior(self) -> Prior:
        """In force."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """Rows with ``layer``, ``pathway`` and perhaps ``effective``, a number of parameters; the last one counts."""


@dataclass(frozen=True)
class PathwaySummary:
    """One pathway of one soft layer.

    Attributes:
        layer: the layer's name in ``model.named_modules()``.
        kind: its class.
        maps: from what to what: representations, irreps, field types or channels.
        pathway: ``"equivariant"``, a rung's name, ``"residual"``; or ``"projected"`` for a free weight that is both.
        parameters: how many numbers are stored.
        rank: how many of them are independent; fewer where a weight is stored whole and projected when it is used.
        defect: of the layer's merged weight from its constraint, on the first of its lines, and from a rung's group on
            the rung's; else ``None``.
        precision: of the prior; ``None`` without a prior, a text for the projected form, which has two.
        nats: ``1/2 precision ||w - m||^2``; ``None`` without a prior.
        effective: how many parameters the data determine; ``None`` unless a rule has counted them.
    """

    layer: str
    kind: str
    maps: str
    pathway: str
    parameters: int
    rank: int
    defect: float | None
    precision: float | str | None
    nats: float | None
    effective: float | None


@dataclass(frozen=True)
class Summary:
    """What `summary` returns: print it, show it in a notebook, or read its rows.

    Attributes:
        rows: a pathway each, in the order of the network.
        other: how many parameters there are outside soft layers.
    """

    rows: tuple[PathwaySummary, ...]
    other: int

    @property
    def parameters(self) -> int:
        """Numbers stored, outside soft layers too."""
        return sum(row.parameters for row in self.rows) + self.other

    @property
    def nats(self) -> float | None:
        """What `prior_penalty` gives; ``None`` without a prior."""
        known = [row.nats for row in self.rows if row.nats is not None]
        return sum(known) if known else None

    @property
    def effective(self) -> float | None:
        """The sum over the pathways that a rule has counted, ``None`` if there is none."""
        known = [row.effective for row in self.rows if row.effective is not None]
        return sum(known) if known else None

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text: the header, the rows, the totals; columns that are empty throughout are left out."""
        table = [_HEADER, *self._body(), self._totals()]
        used = [i for i in range(len(_HEADER)) if any(row[i] not in ("", _NOTHING) for row in table[1:])]
        return [tuple(row[i] for i in used) for row in table]

    def _body(self) -> Iterator[tuple[str, ...]]:
        before = None
        for row in self.rows:
            first = row.layer != before
            before = row.layer
            name = f"{row.layer or '(model)'}: {row.kind}" if first else ""
            numbers = (f"{row.parameters:,}", f"{row.rank:,}", _number(row.defect, ".2e"))
            cost = (_number(row.precision, ".3g"), _number(row.nats, ".4g"), _number(row.effective, ".1f"))
            yield (name, row.maps if first else "", row.pathway, *numbers, *cost)

    def _totals(self) -> tuple[str, ...]:
        outside = f"{self.other:,} outside soft layers" if self.other else ""
        numbers = f"{self.parameters:,}", "", "", "", _number(self.nats, ".4g"), _number(self.effective, ".1f")
        return ("total", outside, "", *numbers)

    def __str__(self) -> str:
        """Through rich where it is installed, else aligned plain text."""
        try:
            from rich.console import Console
        except ImportError:
            return _plain(self.cells())
        out = StringIO()
        Console(file=out, width=_width(self.cells()), color_system=None).print(self.__rich__())
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def __rich__(self) -> Table:
        """For ``rich.print``."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        header, *body, totals = self.cells()
        table = Table(box=box.SIMPLE_HEAD)
        for name in header:
            table.add_column(name, justify="left" if name in _HEADER[:_TEXT_COLUMNS] else "right", overflow="fold")
        for row in body:  # as Text: a name in brackets is no markup
            table.add_row(*map(Text, row))
        table.add_section()
        table.add_row(*map(Text, totals))
        return table

    def _repr_html_(self) -> str:
        header, *body = self.cells()
        left = {i for i, name in enumerate(header) if name in _HEADER[:_TEXT_COLUMNS]}

        def line(row: Sequence[str], tag: str) -> str:
            aligned = ("left" if i in left else "right" for i in range(len(row)))
            columns = (
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for side, cell in zip(aligned, row, strict=True)
            )
            return f"<tr>{''.join(columns)}</tr>"

        head, rows = line(header, "th"), "".join(line(row, "td") for row in body)
        return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


@torch.no_grad()
def summary(model: nn.Module, prior: Prior | None = None, rule: Counting | None = None) -> Summary:
    """A table of the soft layers of a network, a line per pathway; ``print(softeq.summary(model, prior))``.

    Args:
        model: with soft layers.
        prior: adds precisions and nats.
        rule: a rule of ``softeq.strength`` for this model: its prior where none is given, and the effective numbers of
            parameters where it counts them.

    Raises:
        SofteqTypeError: ``model`` is no module, ``prior`` no `Prior`, ``rule`` no rule.
        SofteqValueError: no soft layer in the model, or an override of the prior that names none.
    """
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if rule is not None and not (hasattr(rule, "prior") and hasattr(rule, "history")):
        raise SofteqTypeError(f"rule: expected a rule of softeq.strength, got {type(rule).__name__}")
    if prior is None and rule is not None:
        prior = rule.prior
    if prior is not None and not isinstance(prior, Prior):
        raise SofteqTypeError(f"prior: expected a Prior, e.g. Prior(residual=10.0), got {type(prior).__name__}")
    layers = dict(soft_layers(model))
    if not layers:
        raise SofteqValueError(f"summary: {type(model).__name__} has no soft layer")
    if prior is not None:
        prior.check_names(layers)
    counted = _effective(rule)
    seen: set[int] = set()
    rows: list[PathwaySummary] = []
    for name, layer in layers.items():
        rows += _rows(name, layer, prior, seen, counted)
    inside = {id(p) for layer in layers.values() for p in layer.parameters()}
    return Summary(tuple(rows), sum(p.numel() for p in model.parameters() if id(p) not in inside))


def _rows(
    name: str, layer: SoftLayer, prior: Prior | None, seen: set[int], counted: dict[tuple[str, str], float]
) -> Iterator[PathwaySummary]:
    defects: dict[str, float] = {}
    if isinstance(layer, MergedLayer):
        defects = {next(iter(layer.pathways), PROJECTED): layer.weight_defect(), **layer.rung_defects()}
    precisions = None if prior is None else prior.of(name, layer.pathways)
    labels = {"layer": name, "kind": type(layer).__name__, "maps": _maps(layer)}
    for pathway, module in (layer.pathways or {PROJECTED: layer}).items():
        own = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        count = sum(own.values())
        yield PathwaySummary(
            **labels,
            pathway=pathway,
            parameters=count,
            rank=min(count, _rank(layer, pathway, module)),
            defect=defects.get(pathway),
            precision=None if precisions is None else _precision(pathway, precisions),
            nats=None if precisions is None else _nats(layer, pathway, precisions, seen),
            effective=counted.get((name, RESIDUAL if pathway == PROJECTED else pathway)),
        )
        seen.update(own)


def _precision(pathway: str, precisions: dict[str, float]) -> float | str:
    return precisions[pathway] if pathway != PROJECTED else ", ".join(f"{p:.3g}" for p in precisions.values())


def _nats(layer: SoftLayer, pathway: str, precisions: dict[str, float], seen: set[int]) -> float:
    alone = {name: precision if pathway in (name, PROJECTED) else 0.0 for name, precision in precisions.items()}
    return float(layer.penalty(alone, set(seen)))


def _rank(layer: SoftLayer, pathway: str, module: nn.Module) -> int:
    """Independent numbers among a pathway's parameters."""
    spanned = ((layer.spanned(pathway, name), p.numel()) for name, p in module.named_parameters())
    return sum(count if found is None else found.rank for found, count in spanned)


def _maps(layer: nn.Module) -> str:
    """What the layer maps to what, by the names that softeq's layers, and a user's that follow them, give it."""
    for before, after in _SPACES:
        if hasattr(layer, before) and hasattr(layer, after):
            return f"{_space(getattr(layer, before))} -> {_space(getattr(layer, after))}"
    return next((_space(getattr(layer, name)) for name in ("rep", "irreps_out", "dim") if hasattr(layer, name)), "")


def _space(value: Any) -> str:
    representations = getattr(value, "representations", None)
    if representations is None:
        return str(value)
    names = [rep.name for rep in representations]
    terms = (f"{names.count(name)}*{name}" if names.count(name) > 1 else name for name in dict.fromkeys(names))
    return f"({' + '.join(terms)})({value.gspace.fibergroup.name})"


def _effective(rule: Counting | None) -> dict[tuple[str, str], float]:
    """The last effective number of parameters in a rule's history, per layer and pathway."""
    history = [] if rule is None else rule.history
    return {(row["layer"], row["pathway"]): row["effective"] for row in history if row.get("effective") is not None}


def _number(value: float | str | None, form: str) -> str:
    return _NOTHING if value is None else value if isinstance(value, str) else format(value, form)


def _widths(cells: list[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _width(cells: list[tuple[str, ...]]) -> int:
    """Of the table as rich draws it: nothing is folded."""
    return sum(_widths(cells)) + 2 * len(cells[0]) + len(cells[0]) + 1


def _plain(cells: list[tuple[str, ...]]) -> str:
    widths = _widths(cells)
    left = {i for i, name in enumerate(cells[0]) if name in _HEADER[:_TEXT_COLUMNS]}

    def line(row: tuple[str, ...]) -> str:
        padded = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    header, *body, totals = cells
    return "\n".join([line(header), rule, *map(line, body), rule, line(totals)])
