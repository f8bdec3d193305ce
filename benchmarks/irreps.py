"""``SoftO3Linear`` on 64x0e + 64x1o + 64x2e, batch 4,096, against ``nn.Linear`` of its size and e3nn's ``o3.Linear``.

A training step is forward, backward (to the input too) and penalty, without an optimizer. e3nn's layer multiplies
within each kind of irrep alone, a ninth of the multiplications (64 x 64 for each of 1 + 3 + 5 coordinates instead of
576 x 576), between transpositions; its arm has the L2 penalty of the plain one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.layers import Forward, batch, training_step
from benchmarks.naive import l2_penalty
from benchmarks.report import Report, Row, compared, in_both_modes, table
from benchmarks.timing import interleaved, ratios, seconds_of
from softeq import Prior, fold, harden, prior_penalty
from softeq.irreps import SoftO3Linear

NAME = "irreps"
TWIN = "nn.Linear, L2"
PLAIN = "nn.Linear"
E3NN = "o3.Linear"
REACH = {"soft": "1.10", "folded": "1.00"}
PRIOR = Prior(equivariant=1e-3, residual=1.0)
IRREPS = "64x0e + 64x1o + 64x2e"


def e3nn_linear(irreps: str) -> Any:
    """e3nn's linear layer with biases on the scalars.

    Raises:
        RuntimeError: e3nn is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e3nn uses what torch has deprecated
            from e3nn import o3
    except ImportError as error:
        raise RuntimeError("the twin needs e3nn: pip install 'softeq[e3nn]'") from error
    torch.manual_seed(0)
    return o3.Linear(irreps, irreps, biases=True)


def arms(irreps: str = IRREPS) -> dict[str, tuple[nn.Module, Forward]]:
    """Per arm its module and the function that gives output and penalty.

    ``soft`` and the plain layer have one weight; ``hard`` and e3nn's layer compute one function, that of the soft
    layer's equivariant pathway.
    """
    e3nn = e3nn_linear(irreps)
    soft = SoftO3Linear.from_e3nn(e3nn)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in soft.pathways["residual"].parameters():
            parameter.copy_(1e-3 * torch.randn(parameter.shape, generator=generator))
    plain, hard = fold(soft), harden(soft)
    return {
        TWIN: (plain, lambda x: (plain(x), l2_penalty(plain, PRIOR.residual))),
        "soft": (soft, lambda x: (soft(x), prior_penalty(soft, PRIOR))),
        "hard": (hard, lambda x: (hard(x), prior_penalty(hard, PRIOR))),
        E3NN: (e3nn, lambda x: (e3nn(x), l2_penalty(e3nn, PRIOR.residual))),
    }


def inference_arms(irreps: str = IRREPS) -> dict[str, nn.Module]:
    """The plain layer, a soft layer folded into one, the same soft layer as it is, and e3nn's."""
    built = arms(irreps)
    soft = built["soft"][0].eval()
    return {PLAIN: built[TWIN][0].eval(), "folded": fold(soft), "not folded": soft, E3NN: built[E3NN][0].eval()}


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (1,),
    irreps: str = IRREPS,
    rows: int = 4096,
    blocks: int = 15,
    block_seconds: float = 0.3,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every arm, eager and compiled.

    Args:
        quick: eager alone, on the first number of threads, and fewer blocks.
        threads: the numbers of threads to measure on, one after the other.
        irreps, rows: of input and output, and the batch.
        blocks, block_seconds: see `interleaved`.
        say: told what is under way.

    Raises:
        RuntimeError: e3nn is not installed.
    """
    blocks = min(blocks, 7) if quick else blocks

    def trained(count: int, mode: str) -> list[Row]:
        say(f"irreps: {mode}, threads: {count}")
        return _trained(arms(irreps), mode, rows, count, blocks, block_seconds)

    def inferred(count: int) -> list[Row]:
        return _infer(inference_arms(irreps), rows, count, blocks, block_seconds)

    done, remarks = in_both_modes(threads, trained, inferred, quick=quick)
    return Report(done, [_table(done, irreps, rows)], remarks)


def _trained(
    built: Mapping[str, tuple[nn.Module, Forward]],
    mode: str,
    rows: int,
    threads: int,
    blocks: int,
    block_seconds: float,
) -> list[Row]:
    data = _data(built[TWIN][0], rows)
    steps, compiling = {}, {}
    for name, (module, forward) in built.items():
        if mode == "compiled":
            steps[name] = training_step(module, torch.compile(forward), *data)
            compiling[name] = seconds_of(steps[name])
        else:
            steps[name] = training_step(module, forward, *data)
    taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds)
    return _with_e3nn(compared(NAME, f"training step, {mode}", taken, TWIN, threads, compiling), taken)


def _infer(layers: Mapping[str, nn.Module], rows: int, threads: int, blocks: int, block_seconds: float) -> list[Row]:
    x = _data(layers[PLAIN], rows)[0].detach()
    with torch.inference_mode():
        steps = {name: lambda layer=layer: layer(x) for name, layer in layers.items()}
        taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds)
    return _with_e3nn(compared(NAME, "inference, eager", taken, PLAIN, threads), taken)


def _data(plain: Any, rows: int) -> tuple[Tensor, Tensor]:
    return batch(rows, plain.in_features)


def _with_e3nn(rows: Sequence[Row], taken: Mapping[str, Sequence[float]]) -> list[Row]:
    """The rows with the median of their ratios to e3nn's layer."""
    for row in rows:
        row.more["over_e3nn_median"] = ratios(taken[row.arm], taken[E3NN]).median
    return list(rows)


def _table(rows: Sequence[Row], irreps: str, batch_rows: int) -> Table:
    lines = [
        [
            row.case,
            str(row.threads),
            row.arm,
            row.seconds.text(1e3),
            row.ratio.text() if row.ratio else "1",
            REACH.get(row.arm, ""),
            f"{row.more['over_e3nn_median']:.2f}",
            "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
        ]
        for row in rows
    ]
    columns = ["irreps", "threads", "arm", "ms", "over plain", "reach", "over o3.Linear", "compile s"]
    title = f"irreps: {irreps}, batch {batch_rows}"
    caption = "median [min, max] over blocks; a training step is forward, backward and penalty"
    return table(title, columns, lines, caption)
