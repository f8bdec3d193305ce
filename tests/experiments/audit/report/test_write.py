import base64
import csv
import io
from html.parser import HTMLParser

import numpy
import pytest

from softeq.errors import SofteqError
from softeq.experiments.audit.report.groups import csv_text, group_records
from softeq.experiments.audit.report.page import html_text
from softeq.experiments.audit.report.sections import relative_to_declared
from softeq.experiments.audit.report.write import write_report

EVIL = '<script>alert("1")</script>&'
MAP = base64.b64encode(numpy.arange(12, dtype=numpy.uint8).tobytes()).decode()


def _record(model="cnn", flow="rotation", *, metrics=None, experiment="audit", **config):
    own = {"model": model, "flow": flow, "weights": "random", "weights_hash": "ab", "image_size": [3, 4]}
    shared = {"images": "noise", "source_hash": "cd", "count": 4, "stencil": "bspline", "boundary": "mirror"}
    shared |= {"margin": 2, "norm": "mean_square", "output": "probabilities", "dtype": "float32", "seed": 0}
    measured = {
        "unit": "radians",
        "lee_mean": 0.25,
        "lee_median": 0.2,
        "lee_quantiles": {"0.05": 0.1},
        "lee_interval": [0.125, 0.5],
        "control_mean": 1.0,
        "ratio_to_control": 0.31,
        "ratio_interval": [0.2, 0.4],
        "missing": 1,
        "accuracy": 0.5,
        "parameters": 1500,
        "skipped": [["a.png", "no image"]],
        "stencils": {
            "bspline": {"lee_mean": 0.5, "declared": True},
            "central": {"lee_mean": 2.0},
            "fourier": {"not_measurable": "too large"},
        },
        "directions": {"most": {"text": "translation", "interval": "0.1 to 0.2"}, "least": {"text": "shear"}},
        "layerwise": {"shares": [["conv", 1.5], ["head", -0.5]], "gap": 1e-9, "not_attributable": [["act", "why not"]]},
        "map": {"height": 3, "width": 4, "mean": MAP, "first": MAP, "mean_peak": 0.1, "first_peak": 0.2},
        "image": base64.b64encode(b"an image").decode(),
    }
    return {
        "experiment": experiment,
        "config": own | shared | config,
        "metrics": measured if metrics is None else metrics,
        "provenance": {"softeq": "0.1", "commit": "1234567890ab", "device": "cpu", "utc": "2026-01-01"},
    }


