"""CIFAR-10 from the files that its author publishes: python pickles of uint8 images, read without running them.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009): 50,000 training and 10,000 test images of
32 x 32 pixels and three colours in ten classes. No package ships them. The folder ``cifar-10-batches-py``, from the
archive "CIFAR-10 python version" on the author's page or from torchvision's download, is named in the environment
variable ``SOFTEQ_CIFAR10``.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.experiments.data.images import LabelledImages, Pool
from softeq.experiments.data.plain_pickle import Call, Name, read_pickle

FOLDER_VARIABLE = "SOFTEQ_CIFAR10"
"""The environment variable that names the folder."""
TRAIN_FILES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_FILE, META_FILE = "test_batch", "batches.meta"
SHAPE = (3, 32, 32)
CLASSES = 10
_GET_IT = f"unpack cifar-10-python.tar.gz and set {FOLDER_VARIABLE} to its folder cifar-10-batches-py"
_AGAIN = "get the archive cifar-10-python.tar.gz again"

# numpy writes an array as a call of _reconstruct with a state that holds the shape, the type and the bytes.
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECONSTRUCT = frozenset(Name(module, "_reconstruct") for module in _MODULES)
_DTYPE = Name("numpy", "dtype")
_NAMES = _RECONSTRUCT | {Name("numpy", "ndarray"), _DTYPE}


def cifar10_folder() -> Path:
    """The folder that the environment names.

    Raises:
        MissingExtraError: none is named, or there is no such folder.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise MissingExtraError(f"CIFAR-10 is not here, and no package ships it: {_GET_IT}")
    if not Path(named).is_dir():
        raise MissingExtraError(f"{FOLDER_VARIABLE}: expected a folder, got {named}, which is none: {_GET_IT}")
    return Path(named)


def read_batch(path: str | Path) -> tuple[Tensor, Tensor]:
    """The images of one file, uint8 ``(N, 3, 32, 32)``, red first, and their labels, int64 ``(N,)``.

    Raises:
        SofteqError: the file is absent, cut off, corrupt or no batch, or would run code if it were unpickled.
    """
    path = Path(path)
    batch = _dictionary(path)
    pixels, labels = _array(path, batch.get("data")), batch.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise SofteqError(f"{path}: expected a list of whole numbers under 'labels', got {_kind(labels)}; {_AGAIN}")
    if len(labels) != len(pixels):
        raise SofteqError(f"{path}: expected a label per image, got {len(pixels)} images, {len(labels)} labels")
    if not 0 <= min(labels) <= max(labels) < CLASSES:
        raise SofteqError(f"{path}: expected labels 0 to {CLASSES - 1}, got {min(labels)} to {max(labels)}; {_AGAIN}")
    return pixels.reshape(-1, *SHAPE), torch.tensor(labels)


def class_names(path: str | Path) -> tuple[str, ...]:
    """The ten names in the file ``batches.meta``.

    Raises:
        SofteqError: as `read_batch`.
    """
    path = Path(path)
    names = _dictionary(path).get("label_names")
    if not isinstance(names, list) or len(names) != CLASSES or not all(isinstance(name, str) for name in names):
        raise SofteqError(f"{path}: expected {CLASSES} names under 'label_names', got {_kind(names)}; {_AGAIN}")
    return tuple(names)


def read_cifar10(folder: str | Path) -> Pool:
    """Training images and labels of all five files in their order, test images and labels.

    Raises:
        SofteqError: a file is absent or damaged, or ``batches.meta`` does not name ten classes.
    """
    folder = Path(folder)
    absent = [name for name in (*TRAIN_FILES, TEST_FILE, META_FILE) if not (folder / name).is_file()]
    if absent:
        raise SofteqError(f"{folder}: expected the files of CIFAR-10 in it, {', '.join(absent)} not found; {_GET_IT}")
    class_names(folder / META_FILE)
    images, labels = zip(*(read_batch(folder / name) for name in TRAIN_FILES), strict=True)
    return torch.cat(images), torch.cat(labels), *read_batch(folder / TEST_FILE)


