"""The figure of cnn-vs-vit, from records whose answers are known."""

import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.images import architecture_plots
from softeq.experiments.images.architecture_plots import plot_architectures
from softeq.experiments.images.architectures import NETWORKS, STENCILS

from .family_records import spoil


def test_lines_go_through_common_epochs_to_the_mean_of_the_ends(uneven):
    own = [r for r in uneven if r["variant"] == "cnn-max"]
    curve = architecture_plots._curve(own, "bspline")
    assert curve == {0.0: pytest.approx([0.04, 0.044]), 7.75: pytest.approx([0.04, 0.044])}
    alone = architecture_plots._curve(own[1:], "bspline")
    assert list(alone) == [0, 2, 3, 8, 12.5]
    own[1]["metrics"]["diverged_at_step"] = 9
    assert list(architecture_plots._curve(own, "bspline")) == [0, 1, 3]
    own[0]["metrics"]["diverged_at_step"] = 9
    assert architecture_plots._curve(own, "bspline") == {}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_figure_is_drawn(records, tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    plot_architectures(records, path)
    content = path.read_bytes()
    if suffix == ".png":
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        return
    for text in (*NETWORKS, "cubic B-spline", "central differences", "reference (bilinear kink)", "ViT / CNN"):
        assert text in content.decode()


def test_the_figure_leaves_out_what_could_not_be_measured(records, tmp_path):
    spoil(records[0], 0, "bspline")
    for r in records:
        spoil(r, 3, "reference")
    del records[1:3]
    records[-1]["metrics"]["matched_epoch"] = None
    plot_architectures(records, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_what_cannot_be_drawn(records, tmp_path):
    with pytest.raises(SofteqValueError, match="expected a name that ends in"):
        plot_architectures(records, tmp_path / "figure.txt")
    for r in records:
        for epoch in {c["epoch"] for c in r["metrics"]["checkpoints"]}:
            for stencil in STENCILS:
                spoil(r, epoch, stencil)
    with pytest.raises(SofteqError, match="nothing to draw"):
        plot_architectures(records, tmp_path / "figure.png")
