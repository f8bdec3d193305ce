"""Supervised data in three splits, checked once when made."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError


@dataclass(frozen=True)
class Regression:
    """Inputs ``(N, size_in)`` and targets ``(N, ..., size_out)`` of three splits, one dtype and one device.

    Targets may have axes between the first and the last, such as the times of a trajectory; the group acts on the last.

    Raises:
        SofteqTypeError: a field is no floating-point tensor, or dtypes or devices differ.
        SofteqValueError: an empty split, shapes that disagree, NaN or inf.
    """

    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check(field.name, getattr(self, field.name))
        for split in ("train", "validation", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if len(x) != len(y):
                raise SofteqValueError(
                    f"x_{split} and y_{split}: expected as many inputs as targets, got {len(x)}, {len(y)}"
                )

    def _check(self, name: str, value: Tensor) -> None:
        like = getattr(self, f"{name[0]}_train")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise SofteqTypeError(f"{name}: expected a floating-point tensor, got {getattr(value, 'dtype', value)!r}")
        if value.ndim < 2 or len(value) == 0:
            raise SofteqValueError(f"{name}: expected shape (N, ..., size) with N >= 1, got {tuple(value.shape)}")
        if value.shape[1:] != like.shape[1:]:
            raise SofteqValueError(
                f"{name}: expected shape (N, {', '.join(map(str, like.shape[1:]))}) as in the training split,"
                f" got {tuple(value.shape)}"
            )
        if value.dtype != self.x_train.dtype or value.device != self.x_train.device:
            raise SofteqTypeError(
                f"{name}: expected {self.x_train.dtype} on {self.x_train.device} as in x_train,"
                f" got {value.dtype} on {value.device}"
            )
        if not torch.isfinite(value).all():
            raise SofteqValueError(f"{name}: expected finite numbers, got NaN or inf")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Regression:
        """The same data on another device, in another dtype, or both."""
        return replace(self, **{f.name: getattr(self, f.name).to(device=device, dtype=dtype) for f in fields(self)})


def split(x: Tensor, y: Tensor, sizes: tuple[int, int, int]) -> Regression:
    """The first rows for training, the next for validation, the next for testing; rows beyond are left out.

    Args:
        x: inputs, ``(N, size_in)``.
        y: targets, ``(N, ..., size_out)``.
        sizes: rows for training, validation and testing, each at least 1, together at most N.

    Raises:
        SofteqValueError: for sizes that do not fit.
    """
    if min(sizes) < 1 or sum(sizes) > min(len(x), len(y)):
        raise SofteqValueError(
            f"sizes: expected three counts of at least 1 that add up to at most {min(len(x), len(y))}, got {sizes}"
        )
    total = sum(sizes)
    xs, ys = x[:total].split(list(sizes)), y[:total].split(list(sizes))
    return Regression(xs[0], ys[0], xs[1], ys[1], xs[2], ys[2])