class _Page(HTMLParser):
    """Collects what the tests ask about, and whether the tags nest."""

    VOID = frozenset({"meta", "img", "br", "circle", "rect", "line", "polygon"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def _page(*records, failures=()):
    return _Page(html_text(group_records(records), failures=failures))


def test_the_head_says_what_was_measured_on_what():
    words = _page(_record()).words
    assert "norm mean_square: the mean of (Lf)² over the output's entries (Eq. 4" in words
    assert "output space probabilities: softmax probabilities, taken as invariant" in words
    assert "stencil bspline, boundary mirror, margin 2 pixels" in words
    assert "images noise, n = 4, hash cd" in words


def test_the_numbers_of_a_model():
    words = _page(_record()).words
    assert "0.25 [0.125, 0.5] 1 image left out 0.2 0.31 – 4 to 4" in words
    assert "rotation per radian²" in words
    assert "1.5 k parameters" in words
    assert "accuracy 50.0 %" in words
    assert "Most equivariant affine direction: translation, 0.1 to 0.2" in words
    assert "affine direction: shear" not in words  # it has no interval
    assert "per radian²" not in _page(_record(norm="mean_abs")).words


def test_what_could_not_be_measured_is_listed_with_the_reason_and_never_as_a_number():
    lost = _record(model="vit", metrics={"not_measurable": "the output holds NaN"})
    words = _page(_record(), lost).words
    assert "vit LEE rotation the output holds NaN" in words
    assert "cnn stencil fourier rotation too large" in words
    assert "not attributable: act" in words
    assert "vit: LEE in" not in words
    assert "Everything that was asked for could be measured" not in words
    alone = _page(lost).words
    assert "LEE for each flow" not in alone
    assert "the output holds NaN" in alone
    good = _record()
    good["metrics"]["stencils"].pop("fourier")
    assert "Everything that was asked for could be measured" in _page(good).words


def test_images_left_out_and_failed_models_are_listed():
    words = _page(_record(), failures=[("resnet9000", "no such model")]).words
    assert "a.png: no image" in words
    assert "resnet9000 no such model" in words
    assert "no such model" not in _page(_record()).words


def test_every_text_is_escaped():
    record = _record(EVIL, images=EVIL, weights=EVIL, dtype=EVIL)
    metrics = record["metrics"]
    metrics["skipped"] = [[EVIL, EVIL]]
    metrics["directions"] = {"most": {"text": EVIL}, "least": {"text": EVIL}}
    metrics["layerwise"] = {"shares": [[EVIL, 1.0]], "gap": 0.0, "not_attributable": [[EVIL, EVIL]]}
    metrics["stencils"][EVIL] = {"lee_mean": 1.0}
    metrics["image"] = EVIL
    lost = _record("other", EVIL, metrics={"not_measurable": EVIL}, images=EVIL, weights=EVIL, dtype=EVIL)
    lost["provenance"]["device"] = EVIL
    page = html_text(group_records([record, lost, _record("third", images=EVIL, dtype=EVIL)]), failures=[(EVIL, EVIL)])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 12
    assert _Page(page).all("script") == []


def test_the_page_needs_no_network_and_is_accessible():
    page = _page(_record(), _record(flow="scale"), _record("vit"))
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
        assert tag not in ("script", "link", "iframe")
        assert not (name := attributes.get("style")) or "url(" not in name
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    assert "width=device-width" in page.all("meta")[1]["content"]


def test_no_figure_is_wider_than_a_phone():
    page = _page(_record(), _record("vit", "translation_x"))
    assert max(int(svg["width"]) for svg in page.all("svg")) <= 372


def test_configurations_get_chapters_of_their_own():
    records = [_record(), _record(stencil="central"), _record(flow="scale"), _record(seed=1)]
    groups = group_records(records)
    assert [(g.settings["stencil"], g.settings["seed"], list(g.models["cnn"])) for g in groups] == [
        ("bspline", 0, ["rotation", "scale"]),
        ("central", 0, ["rotation"]),
        ("bspline", 1, ["rotation"]),
    ]
    page = _page(*records)
    assert len(page.all("h2")) == 3
    assert "3 configurations are in these records" in page.words
    assert "configurations are in" not in _page(_record()).words


def test_what_an_interrupted_audit_lacks_is_named():
    words = _page(_record(), _record(flow="scale"), _record("vit")).words
    assert words.count("No record yet of") == 1
    assert "No record yet of scale." in words


def test_other_experiments_are_left_out_and_a_record_without_a_flow_is_refused():
    assert group_records([_record(experiment="inertia")]) == []
    assert "There are no records" in _page().words
    broken = _record()
    broken["config"].pop("flow")
    with pytest.raises(SofteqError, match="has no text as 'flow'"):
        group_records([broken])


def test_lee_stands_against_accuracy_if_all_have_one_else_against_size():
    other = _record("vit")
    assert "LEE against accuracy" in _page(_record(), other).words
    other["metrics"]["accuracy"] = None
    assert "LEE against parameters" in _page(_record(), other).words
    assert "LEE against" not in _page(_record()).words


def test_stencils_relative_to_the_declared_one():
    metrics = _record()["metrics"]
    assert relative_to_declared(metrics) == {"central": 4.0}
    metrics["stencils"]["bspline"]["lee_mean"] = 0.0
    assert relative_to_declared(metrics) == {}
    assert relative_to_declared({}) == {}


def test_a_damaged_map_is_said_to_be_damaged():
    record = _record()
    record["metrics"]["map"]["mean"] = "&&&"
    assert "the record's map is damaged" in _page(record).words
    assert "damaged" not in _page(_record()).words


def test_many_modules_are_summed_up():
    record = _record()
    record["metrics"]["layerwise"]["shares"] = [[f"m{i}", 0.05] for i in range(20)]
    words = _page(record).words
    assert "12 others together 60.0 %" in words
    assert "m19" not in words


def test_files_are_replaced_whole(tmp_path):
    folder = tmp_path / "a" / "b"
    paths = write_report([_record()], folder)
    assert [path.name for path in paths] == ["audit.csv", "audit.html"]
    write_report([_record(), _record("vit")], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["audit.csv", "audit.html"]
    assert "vit" in paths[1].read_text()
    assert paths[1].stat().st_mode & 0o044 == 0o044
    (tmp_path / "file").write_text("")
    with pytest.raises(SofteqError, match=r"cannot write the report into .*another with --out"):
        write_report([_record()], tmp_path / "file")


def test_a_name_is_no_formula_in_a_spreadsheet():
    rows = list(csv.DictReader(io.StringIO(csv_text([_record("=HYPERLINK(1)"), _record("@x"), _record("cnn")]))))
    assert [row["model"] for row in rows] == ["'=HYPERLINK(1)", "'@x", "cnn"]
    assert rows[0]["lee_mean"] == "0.25"


def test_bytes_that_are_no_text_do_not_lose_the_report(tmp_path):
    write_report([_record("caf\udce9", images="caf\udce9")], tmp_path)
    assert "caf\\udce9" in (tmp_path / "audit.html").read_text("utf-8")
    assert "caf\\udce9" in (tmp_path / "audit.csv").read_text("utf-8")
