"""What ``cnn-vs-vit`` compares: its networks, and how their equivariance is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "cnn-stride": {
        "name": "convnet",
        "channels": [32, 64, 96],
        "down": "stride",
        "head": "average",
        "activation": "gelu",
    },
    "cnn-max": {"name": "convnet", "channels": [16, 32, 64], "down": "max", "head": "flatten", "activation": "relu"},
    "cnn-resnet": {"name": "resnet", "channels": [12, 24, 48], "activation": "relu"},
    "vit-4": {"name": "vit", "patch": 4, "stem": "patch", "gather": "class", "dim": 48, "depth": 3, "heads": 4},
    "vit-7": {"name": "vit", "patch": 7, "stem": "patch", "gather": "mean", "dim": 64, "depth": 4, "heads": 4},
    "vit-stem": {"name": "vit", "patch": 4, "stem": "convolution", "gather": "mean", "dim": 48, "depth": 2, "heads": 4},
}
"""The variants: those named ``cnn-`` stand against those named ``vit-``."""
STENCILS = ("bspline", "central", "reference")
OUTPUTS = ("logits", "probabilities")
