"""The tensor product of irreps as sums over paths, computed here: e3nn says which paths there are and how large.

e3nn's own modules are TorchScript with their coefficients in buffers of the default dtype: no autocast, no ``vmap``
over weights, 1e-7 of equivariance in float64, constants in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softeq._constants import Constants


@dataclass(frozen=True)
class Path:
    """One block of the first input times one of the second into one of the output.

    Attributes:
        first, second, out: the blocks' numbers.
        degrees: l of each.
        shape: of its weight: ``(u, v, w)`` channels, or ``(u, v)`` where the first input's channels stay apart.
        scale: what normalises the sum.
    """

    first: int
    second: int
    out: int
    degrees: tuple[int, int, int]
    shape: tuple[int, ...]
    scale: float


def _couplings(degrees: tuple[tuple[int, int, int], ...]) -> dict[str, Tensor]:
    """Clebsch-Gordan coefficients of norm 1 per three degrees, ``((2 l1 + 1) (2 l2 + 1), 2 l3 + 1)``."""
    from e3nn import o3

    return {_key(d): o3.wigner_3j(*d, dtype=torch.float64).flatten(0, 1) for d in degrees}


def _key(degrees: tuple[int, int, int]) -> str:
    return "_".join(map(str, degrees))


class PathProducts(nn.Module):
    """What an e3nn ``TensorProduct`` computes, with weights of its own or from outside.

    Args:
        product: e3nn's, for its paths and normalisation (standard normal weights give outputs of unit variance).
        external_weights: whether each call brings the weights, ``(..., weight_numel)``.
    """

    weight: nn.Parameter | None

    def __init__(self, product: Any, external_weights: bool) -> None:
        super().__init__()
        irreps = product.irreps_in1, product.irreps_in2, product.irreps_out
        self.blocks = [[(copies, kind.dim) for copies, kind in each] for each in irreps]
        self.paths = [
            Path(
                path.i_in1,
                path.i_in2,
                path.i_out,
                (irreps[0][path.i_in1].ir.l, irreps[1][path.i_in2].ir.l, irreps[2][path.i_out].ir.l),
                tuple(path.path_shape),
                float(path.path_weight),
            )
            for path in product.instructions
        ]
        self.sizes = [torch.Size(path.shape).numel() for path in self.paths]
        self.constants = Constants.of(_couplings, tuple(sorted({path.degrees for path in self.paths})))
        own = None if external_weights else nn.Parameter(torch.randn(sum(self.sizes)))
        self.register_parameter("weight", own)

    def forward(self, x1: Tensor, x2: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(..., in1)``, ``(..., in2)`` and perhaps ``(..., weight_numel)`` to ``(..., out)``."""
        weight = self.weight if weight is None else weight
        if weight is None:
            raise ValueError("weight: expected the weights of the paths, as the product has none of its own")
        couplings = self.constants.on(x1)
        firsts, seconds = (_parts(x, blocks) for x, blocks in zip((x1, x2), self.blocks[:2], strict=True))
        sums: dict[int, Tensor] = {}
        for path, own in zip(self.paths, weight.split(self.sizes, -1), strict=True):
            pairs = torch.einsum("...ui,...vj->...uvij", firsts[path.first], seconds[path.second]).flatten(-2)
            coupled = pairs @ couplings[_key(path.degrees)].to(pairs.dtype)  # (..., u, v, k)
            how = "...uvk,...uvw->...wk" if len(path.shape) == 3 else "...uvk,...uv->...uk"
            part = torch.einsum(how, coupled, own.unflatten(-1, path.shape).to(pairs.dtype)) * path.scale
            sums[path.out] = sums[path.out] + part if path.out in sums else part
        if not sums:
            batch = torch.broadcast_shapes(x1.shape[:-1], x2.shape[:-1], weight.shape[:-1])
            return x1.new_zeros(*batch, sum(copies * size for copies, size in self.blocks[2]))
        some = next(iter(sums.values()))
        outputs = [
            sums[i].flatten(-2) if i in sums else some.new_zeros(*some.shape[:-2], copies * size)
            for i, (copies, size) in enumerate(self.blocks[2])
        ]
        return torch.cat(outputs, -1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        # Older checkpoints have e3nn's module here, with its constants beside the weight.
        old = f"{prefix}module."
        for key in [key for key in state_dict if key.startswith(old)]:
            value = state_dict.pop(key)  # type: ignore[attr-defined]
            if key == f"{old}weight" and self.weight is not None:
                state_dict[f"{prefix}weight"] = value  # type: ignore[index]
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _parts(x: Tensor, blocks: list[tuple[int, int]]) -> list[Tensor]:
    """The blocks of an input, ``(..., copies, 2 l + 1)``."""
    parts = x.split([copies * size for copies, size in blocks], -1)
    return [part.unflatten(-1, block) for part, block in zip(parts, blocks, strict=True)]
