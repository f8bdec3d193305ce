"""Images that are rotated or shifted by a dial, and labels that may depend on the turn or the shift.

An image is drawn from a `LabelledImages`, cut to the disc that fits into it (for turns) and transformed once: rotated
by an angle that is uniform in [-reach, reach] degrees, or placed on a larger canvas at whole pixels from the centre
that are uniform in -reach .. reach - 1, down and to the right. Beyond the image everything is black.

Breaking. A share p of the classes, the labels below 10 p, depends on the motion: where the angle is negative
(clockwise), or the shift is to the left, such a label y becomes y + 1 modulo 10. Half of all motions are such. A
classifier that does not see the motion is therefore right at best for one half of these images: its best accuracy,
on images that show their class beyond doubt, is 1 - p / 2, and without that restriction it is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, grid_sample

from softeq.errors import SofteqValueError
from softeq.experiments.data.images import LabelledImages

KINDS = ("rotation", "translation")
LARGEST_TURN = 180.0


@dataclass(frozen=True)
class Dial:
    """How far images are transformed, and how many classes depend on it.

    Args:
        kind: ``"rotation"`` or ``"translation"``.
        reach: the largest angle in degrees, 0 to 180; or the largest shift in pixels, a whole number of at least 0.
        breaking: p, the share of the classes whose label depends on the motion, in [0, 1]; 0 where nothing moves.

    Raises:
        SofteqValueError: a value out of its range.
    """

    kind: str
    reach: float
    breaking: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SofteqValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "rotation" and not 0 <= self.reach <= LARGEST_TURN:
            raise SofteqValueError(f"reach: expected an angle from 0 to 180 degrees, got {self.reach}")
        if self.kind == "translation" and not (self.reach >= 0 and float(self.reach).is_integer()):
            raise SofteqValueError(f"reach: expected a whole number of pixels of at least 0, got {self.reach}")
        if not 0 <= self.breaking <= 1 or (self.breaking and not self.reach):
            raise SofteqValueError(
                f"breaking: expected a share of the classes in [0, 1], and 0 where reach is 0, got {self.breaking}"
            )

    def motions(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` motions: angles in degrees, counterclockwise, ``(n, 1)``; or pixels down and right, ``(n, 2)``."""
        if self.kind == "rotation":
            return (2 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 1) * self.reach
        reach = int(self.reach)
        if reach == 0:
            return torch.zeros(n, 2, dtype=torch.float64)
        return torch.randint(-reach, reach, (n, 2), generator=generator).double()

    def labels(self, y: Tensor, motions: Tensor, classes: int) -> Tensor:
        """The labels ``(n,)`` of images of class ``y`` that were transformed so."""
        depends = y < round(self.breaking * classes)
        return torch.where(depends & (motions[:, -1] < 0).to(y.device), (y + 1) % classes, y)

    def best_invariant_accuracy(self, y: Tensor, classes: int) -> float:
        """The accuracy of the best classifier that knows these classes and not the motions: 1 - p / 2 in balance."""
        share = float((y < round(self.breaking * classes)).double().mean())
        return 1 - share / 2


def turned(images: Tensor, degrees: Tensor) -> Tensor:
    """Images ``(n, 1, H, H)`` rotated counterclockwise about their centres by ``(n,)`` degrees, bilinear, 0 outside.

    Raises:
        SofteqValueError: images that are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise SofteqValueError(f"images: expected square ones (n, 1, H, H) to turn, got {tuple(images.shape)}")
    angle = degrees.to(images) * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Where a pixel's value comes from: rows point down, so that a counterclockwise turn by t reads at the point rotated
    # by the matrix (cos, -sin; sin, cos) in the coordinates (column, row).
    back = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1)
    grid = affine_grid(back, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def shifted(images: Tensor, shifts: Tensor, canvas: int) -> Tensor:
    """Images ``(n, 1, h, w)`` on black ``canvas`` x ``canvas``, ``(n, 2)`` pixels down and right of the centre.

    The centre is the place that leaves as many pixels above as below, one fewer below where they are odd in number.

    Raises:
        SofteqValueError: an image that is not wholly on its canvas.
    """
    n, _, height, width = images.shape
    top = shifts[:, 0].long() + (canvas - height + 1) // 2
    left = shifts[:, 1].long() + (canvas - width + 1) // 2
    outside = (top < 0) | (left < 0) | (top + height > canvas) | (left + width > canvas)
    if bool(outside.any()):
        raise SofteqValueError(
            f"canvas: expected enough pixels for images of {height} x {width} shifted by up to "
            f"{int(shifts.abs().max())}, got {canvas}"
        )
    rows = (top.to(images.device)[:, None] + torch.arange(height, device=images.device))[:, :, None]
    columns = (left.to(images.device)[:, None] + torch.arange(width, device=images.device))[:, None, :]
    placed = images.new_zeros(n, 1, canvas, canvas)
    placed[torch.arange(n, device=images.device)[:, None, None], 0, rows, columns] = images[:, 0]
    return placed


def disc(size: int) -> Tensor:
    """1 where a pixel's centre lies within the circle that touches the four sides, else 0; float64."""
    ticks = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return (ticks[:, None] ** 2 + ticks[None, :] ** 2 <= (size / 2) ** 2).double()


