import dataclasses
import math
import sys

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.engine.experiment import Column
from softeq.experiments.show import plots


@pytest.fixture
def records(make_record):
    values = {"hard": [1.0, 1.2], "soft": [0.25, 0.3], "diverges": [math.nan, 2.0]}
    return [make_record(v, seed, test_mse=x) for v, group in values.items() for seed, x in enumerate(group)]


@pytest.fixture
def sweep(make_record):
    made = [
        make_record(f"soft@1e{k}", seed, config={"residual_precision": 10.0**k}, test_mse=abs(k) + 0.5 + 0.1 * seed)
        for k in (2, -1, 0)
        for seed in range(3)
    ]
    lines = [make_record(v, seed, test_mse=3.0 + seed) for v in ("hard", "none") for seed in range(2)]
    return made + lines


@pytest.fixture
def drawn(monkeypatch):
    """The axes of whatever is drawn, instead of a file."""
    kept = []

    def draw(path, size, fill):
        axes = Figure(figsize=size, layout="constrained").add_subplot()
        fill(axes)
        kept.append(axes)

    monkeypatch.setattr(plots, "draw_figure", draw)
    return kept


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_both_figures_are_saved_by_their_suffix(toy, records, sweep, tmp_path, suffix, magic):
    for name, draw in {
        "a": lambda path: plots.plot_experiment(records, toy, path),
        "b": lambda path: plots.plot_precision(sweep, path, title="toy"),
    }.items():
        path = tmp_path / "new" / f"{name}.{suffix}"
        draw(path)
        assert path.read_bytes().startswith(magic)
        assert path.stat().st_size > 4000


def test_every_seed_is_a_point_and_diverged_runs_are_counted(toy, records, drawn):
    plots.plot_experiment(records, toy, "a.png")
    (axes,) = drawn
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["hard", "soft", "diverges\n(1 of 2 diverged)"]
    points = [sorted(x for x, _ in group.get_offsets()) for group in axes.collections]
    assert points == [[1.0, 1.2], [1.06], [0.25, 0.3], [2.0]]  # 1.06 is the published number
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([1.1, 0.275, 2.0])
    assert axes.get_xlabel() == "test MSE"
    assert axes.get_xscale() == "linear"


def test_points_have_the_look_of_their_arm_and_blue_dots_where_there_is_none(toy, records, make_record, drawn):
    more = [make_record("soft-200", test_mse=1.0), make_record("none@10", test_mse=1.0)]
    plots.plot_experiment([*records, *more], dataclasses.replace(toy, published={}), "a.png")
    (axes,) = drawn
    rows = [label.get_text().split("\n")[0] for label in axes.get_yticklabels()]
    assert len(rows) == len(axes.collections) == 5
    for row, points in zip(rows, axes.collections, strict=True):
        one = plots.arm(row.split("-")[0].split("@")[0]) if row != "diverges" else None
        colour, marker = (one.colour, one.marker) if one else (plots.BLUE, "o")
        assert to_hex(points.get_facecolor()[0]).upper() == colour
        shape = MarkerStyle(marker)
        assert (
            points.get_paths()[0].vertices.tolist()
            == shape.get_path().transformed(shape.get_transform()).vertices.tolist()
        )


def test_every_level_is_drawn_and_no_two_look_alike(toy, records, drawn):
    names = tuple(f"level {k}" for k in range(5))
    told = [{**r, "metrics": {**r["metrics"], **dict.fromkeys(names, 3.0)}} for r in records]
    plots.plot_experiment(told, dataclasses.replace(toy, levels=tuple(Column(n, n) for n in names)), "a.png")
    (axes,) = drawn
    lines = [line for line in axes.lines if line.get_label() in names]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 5


def test_a_level_is_a_line_at_its_mean_and_absent_from_records_without_it(toy, records, drawn):
    leveled = dataclasses.replace(toy, levels=(Column("zero", "answers 0"), Column("nowhere", "of no record")))
    told = [{**r, "metrics": {**r["metrics"], "zero": 3.0 + k % 2}} for k, r in enumerate(records)]
    plots.plot_experiment(told, leveled, "a.png")
    (axes,) = drawn
    labelled = {line.get_label(): line.get_xdata()[0] for line in axes.lines if line.get_label()[0] != "_"}
    assert labelled == {"answers 0": pytest.approx(3.5, abs=0.2)}
    (legend,) = axes.figure.legends
    assert "answers 0" in [text.get_text() for text in legend.get_texts()]


