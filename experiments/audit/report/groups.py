"""Audit records, what they hold, and which of them may stand in one table; as lines of CSV.

A record is a mapping with ``experiment`` ``"audit"``, ``config``, ``metrics`` and ``provenance``, one for each model
and flow. ``config`` has the keys of `PER_MODEL`, ``flow``, and whatever else the audit depends on: norm, output space,
stencil, boundary, margin, dtype, seed, limit, the images and their hash. Records are put in one table only when
everything in ``config`` but the model's own part is equal.

``metrics`` has either ``not_measurable``, the reason, or

- ``unit``, ``lee_mean``, ``lee_median``, ``lee_quantiles``, ``lee_interval``, ``control_mean``, and the median over
  images of LEE over control, ``ratio_to_control``, with its ``ratio_interval``, all in the configuration's norm;
  ``control``, the kind of it (of colours another than the configuration's);
  ``other_norms``, ``missing`` (images without a value), ``per_sample`` and ``control_per_sample``;
- ``relative_per_sample``; ``top_slope_per_sample``, |d/dt| of the most probable class's probability (empty where there
  are no classes); ``curve``: None, or ``unit``, ``images`` and ``rows`` with ``step``, ``relative``, ``centred``,
  ``change``, ``loss_share``, their intervals, the first two image by image, ``kept`` (decisions that stand), and
  ``compared`` (see `experiments.audit.curve`), or ``not_measurable``;
- ``decibels``: None, or for each of ``EQ-T``, ``EQ-T_frac``, ``EQ-R`` that goes with the flow ``value``, ``interval``
  (decibels), ``peak`` and ``error`` (see `experiments.audit.decibels`), or ``not_measurable``;
- ``choices``: what was chosen for the user, in words;
- ``accuracy`` (None without labels) on ``labelled`` images, ``parameters``, ``skipped`` (pairs of file and reason);
- ``stencils``: for each stencil its ``lee_mean`` on the first ``stencil_images`` images, or ``not_measurable``;
- ``directions``: ``most`` and ``least`` equivariant affine direction, each with its ``text``, or ``not_measurable``;
- ``layerwise``: None, or ``shares`` (pairs of module and signed share), ``intervals`` (of each share, over images),
  ``gap``, ``not_attributable`` (pairs of module and reason), or ``not_measurable``; the configuration's ``layerwise``
  is the number of images it is from;
- ``map``: ``height``, ``width``, ``mean`` and ``first`` (base64 of height x width bytes, 255 the largest),
  ``mean_peak``, ``first_peak``; or ``not_measurable``; ``image``: base64 of a JPEG of the first image.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softeq.errors import SofteqError, SofteqWarning
from softeq.experiments.audit.report.checked import checked
from softeq.measure.motion.flows import FLOWS

EXPERIMENT = "audit"

PER_MODEL = (
    "model",
    "weights",
    "weights_hash",
    "image_size",
    "mean",
    "std",
    "interpolation",
    "crop",
    "images_hash",
    "classes",
)
"""The keys of a configuration that belong to the model: they may differ within one table."""

AuditRecord = Mapping[str, Any]

_STATISTICS = (
    "lee_mean",
    "lee_interval",
    "lee_median",
    "lee_quantiles",
    "control_mean",
    "ratio_to_control",
    "ratio_interval",
    "other_norms",
    "missing",
    "unit",
    "accuracy",
    "parameters",
    "curve",
    "decibels",
    "choices",
    "stencils",
    "directions",
    "not_measurable",
)


@dataclass(frozen=True)
class Group:
    """Records that may stand in one table: ``settings`` is what they share, ``models`` maps label -> flow -> record."""

    settings: Mapping[str, Any]
    models: Mapping[str, Mapping[str, AuditRecord]] = field(default_factory=dict)

    @property
    def flows(self) -> list[str]:
        """The flows that any of the models has a record of, in the order of the records."""
        return list(dict.fromkeys(flow for records in self.models.values() for flow in records))


def group_records(records: Sequence[AuditRecord]) -> list[Group]:
    """Records by configuration, in the order in which the configurations first appear.

    Of two records with the same configuration the later counts; whether it was also measured layer by layer makes no
    difference. Two versions of one model, with other weights or other preprocessing, get labels that tell them apart.

    Raises:
        SofteqError: when a record lacks its model or flow.
    """
    groups: dict[str, dict[str, dict[str, AuditRecord]]] = {}
    for raw in records:
        if raw.get("experiment") != EXPERIMENT:
            continue
        record, wrong = checked(raw)
        config = record["config"]
        if absent := [key for key in ("model", "flow") if not isinstance(config.get(key), str)]:
            raise SofteqError(
                f"an audit record has no text as {absent[0]!r} in its configuration; expected model and flow"
            )
        if wrong:
            warnings.warn(
                f"the record of {config['model']}/{config['flow']} has entries of another type than expected, which"
                f" are left out: {', '.join(wrong)}",
                SofteqWarning,
                stacklevel=2,
            )
        own = _key({key: config[key] for key in PER_MODEL if key in config})
        groups.setdefault(_key(_shared(config)), {}).setdefault(own, {})[config["flow"]] = record
    return [Group(json.loads(key), _labelled(models)) for key, models in groups.items()]


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in (*PER_MODEL, "flow", "layerwise")}


def _ordered(flows: Mapping[str, AuditRecord]) -> dict[str, AuditRecord]:
    """In the order of FLOWS: a resumed audit appends in another."""
    known = [name for name in FLOWS if name in flows]
    return {name: flows[name] for name in [*known, *(name for name in flows if name not in FLOWS)]}


def _key(part: Mapping[str, Any]) -> str:
    return json.dumps(part, sort_keys=True, default=str)


def _labelled(models: Mapping[str, Mapping[str, AuditRecord]]) -> dict[str, Mapping[str, AuditRecord]]:
    """The models' flows under labels: the name, and where two share it what they differ in."""
    owns = [json.loads(key) for key in models]
    labels = []
    for own in owns:
        twins = [other for other in owns if other["model"] == own["model"]]
        differ = [key for key in own if any(other.get(key) != own[key] for other in twins)]
        differ = [key for key in differ if key != "weights_hash"] + [key for key in differ if key == "weights_hash"]
        detail = ", ".join(f"{key.replace('_', ' ')} {_short(own[key])}" for key in differ)
        labels.append(f"{own['model']} ({detail})" if differ else str(own["model"]))
    return dict(zip(labels, map(_ordered, models.values()), strict=True))


def _short(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def csv_text(records: Sequence[AuditRecord]) -> str:
    """One line for each record, later ones in place of earlier ones with the same configuration.

    Columns: the configuration, then the statistics; what is no number or text is written as JSON.
    """
    groups = group_records(records)
    chosen = [record for g in groups for flows in g.models.values() for record in flows.values()]
    keys = list(dict.fromkeys(key for record in chosen for key in record["config"]))
    first = [key for key in ("model", "flow") if key in keys]
    columns = first + [key for key in keys if key not in first]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, *_STATISTICS, "softeq", "commit", "device", "utc"])
    for record in chosen:
        told = [record["provenance"].get(key) for key in ("softeq", "commit", "device", "utc")]
        cells = [record["config"].get(k) for k in columns] + [record["metrics"].get(k) for k in _STATISTICS] + told
        writer.writerow([_cell(value) for value in cells])
    return file.getvalue()


_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula; an apostrophe before it makes it text again."""


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in _FORMULAS:
        return f"'{value}"
    return json.dumps(value, sort_keys=True) if isinstance(value, (bool, list, tuple, dict)) else value