@dataclass(frozen=True)
class Stage:
    """How transformed images become inputs.

    Args:
        dial: what moves.
        side: pixels per side of an image: rotated ones are averaged down to it after the turn, others before the shift.
        canvas: of shifted images, in pixels.
    """

    dial: Dial
    side: int
    canvas: int = 0

    def __call__(self, images: Tensor, motions: Tensor) -> Tensor:
        """Images ``(n, 1, H, H)`` from 0, black, to 1, as inputs ``(n, 1, size, size)`` on the same scale."""
        if self.dial.kind == "rotation":
            whole = turned(images * disc(images.shape[-1]).to(images), motions[:, 0])
            return adaptive_avg_pool2d(whole, self.side)
        return shifted(adaptive_avg_pool2d(images, self.side), motions, self.canvas)


@dataclass(frozen=True)
class Dialled:
    """A data set at a point of the dial.

    Attributes:
        data: standardised inputs and labels.
        x_moved, y_moved: the test images under the widest motion, with labels by the same rule.
        augment: the inputs of some training rows, transformed anew over the whole range, with a generator on the CPU.
        best_invariant_accuracy: see `Dial`, of the test labels.
    """

    data: LabelledImages
    x_moved: Tensor
    y_moved: Tensor
    augment: Callable[[Tensor, torch.Generator], Tensor]
    best_invariant_accuracy: float


def dialled(
    images: LabelledImages, stage: Stage, widest: float, generator: torch.Generator, *, test_seed: int = 0
) -> Dialled:
    """Move the images of every split once.

    Args:
        images: as loaded.
        stage: the point of the dial and the inputs' size.
        widest: reach of the motions of ``x_moved`` and of augmentation, at least the dial's.
        generator: on the CPU; draws the motions of training and validation images.
        test_seed: of the test images' motions, which are the same for every draw.

    Raises:
        SofteqValueError: images that are not square, smaller than ``stage.side``, or too large for the canvas; or
            a ``widest`` below the dial's reach.
    """
    dial = stage.dial
    height, width = images.size
    if height != width:
        raise SofteqValueError(f"images: expected square images, got {height} x {width}")
    if not 1 <= stage.side <= height:
        raise SofteqValueError(f"side: expected 1 to the images' {height} pixels, got {stage.side}")
    if widest < dial.reach:
        raise SofteqValueError(f"widest: expected at least the dial's reach of {dial.reach}, got {widest}")
    far = replace(dial, reach=widest)
    own = torch.Generator().manual_seed(test_seed)
    splits = (
        (images.x_train, images.y_train, dial, generator),
        (images.x_validation, images.y_validation, dial, generator),
        (images.x_test, images.y_test, dial, own),
        (images.x_test, images.y_test, far, own),
    )
    raw = [_moved(images, x, y, replace(stage, dial=d), g) for x, y, d, g in splits]
    mean, std = float(raw[0][0].double().mean()), float(raw[0][0].double().std())
    (x_train, y_train, motions), *others = [((x - mean) / std, y, m) for x, y, m in raw]
    (x_validation, y_validation, _), (x_test, y_test, _), (x_moved, y_moved, _) = others
    sources = _pixels(images, images.x_train)

    def augment(rows: Tensor, drawn: torch.Generator) -> Tensor:
        return (stage(sources[rows], _again(motions[rows.cpu()], far, drawn)) - mean) / std

    data = LabelledImages(
        images.name, x_train, y_train, x_validation, y_validation, x_test, y_test, mean, std, images.classes
    )
    best = dial.best_invariant_accuracy(images.y_test, images.classes)
    return Dialled(data, x_moved, y_moved, augment, best)


def _again(motions: Tensor, far: Dial, generator: torch.Generator) -> Tensor:
    """Training motions after a random further one: turns add up; a place on the canvas is drawn anew."""
    fresh = far.motions(len(motions), generator)
    return motions + fresh if far.kind == "rotation" else fresh


def _pixels(images: LabelledImages, x: Tensor) -> Tensor:
    """Standardised images on the scale from 0, black, to 1."""
    return x * images.std + images.mean


def _moved(
    images: LabelledImages, x: Tensor, y: Tensor, stage: Stage, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    motions = stage.dial.motions(len(x), generator)
    return stage(_pixels(images, x), motions), stage.dial.labels(y, motions, images.classes), motions