def load_cifar10(
    sizes: tuple[int, int, int], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> LabelledImages:
    """CIFAR-10 with ``sizes`` rows for training, validation and testing, drawn as `split_images` says.

    Raises:
        MissingExtraError: the files are not here.
        SofteqError: they are damaged; or `split_images` refuses the sizes or the dtype.
    """
    return split_images("cifar10", read_cifar10(cifar10_folder()), sizes, generator, dtype)


def split_images(
    name: str, pool: Pool, sizes: tuple[int, int, int], generator: torch.Generator, dtype: torch.dtype
) -> LabelledImages:
    """Images ``(N, C, H, W)`` in three splits, standardised by one mean and standard deviation for all channels.

    Training and validation rows are drawn without replacement from the pool's training part, test rows are the first of
    its test part.

    Args:
        name: of the data set.
        pool: training images and labels, test images and labels; uint8 and int64.
        sizes: rows per split, each at least 1.
        generator: on the CPU.
        dtype: floating, of the images.

    Raises:
        SofteqValueError: sizes that do not fit.
        SofteqTypeError: another kind of dtype.
        SofteqError: all pixels are equal.
    """
    x, y, x_test, y_test = pool
    if not dtype.is_floating_point:
        raise SofteqTypeError(f"dtype: expected a floating-point type, got {dtype}")
    n_train, n_validation, n_test = sizes
    if min(sizes) < 1 or n_train + n_validation > len(x) or n_test > len(x_test):
        raise SofteqValueError(
            f"sizes: expected at least 1 each, training and validation together at most {len(x)}, test at most"
            f" {len(x_test)}, as {name} has; got {tuple(sizes)}"
        )
    rows, rows_validation = torch.randperm(len(x), generator=generator)[: n_train + n_validation].split(
        [n_train, n_validation]
    )
    pixels = x[rows].double() / 255
    mean, std = float(pixels.mean()), float(pixels.std())
    if pixels.min() == pixels.max():
        raise SofteqError(f"{name}: all pixels of the training images are equal; get the files again")
    splits = ((x[rows], y[rows]), (x[rows_validation], y[rows_validation]), (x_test[:n_test], y_test[:n_test]))
    inputs = [(((images.double() / 255 - mean) / std).to(dtype), labels) for images, labels in splits]
    return LabelledImages(name, *inputs[0], *inputs[1], *inputs[2], mean=mean, std=std)


def _dictionary(path: Path) -> Mapping[str, Any]:
    value = read_pickle(path, _NAMES)
    if not isinstance(value, dict):
        raise SofteqError(f"{path}: expected a dictionary as in CIFAR-10's files, got {_kind(value)}; {_AGAIN}")
    # Files that Python 3 wrote again have keys of bytes.
    return {key.decode("latin-1") if isinstance(key, bytes) else key: item for key, item in value.items()}


def _array(path: Path, call: Any) -> Tensor:
    """The uint8 array ``(N, 3072)`` that a call of numpy's reconstruction describes, out of its bytes alone."""
    state = call.state if isinstance(call, Call) and call.function in _RECONSTRUCT else None
    if isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, by_columns, content = state
        data = _bytes(content)
        if _is_shape(shape) and _is_byte(dtype) and data is not None and len(data) == math.prod(shape):
            values = np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if by_columns else "C")
            return torch.from_numpy(np.array(values, order="C"))
    raise SofteqError(
        f"{path}: expected an array of unsigned bytes of shape (N, {math.prod(SHAPE)}) under 'data', N at least 1,"
        f" got {_kind(call)}; {_AGAIN}"
    )


def _is_shape(shape: Any) -> bool:
    whole = isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int for n in shape)
    return whole and shape[0] >= 1 and shape[1] == math.prod(SHAPE)


def _is_byte(dtype: Any) -> bool:
    return isinstance(dtype, Call) and dtype.function == _DTYPE and dtype.arguments[:1] == ("u1",)


def _bytes(content: Any) -> bytes | None:
    """Strings of Python 2 come as one code point per byte; None for what is no string of bytes."""
    if isinstance(content, bytes):
        return content
    try:
        return content.encode("latin-1") if isinstance(content, str) else None
    except UnicodeEncodeError:
        return None


def _kind(value: Any) -> str:
    if isinstance(value, Call):
        shape = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else None
        return f"a call of {value.function.name}, shape {reprlib.repr(shape)}"
    return "nothing" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"
