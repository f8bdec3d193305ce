"""Peak memory of one arm in a fresh process: ``python -m benchmarks.derivative_worker MODEL ARM ROWS DEVICE``."""

from __future__ import annotations

import sys

import torch

from benchmarks.derivative_arms import arm, prepared
from benchmarks.gauge import gauge, hand_back


def peak_mib(name: str, kind: str, rows: int, device: str) -> float:
    """MiB above the model and the batch, at the peak of the second call; the first, on one row, sets libraries up."""
    model, x = prepared(name, rows, device)
    arm(kind, model, x[:1])()
    call = arm(kind, model, x)
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    return gauge(call)[1]["memory_mib"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    hand_back(memory_mib=peak_mib(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