def test_the_bar_is_the_median_and_the_legend_lies_inside_the_figure(toy, records, drawn):
    """A training that broke out was all that a mean showed, and beside long names the legend was cut at the right."""
    broken = {
        "variant": "soft",
        "seed": 2,
        "metrics": {**records[0]["metrics"], "test_mse": 2e4, "zero": 3.0, "mean": 2.0},
    }
    soft = next(r for r in records if r["variant"] == "soft")
    levels = (Column("zero", "answers 0"), Column("mean", "training mean"))
    long = {"soft": "soft with a name that leaves the axes little room"}
    told = [{**r, "variant": long.get(r["variant"], r["variant"])} for r in [*records, {**soft, **broken}]]
    plots.plot_experiment(told, dataclasses.replace(toy, levels=levels), "a.png")
    (axes,) = drawn
    row = [label.get_text() for label in axes.get_yticklabels()].index(long["soft"])
    assert axes.lines[row].get_xdata()[0] == pytest.approx(0.3)  # of .25, .3 and 20,000
    figure = axes.figure
    figure.canvas.draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 <= box.x1 <= whole.x1
    assert whole.y0 <= box.y0 <= box.y1 <= whole.y1


def test_the_axis_is_logarithmic_where_values_span_a_decade(toy, records, make_record, drawn):
    plots.plot_experiment([*records, make_record("none", test_mse=4.0)], toy, "a.png")
    plots.plot_experiment([*records, make_record("none", test_mse=-40.0)], toy, "a.png")
    assert [axes.get_xscale() for axes in drawn] == ["log", "linear"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.06 (median)", 1.06), ("2.2e-3", 2.2e-3), ("~.28", 0.28), ("not given", None), ("", None), ("4", 4.0)],
)
def test_the_published_number(text, value):
    assert plots.published_number(text) == value


def test_nothing_to_draw_is_an_error(toy, make_record, tmp_path):
    with pytest.raises(SofteqError, match="has a finite test_mse"):
        plots.plot_experiment([make_record(test_mse=math.nan)], toy, tmp_path / "a.png")
    with pytest.raises(SofteqError, match="no record of a variant soft-grid@VALUE"):
        plots.plot_precision([make_record(test_mse=1.0)], tmp_path / "a.png")
    with pytest.raises(SofteqError, match="no records"):
        plots.plot_experiment([], toy, tmp_path / "a.png")


def test_the_sweep_is_log_log_sorted_and_banded(sweep, drawn, make_record):
    plots.plot_precision(
        [*sweep, make_record("soft@1e2", 3, config={"residual_precision": 100.0}, test_mse=math.nan)], ""
    )
    (axes,) = drawn
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    curve = axes.lines[-1]
    assert list(curve.get_xdata()) == [0.1, 1.0, 100.0]
    assert list(curve.get_ydata()) == pytest.approx([1.6, 0.6, 2.6])
    assert [text.get_text() for text in axes.texts] == ["hard", "none", "soft"]
    assert axes.lines[0].get_ydata()[0] == 3.5
    assert "1 diverged run not drawn" in axes.get_title(loc="left")
    low, high = axes.collections[-1].get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.5, 2.7))


def test_a_sweep_without_a_precision_names_the_variant(make_record, tmp_path):
    with pytest.raises(SofteqError, match="soft@1: expected a residual precision above 0, got None"):
        plots.plot_precision([make_record("soft@1", test_mse=1.0)], tmp_path / "a.png")


def test_a_bad_file_is_refused(toy, records, tmp_path):
    with pytest.raises(SofteqValueError, match=r"ends in \.png, \.pdf, \.svg, got .*a\.jpeg"):
        plots.plot_experiment(records, toy, tmp_path / "a.jpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(SofteqError, match="cannot write the figure"):
        plots.plot_experiment(records, toy, tmp_path / "file" / "a.png")


def test_without_matplotlib_the_extra_is_named(toy, records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"softeq\[experiments\]"):
        plots.plot_experiment(records, toy, tmp_path / "a.png")


def test_drawing_leaves_matplotlib_as_it_was(toy, records, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.plot_experiment(records, dataclasses.replace(toy, published={}), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
