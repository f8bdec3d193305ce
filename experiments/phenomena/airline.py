"""``airline``: a line, a cubic and polynomials of order 10,000 on 144 months of airline passengers.

Wilson ("Deep Learning is Not So Mysterious or Different", 2025) argues that a polynomial of any order may be fitted to
any number of points where a soft prior prefers low orders. Each variant is one such prior, or none; what a prior leaves
open (its growth with the order, its scale, the noise) is chosen on the months that are fitted, by the evidence or by
leaving one out. Months that are held out are asked for: every second one or a quarter of them (inside), and the last
two years (outside). Seed 0 holds out every second and every fourth month, the others random months; outside, seed k
takes a series that ended k years earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softeq.experiments.data.tabular import airline_passengers
from softeq.experiments.engine.bookkeeping import DATA, generator_for, rounded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.polynomials import Fit, chosen, least_squares
from softeq.experiments.show.plots import draw_figure
from softeq.experiments.show.tables import choose_preset, select
from softeq.experiments.training.arms import BLUE, GREEN, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDER, YEARS_OUT = 10_000, 2
GROWTHS = (1.0, *(1 + float(v) for v in torch.logspace(-4, 2, 31, dtype=torch.float64)))
"""Of the penalty from one order to the next, for priors that choose it."""
VARIANTS: Mapping[str, dict[str, Any]] = {
    "line": {"order": 1},
    "cubic": {"order": 3},
    "order-50": {"order": 50},
    "flat": {"order": ORDER, "basis": "chebyshev", "growths": [1.0], "criterion": "leave_one_out"},
    "soft-powers-evidence": {"order": ORDER, "basis": "monomial", "criterion": "evidence"},
    "soft-powers": {"order": ORDER, "basis": "monomial", "criterion": "leave_one_out"},
    "soft-evidence": {"order": ORDER, "basis": "chebyshev", "criterion": "evidence"},
    "soft": {"order": ORDER, "basis": "chebyshev", "criterion": "leave_one_out"},
}
TASKS = ("half", "quarter", "outside")


def configure(preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run."""
    model = dict(VARIANTS[variant])
    if "basis" in model:
        model.setdefault("growths", list(GROWTHS if preset == "default" else GROWTHS[::5]))
    return {
        "model": model,
        "tasks": list(TASKS),
        "years_out": YEARS_OUT,
        "seed": seed,
        "device": "cpu",
        "dtype": "float64",
    }


