"""The affine directions that a model is most and least equivariant to, in words.

The Gram matrix G_kl = <L_k f, L_l f> / dim over the six generators gives the mean square error of every affine
generator xi as xi^T G xi. Its entries carry the generators' units (a pixel of translation, a radian of rotation), so
its eigenvectors would say more about units than about the model: each generator is first rescaled to an RMS
displacement of one pixel over the image. The six are orthogonal under that displacement (positions are relative to
the image centre), so a unit vector in the rescaled basis moves the image by one pixel RMS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS

NEARLY_PURE = 0.9  # share (squared cosine) from which a direction is called by one flow's name
WORTH_NAMING = 0.05  # share below which a component is left out of the words
TIED = 1e-6  # eigenvalues closer than this, relative to the largest, leave the direction undetermined


@dataclass(frozen=True)
class Direction:
    """One affine direction, of RMS displacement one pixel.

    Attributes:
        components: generator -> its part, in pixels RMS; the squares sum to 1, the largest is positive.
        value: mean square of L f along it, averaged over images: per square pixel of displacement.
        text: the direction in words.
    """

    components: Mapping[str, float]
    value: float
    text: str

    def __str__(self) -> str:
        return f"{self.text}: {self.value:.3g}"


@dataclass(frozen=True)
class Directions:
    """The two ends of the Gram matrix's spectrum.

    Attributes:
        most: the direction of the smallest error, to which the model is the most equivariant.
        least: the direction of the largest.
        eigenvalues: all of them, ascending; as many as generators that move this image size.
    """

    most: Direction
    least: Direction
    eigenvalues: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "unit": "mean square of L f for a generator of RMS displacement 1 pixel",
            "eigenvalues": list(self.eigenvalues),
            **{
                end: {"text": d.text, "value": d.value, "components": dict(d.components)}
                for end, d in (("most", self.most), ("least", self.least))
            },
        }

    def __str__(self) -> str:
        return f"most equivariant to {self.most}\nleast equivariant to {self.least}"


def rms_displacements(image_size: tuple[int, int]) -> Tensor:
    """RMS velocity of each generator over the pixels of (H, W), pixels per unit: (6,) float64, in GENERATORS' order."""
    height, width = image_size
    rows = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2).square().mean().sqrt()
    columns = (torch.arange(width, dtype=torch.float64) - (width - 1) / 2).square().mean().sqrt()
    spread = torch.stack([columns, rows])
    scales = []
    for name in GENERATORS:
        flow = FLOWS[name]
        matrix, shift = (torch.as_tensor(part, dtype=torch.float64) for part in (flow.matrix, flow.shift))
        scales.append(((matrix * spread).square().sum() + shift.square().sum()).sqrt())
    return torch.stack(scales)


def _words(direction: Tensor, scales: Tensor) -> str:
    """A unit vector (6,) of the rescaled basis in words; its sign means nothing."""
    named = COEFFICIENTS.to(torch.float64) * scales
    named = named / named.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    shares = (named @ direction).square()
    best = int(shares.argmax())
    if shares[best] >= NEARLY_PURE:
        return f"{list(FLOWS)[best]} ({float(shares[best]):.0%} of the direction)"
    x, y = (float(direction[GENERATORS.index(name)]) for name in ("translation_x", "translation_y"))
    if x * x + y * y >= NEARLY_PURE:
        angle = math.degrees(math.atan2(y, x)) % 180.0
        return f"translation at {angle:.0f} degrees from right towards down ({x * x + y * y:.0%} of the direction)"
    order = [i for i in direction.abs().argsort(descending=True).tolist() if direction[i].square() >= WORTH_NAMING]
    parts = [f"{float(direction[i]):+.2f} {GENERATORS[i]}" for i in order]
    return " ".join(parts) + " (pixels RMS)"


def affine_directions(gram: Tensor, image_size: tuple[int, int]) -> Directions:
    """Eigenvectors of the Gram matrix, each generator rescaled to an RMS displacement of one pixel.

    Args:
        gram: (B, 6, 6) or (6, 6), over GENERATORS, in the units of FLOWS. A generator that is NaN in all samples (it
            moves none of them) is left out; then so are samples with a NaN.
        image_size: (H, W).

    Raises:
        NotMeasurable: nothing was measured.
        SofteqValueError: a wrong shape.
    """
    if gram.shape[-2:] != (6, 6):
        raise SofteqValueError(f"gram: expected (B, 6, 6) over {', '.join(GENERATORS)}, got {tuple(gram.shape)}")
    gram = gram.detach().to("cpu", torch.float64).reshape(-1, 6, 6)
    scales = rms_displacements(image_size)
    moving = (scales > 0) & ~gram.diagonal(dim1=1, dim2=2).isnan().all(0)
    kept = gram[:, moving][:, :, moving]
    kept = kept[~kept.isnan().any(-1).any(-1)]
    if not bool(moving.any()) or not len(kept):
        raise NotMeasurable("directions: no sample was measured along all generators, so there is no direction to name")
    scaled = kept.mean(0) / scales[moving, None] / scales[moving]
    eigenvalues, vectors = torch.linalg.eigh((scaled + scaled.T) / 2)
    eigenvalues = eigenvalues.clamp_min(0)  # a Gram matrix has none below 0; rounding does

    def direction(column: int) -> Direction:
        vector = torch.zeros(6, dtype=torch.float64)
        vector[moving] = vectors[:, column]
        vector = vector * vector[vector.abs().argmax()].sign()
        components = dict(zip(GENERATORS, vector.tolist(), strict=True))
        tied = int(((eigenvalues - eigenvalues[column]).abs() <= TIED * eigenvalues[-1]).sum())
        words = _words(vector, scales) + (f", one of {tied} directions that tie" if tied > 1 else "")
        return Direction(components, float(eigenvalues[column]), words)

    return Directions(direction(0), direction(-1), tuple(eigenvalues.tolist()))
