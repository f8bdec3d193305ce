"""Small images under quarter turns, with labels that may depend on the turn: a symmetry that holds exactly, or breaks.

An image of even side has no pixel that a quarter turn about its centre leaves in place: its pixels fall into orbits of
four, so that an image is ``side^2 / 4`` copies of the vector of `softeq.groups.Z(4)`, and a layer that is equivariant
under quarter turns is a `SoftLinear` of four-by-four circulant blocks.

The points of the dial: ``upright`` (nothing rotates), ``rotated`` (every image by a random quarter turn, its label as
it was), and ``broken``, where the labels of a share of the classes depend on the turn: under two or three quarter turns
such a label y becomes y + 1 modulo the number of classes. Who does not see the turn is then right at best for
``1 - breaking / 2`` of the images, where the classes are balanced.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data.images import DATASETS, LabelledImages, load_images
from softeq.experiments.engine.bookkeeping import DATA, MOTION, generator_for

DIGITS, DIGITS_SIDE, DIGITS_TEST = "digits", 8, 597
"""scikit-learn's 1,797 digits of 8 x 8 pixels; so many of them, drawn once, are kept for testing."""


@dataclass(frozen=True)
class QuarterPoint:
    """A point of the dial.

    Args:
        name: in records.
        rotated: whether images are rotated by random quarter turns.
        breaking: the share of the classes whose label depends on the turn, in [0, 1]; 0 where nothing rotates.

    Raises:
        SofteqValueError: a value out of its range.
    """

    name: str
    rotated: bool = True
    breaking: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.breaking <= 1 or (self.breaking and not self.rotated):
            raise SofteqValueError(
                f"breaking: expected a share of the classes in [0, 1], and 0 for upright images, got {self.breaking}"
            )


UPRIGHT, ROTATED, HALF, BROKEN = (
    QuarterPoint("upright", rotated=False),
    QuarterPoint("rotated"),
    QuarterPoint("half-broken", breaking=0.5),
    QuarterPoint("broken", breaking=1.0),
)
"""The dial of most phenomena."""


def quarter_turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images ``(n, C, H, H)``, each rotated counterclockwise by ``(n,)`` quarter turns, exactly.

    Raises:
        SofteqValueError: images that are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise SofteqValueError(f"images: expected square ones (n, C, H, H), got {tuple(images.shape)}")
    rotated = images.clone()
    for k in range(1, 4):
        rows = turns % 4 == k
        rotated[rows] = images[rows].rot90(k, (-2, -1))
    return rotated