def held_out(task: str, months: int, seed: int, years_out: int = YEARS_OUT) -> tuple[Tensor, Tensor]:
    """The months that are fitted and those that are asked for, as sorted indices.

    Args:
        task: of `TASKS`.
        months: of the series.
        seed: see the module's text.
        years_out: at the series' end.
    """
    if task == "outside":
        end = months - 12 * seed
        return torch.arange(end - 12 * years_out), torch.arange(end - 12 * years_out, end)
    every = {"half": 2, "quarter": 4}[task]
    if seed == 0:
        out = torch.arange(1, months, every)
    else:  # the ends are always fitted: what is asked for is inside
        order = torch.randperm(months - 2, generator=generator_for(seed, DATA)) + 1
        out = order[: months // every].sort().values
    kept = torch.ones(months, dtype=torch.bool)
    kept[out] = False
    return kept.nonzero()[:, 0], out


def run(config: Config, progress: Progress) -> Metrics:
    """Fit and ask, task by task; root mean squared errors in thousands of passengers a month.

    Raises:
        MissingExtraError, SofteqError: as `airline_passengers`.
    """
    y = airline_passengers()
    x = torch.linspace(-1, 1, len(y), dtype=torch.float64)
    metrics: Metrics = {}
    for k, task in enumerate(config["tasks"]):
        fitted, asked = held_out(task, len(y), config["seed"], config["years_out"])
        predict, said = _model(x[fitted], y[fitted], config["model"])
        metrics[f"rmse_{task}"] = rounded(float((predict(x[asked]) - y[asked]).square().mean().sqrt()))
        metrics |= {f"{name}_{task}": value for name, value in said.items()}
        if config["seed"] == 0:  # for the figure
            metrics[f"curve_{task}"] = [rounded(float(v)) for v in predict(x)]
        progress(k + 1, len(config["tasks"]))
    return metrics


def _model(x: Tensor, y: Tensor, model: Mapping[str, Any]) -> tuple[Callable[[Tensor], Tensor], Metrics]:
    if "basis" not in model:
        return least_squares(x, y, model["order"]), {}
    best, predict = chosen(x, y, model["basis"], model["order"], model["growths"], model["criterion"])
    return predict, _said(best)


def _said(fit: Fit) -> Metrics:
    return {"growth": fit.growth, "noise": rounded(fit.noise), "effective_parameters": rounded(fit.effective)}


_DRAWN = {"cubic": BLUE, "soft": VERMILION, "soft-evidence": GREEN}
"""The variants that the figure shows, with their colours."""


def plot(records: list[dict[str, Any]], path: Any) -> None:
    """The series, with what four of the variants make of it: every second month held out, and the last two years."""
    mine = select(records, "airline")
    mine = select(mine, "airline", choose_preset(mine))
    first = {r["variant"]: r["metrics"] for r in mine if r["seed"] == 0}
    draw_figure(path, (9.2, 3.8), lambda axes: _draw(axes, first))


def _draw(axes: Axes, first: Mapping[str, Metrics]) -> None:
    y = airline_passengers()
    figure: Any = axes.figure
    axes.remove()
    years = 1949 + torch.arange(len(y)) / 12
    for panel, task in zip(figure.subplots(1, 2, sharey=True), ("half", "outside"), strict=True):
        fitted, asked = held_out(task, len(y), 0)
        panel.plot(years[fitted], y[fitted], ".", color="#222222", ms=4, label="months that are fitted")
        panel.plot(years[asked], y[asked], ".", color="#AAAAAA", ms=4, label="months that are asked for")
        for variant, colour in _DRAWN.items():
            if variant in first:
                error = first[variant][f"rmse_{task}"]
                label = f"{variant}: {error:.0f} on those"
                style: Any = {"color": colour, "lw": 1.3, "ls": "--" if variant == "soft-evidence" else "-"}
                panel.plot(years, first[variant][f"curve_{task}"], label=label, **style)
        panel.set_ylim(0, 700)
        panel.set_xlabel("year")
        inside = "every second month is held out" if task == "half" else "the last two years are held out"
        panel.set_title(inside, loc="left", fontsize=10)
        panel.legend(fontsize=8, loc="upper left")
    figure.axes[0].set_ylabel("passengers, thousands a month")


EXPERIMENTS: dict[str, Experiment] = {
    "airline": Experiment(
        name="airline",
        summary="polynomials of order 10,000 under a prior that grows with the order, on the airline passengers",
        variants=tuple(VARIANTS),
        presets={"smoke": 1, "default": 6},
        configure=configure,
        run=run,
        columns=(
            Column("rmse_half", "RMSE, half held out"),
            Column("rmse_quarter", "RMSE, a quarter held out"),
            Column("rmse_outside", "RMSE, two years ahead"),
            Column("effective_parameters_half", "effective parameters, half", ".1f"),
            Column("effective_parameters_outside", "effective parameters, ahead", ".1f"),
            Column("growth_half", "growth, half", ".4g"),
        ),
        notes=(
            "RMSE in thousands of passengers a month on the months held out. flat: a prior that does not look at the"
            " order. Where there is a prior, its growth, scale and noise are chosen on the fitted months: by leaving"
            " one out, or by the evidence where the name says so; powers: in powers of x, else in Chebyshev"
            " polynomials.",
        ),
        plot=plot,
        group=GROUP,
    )
}
