"""Everything that an audit records of one model: LEE and its control, accuracy, maps, stencils, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.experiments.audit.batches import Batches, Meter
from softeq.experiments.audit.curve import CURVES, curve, displacements
from softeq.experiments.audit.decibels import DRAWS, KINDS, decibels, refusal
from softeq.experiments.audit.flows import flow_of
from softeq.experiments.audit.metrics import directions, numbers, split, thumbnail, tile
from softeq.experiments.audit.picked import Logarithm, declared, innermost
from softeq.experiments.audit.settings import Settings
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.layerwise import layerwise
from softeq.measure.lee import local_equivariance_error
from softeq.measure.loading.images import Images, accuracy
from softeq.measure.loading.sources import Model
from softeq.measure.motion.actions import Action
from softeq.measure.motion.colour import COLOURS
from softeq.measure.motion.flows import Flow
from softeq.measure.motion.stencils import STENCILS
from softeq.measure.output import output_space
from softeq.measure.results.layers import LayerwiseResult
from softeq.measure.results.result import LeeResult

_LEE, _MAP, _LAYERS = 11.0, 3.0, 15.0  # forward passes' worth of time per image, for the estimate of what is left


@dataclass(frozen=True)
class Audit:
    """One model with its images on the device; methods give parts of the metrics."""

    model: Model
    images: Images
    settings: Settings
    output: str | Action
    batches: Batches
    meter: Meter

    def flows(self, names: Sequence[str]) -> list[Flow]:
        """The flows of those names."""
        own = self.settings
        return [flow_of(n, self.model, stencil=own.stencil, boundary=own.boundary, margin=own.margin) for n in names]

    def lee(self, flows: Sequence[str], stencil: str, x: Tensor, *, control: bool) -> LeeResult:
        """The local equivariance error of some images."""

        def measure(size: int, chunk: int | None) -> LeeResult:
            passes = 1 if chunk is None else -(-10 // chunk)
            with self.meter.watching(self.model.module, _LEE / passes):
                return local_equivariance_error(
                    self.model.module,
                    x,
                    self.flows(flows),
                    output=self.output,
                    norm=self.settings.norm,
                    stencil=stencil,
                    boundary=self.settings.boundary,
                    margin=self.settings.margin,
                    control=control and (True if self.settings.control == "auto" else self.settings.control),
                    labels=self.images.labels if control else None,
                    seed=self.settings.seed,
                    batch_size=size,
                    chunk=chunk,
                )

        return self.batches.run(measure)

    def stencils(self, flows: Sequence[str], whole: LeeResult) -> dict[str, dict[str, Any]]:
        """Flow -> stencil -> mean LEE on the first few images, or why there is none; nothing of colours."""
        count = self.settings.stencil_images
        moving = [flow for flow in flows if flow not in COLOURS]
        found: dict[str, dict[str, Any]] = {flow: {} for flow in flows}
        for stencil in STENCILS if moving else ():
            declared = stencil == self.settings.stencil
            try:
                result = whole if declared else self.lee(moving, stencil, self.images.x[:count], control=False)
                means = dict(zip(result.flows, result.per_sample()[:count].nanmean(0).tolist(), strict=True))
                entries: list[dict[str, Any]] = [{"lee_mean": means[flow]} for flow in moving]
            except NotMeasurable as error:
                entries = [{"not_measurable": str(error)} for _ in moving]
            for flow, entry in zip(moving, entries, strict=True):
                found[flow][stencil] = entry | ({"declared": True} if declared else {})
        return found

    def layers(self, flows: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Flow -> signed shares of the modules in its derivative, or why there are none. All flows share a pass."""

        def measure(size: int, chunk: int | None) -> LayerwiseResult:
            with self.meter.watching(self.model.module, len(flows) * _LAYERS / 2):
                return layerwise(
                    self.model.module,
                    self.images.x[: self.settings.layerwise_images],
                    self.flows(flows),
                    output=self.output,
                    stencil=self.settings.stencil,
                    boundary=self.settings.boundary,
                    margin=self.settings.margin,
                    prefix=self.model.prefix_tokens,
                    batch_size=size,
                    chunk=chunk,
                )

        try:
            result = self.batches.run(measure)
        except NotMeasurable as error:
            if len(flows) == 1:
                return {flows[0]: {"not_measurable": str(error)}}
            return {flow: found for one in flows for flow, found in self.layers([one]).items()}
        _, inside = innermost(self.model.module)
        around = "the logarithm of its output" if isinstance(self.model.module, Logarithm) else "the model"
        return {flow: split(result, flow, inside, self.settings.seed, around) for flow in flows}

    def maps(self, flows: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Flow -> map of where moving the image changes the largest output, or why there is none.

        Per pixel |sum over colours of tangent * d(largest output)/d(image)|: the first image's, and the mean.
        """
        chosen = self.flows(flows)

        def measure(size: int, chunk: int | None) -> tuple[Tensor, Tensor]:
            firsts, sums = [], []
            for part in self.images.x.split(size):
                gradient = self._gradient(part)
                fields = torch.stack([(flow.tangent(part) * gradient).sum(1).abs() for flow in chosen])
                firsts.append(fields[:, 0].double().cpu())
                sums.append(fields.sum(1, dtype=torch.float64).cpu())
            return torch.stack(sums).sum(0) / len(self.images.x), firsts[0]

        try:
            mean, first = self.batches.run(measure)
        except (NotMeasurable, RuntimeError) as error:  # a model may have a forward mode and no backward
            return {f: {"not_measurable": f"no gradient by the backward pass: {error}"} for f in flows}
        return {f: tile(mean[k], first[k]) for k, f in enumerate(flows)}

    def _gradient(self, x: Tensor) -> Tensor:
        """Of the largest output, shaped like x."""
        module = output_space(self.output).on(self.model.module)
        with measurable(module), self.meter.watching(self.model.module, _MAP), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            return torch.autograd.grad(module(leaf).amax(1).sum(), leaf)[0]

    @property
    def classes(self) -> bool:
        """Whether the output is of classes, so that there are decisions."""
        return self.model.classes is not None and self.settings.output in ("probabilities", "logits")

    def curves(self, flows: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Flow -> what whole displacements do, or why that is not known; see `curve`."""
        own, found = self.settings, {}
        for flow in flows:
            moves = flow_of(flow, self.model, stencil=own.stencil, boundary=own.boundary)  # a margin tears images apart

            def measure(size: int, chunk: int | None, moves: Flow = moves) -> dict[str, Any]:
                with self.meter.watching(self.model.module, 1.0):
                    return curve(
                        self.model.module,
                        self.images.x,
                        moves,
                        self.output,
                        classes=self.classes,
                        labels=self.images.labels if self.classes else None,
                        batch_size=size,
                        seed=own.seed,
                    )

            try:
                found[flow] = self.batches.run(measure)
            except NotMeasurable as error:
                found[flow] = {"not_measurable": str(error)}
        return found

    def decibels(self, flows: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Flow -> EQ-T and the like -> what was found, or why there is none; nothing of other flows."""
        own, action, found = self.settings, self.output, dict[str, dict[str, Any]]()
        for kind in dict.fromkeys(kind for flow in flows for kind in KINDS.get(flow, ())):
            if not (own.moves and isinstance(action, Action)):
                found[kind] = refusal(own.output)
                continue

            def measure(size: int, chunk: int | None, kind: str = kind, action: Action = action) -> dict[str, Any]:
                with self.meter.watching(self.model.module, 1.0):
                    options: dict[str, Any] = {"boundary": own.boundary, "batch_size": size, "seed": own.seed}
                    return decibels(self.model.module, self.images.x, kind, action, **options)

            try:
                found[kind] = self.batches.run(measure)
            except NotMeasurable as error:
                found[kind] = {"not_measurable": str(error)}
        return {flow: {kind: found[kind] for kind in KINDS[flow]} for flow in flows if flow in KINDS}

    def accuracy(self) -> float | None:
        """The share of the labelled images whose largest output is their label's; None without labels or classes."""
        labels = self.images.labels
        if labels is None or not self.classes:
            return None

        def guess(size: int, chunk: int | None) -> Tensor:
            with measurable(self.model.module), torch.no_grad():
                return torch.cat([self.model.module(part).argmax(1).cpu() for part in self.images.x.split(size)])

        return accuracy(self.batches.run(guess), labels.cpu())


def _work(model: Model, count: int, settings: Settings, flows: Sequence[str]) -> float:
    """What is to be done on so many images, in forward passes of one."""
    extra = (len(STENCILS) - 1) * min(settings.stencil_images, count) * _LEE
    layers = len(flows) * min(settings.layerwise_images, count) * _LAYERS if settings.layerwise else 0.0
    passes = sum(1 + len(displacements(flow, model.image_size)[0]) for flow in flows if flow in CURVES)
    passes += len({kind for flow in flows for kind in KINDS.get(flow, ())}) * (1 + DRAWS) if settings.moves else 0
    return count * (_LEE + _MAP + passes) + extra + layers


def _check(model: Model, count: int, settings: Settings, flows: Sequence[str]) -> None:
    """Find the user's mistakes that the network and its images show."""
    for flow in flows:
        flow_of(flow, model, stencil=settings.stencil, boundary=settings.boundary)  # raises where there is none
    if settings.norm == "centred" and count < 2:
        raise SofteqValueError(
            "norm: centred is over the spread of the outputs over the images, and there is one image"
        )
    short = min(model.image_size)
    if 2 * settings.margin >= short:
        raise SofteqValueError(
            f"margin: expected less than half of {short} pixels, got {settings.margin}: nothing moves"
        )


def measure_model(
    model: Model, images: Images, settings: Settings, flows: Sequence[str], tell: Callable[[int, int], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The metrics of each flow, as they are done.

    Args:
        model, images: what to measure; both are on the device and in the dtype that the settings name.
        settings: how.
        flows: which, by name.
        tell: called with the work done and the whole of it, in forward passes of one image.

    Raises:
        NotMeasurable: no flow can be measured; what alone cannot is in the metrics with the reason.
        SofteqValueError: the settings do not go with the network or its images.
        SofteqError: out of memory.
    """
    if settings.output == "probabilities" and getattr(model.module, "num_classes", None) == 0:
        raise NotMeasurable("the model has no class head, so it gives no probabilities: measure --output logits")
    x = images.x
    _check(model, len(x), settings, flows)
    output = declared(model, settings, x)
    audit = Audit(
        model,
        images,
        settings,
        output,
        Batches(settings.batch_size, min(len(x), 64 if x.device.type == "cuda" else 4)),
        Meter(_work(model, len(x), settings, flows), tell),
    )
    result = audit.lee(flows, settings.stencil, x, control=True)
    maps = audit.maps(flows)
    curves = audit.curves([flow for flow in flows if flow in CURVES])
    followed = audit.decibels(flows)
    stencils = audit.stencils(flows, result)
    shared = {
        "accuracy": audit.accuracy(),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "labelled": 0 if images.labels is None else int((images.labels >= 0).sum()),
        "skipped": [[str(part) for part in entry] for entry in images.skipped],
        "choices": [*model.choices, *images.choices],
        "directions": directions(result),
        "image": thumbnail(model, images),
    }
    splits = audit.layers(flows) if settings.layerwise else {}
    for k, flow in enumerate(flows):
        yield (
            flow,
            {
                **numbers(result, k, classes=audit.classes),
                "control": settings.control_of(len(x), flow),
                "curve": curves.get(flow),
                "decibels": followed.get(flow),
                "stencils": stencils[flow],
                **shared,
                "layerwise": splits.get(flow),
                "map": maps[flow],
            },
        )