def orbits(side: int) -> Tensor:
    """The pixels of a square image by orbit under quarter turns: ``(side^2,)`` indices into its rows one after another.

    Entry ``4 o + k`` is where k quarter turns counterclockwise carry the first pixel of orbit o, so that a quarter turn
    of the image shifts each four of its entries by one place.

    Raises:
        SofteqValueError: a side that is odd, whose centre stays in place, or below 2.
    """
    if side < 2 or side % 2:
        raise SofteqValueError(f"side: expected an even number of pixels from 2, got {side}")
    places = torch.arange(side * side).view(side, side)
    quadrant = places[: side // 2, : side // 2].flatten()
    # After k turns of the image the value of pixel p stands where the turned index map says p.
    carried = [torch.argsort(places.rot90(k).flatten())[quadrant] for k in range(4)]
    return torch.stack(carried, dim=1).flatten()


def load_quarters(
    source: str,
    sizes: tuple[int, int, int],
    point: QuarterPoint,
    seed: int,
    *,
    side: int = DIGITS_SIDE,
    dtype: torch.dtype = torch.float32,
) -> LabelledImages:
    """A data set at a point of the dial, with ``sizes`` images for training, validation and testing.

    Args:
        source: ``"digits"`` (8 x 8, extra ``phenomena``), or a name of `experiments.data.images.DATASETS`.
        sizes: each at least 1; of the digits at most 597 for testing and 1,200 for the others together.
        point: of the dial; the test images' turns are the same for every seed.
        seed: draws training and validation rows and their turns.
        side: pixels that images of 28 x 28 are averaged down to, even; digits have 8.
        dtype: of the images.

    Raises:
        SofteqValueError: an unknown source, sizes that do not fit, or an odd side.
        MissingExtraError: the data are not installed.
    """
    if source != DIGITS and source not in DATASETS:
        raise SofteqValueError(f"source: expected one of {', '.join((DIGITS, *DATASETS))}, got {source!r}")
    images = _digits(sizes, seed) if source == DIGITS else _pooled(source, sizes, seed, side)
    orbits(images.size[0])  # refuses what has no orbits of four
    return _at(images, point, seed).to(dtype=dtype)


def _digits(sizes: tuple[int, int, int], seed: int) -> LabelledImages:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the 8 x 8 digits come with scikit-learn: pip install 'softeq[phenomena]'") from error
    held = load_digits()
    x = torch.from_numpy(held.images).double().unsqueeze(1) / 16
    y = torch.from_numpy(held.target).long()
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows_test, pool = mixed[:DIGITS_TEST], mixed[DIGITS_TEST:]
    n_train, n_validation, n_test = sizes
    if min(sizes) < 1 or n_train + n_validation > len(pool) or n_test > len(rows_test):
        raise SofteqValueError(
            f"sizes: expected at least 1 each, training and validation together at most {len(pool)}, test at most"
            f" {len(rows_test)}, got {tuple(sizes)}"
        )
    drawn = pool[torch.randperm(len(pool), generator=generator_for(seed, DATA))]
    parts = (drawn[:n_train], drawn[n_train : n_train + n_validation], rows_test[:n_test])
    mean, std = float(x[parts[0]].mean()), float(x[parts[0]].std())
    (x0, y0), (x1, y1), (x2, y2) = (((x[rows] - mean) / std, y[rows]) for rows in parts)
    return LabelledImages(DIGITS, x0, y0, x1, y1, x2, y2, mean, std)


@functools.lru_cache(maxsize=2)  # the points and variants of a seed have the same images, and 60,000 take a while
def _pooled(source: str, sizes: tuple[int, int, int], seed: int, side: int) -> LabelledImages:
    """Averaged down to fewer pixels and standardised anew, float64."""
    images = load_images(source, sizes, generator_for(seed, DATA))
    x: dict[str, Any] = {
        n: adaptive_avg_pool2d(getattr(images, n), side).double() for n in ("x_train", "x_validation", "x_test")
    }
    mean, std = float(x["x_train"].mean()), float(x["x_train"].std())
    whole: dict[str, Any] = {"mean": images.mean + images.std * mean, "std": images.std * std}
    return replace(images, **{n: (value - mean) / std for n, value in x.items()}, **whole)


def _at(images: LabelledImages, point: QuarterPoint, seed: int) -> LabelledImages:
    own, fixed = generator_for(seed, MOTION), torch.Generator().manual_seed(0)
    changed: dict[str, Any] = {}
    for split, generator in (("train", own), ("validation", own), ("test", fixed)):
        x, y = getattr(images, f"x_{split}"), getattr(images, f"y_{split}")
        turns = torch.randint(0, 4, (len(x),), generator=generator) * int(point.rotated)
        changed[f"x_{split}"] = quarter_turned(x, turns)
        changed[f"y_{split}"] = labels_after(y, turns, point.breaking, images.classes)
    return replace(images, **changed)


def labels_after(y: Tensor, turns: Tensor, breaking: float, classes: int) -> Tensor:
    """The labels ``(n,)`` of images of class ``y`` that were rotated by so many quarter turns."""
    depends = (y < round(breaking * classes)) & (turns % 4 >= 2)
    return torch.where(depends, (y + 1) % classes, y)


def quarter_points(config_points: list[Mapping[str, Any]]) -> list[QuarterPoint]:
    """The points that a configuration lists, as `dataclasses.asdict` wrote them."""
    return [QuarterPoint(**point) for point in config_points]
