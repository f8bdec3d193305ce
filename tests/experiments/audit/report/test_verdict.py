"""Sentences and warnings, computed."""

import copy

import pytest

from softeq.experiments.audit.report.groups import group_records
from softeq.experiments.audit.report.verdict import common_warnings, sentences, stage, warnings_of, wrapped

from .test_write import _record


def audited(flow="translation_x", model="cnn", *, change=0.05, kept=19, ratio=0.05, slope=0.06, **config):
    record = copy.deepcopy(_record(model, flow, **config))
    row = {"step": 1.0, "relative": 0.1, "relative_interval": [0.05, 0.2], "change": change, "kept": kept}
    record["metrics"] |= {
        "ratio_to_control": ratio,
        "ratio_interval": [ratio / 2, ratio * 2],
        "curve": {"unit": "pixels", "images": 20, "rows": [row]},
        "top_slope_per_sample": [slope, slope],
        "layerwise": {"shares": [["patch_embed.proj", 0.7], ["blocks.0.mlp", 0.2], ["blocks.0.attn", 0.1]], "gap": 0},
    }
    return record


def told(*records):
    (group,) = group_records(list(records))
    (flows,) = group.models.values()
    return sentences(flows, group.settings)


def test_what_a_pixel_does():
    found = told(audited(), audited("translation_y", change=0.07, kept=18))
    assert found[0] == (
        "Moved by one pixel, an image changes the probability of its class by 0.06 on average, and 37 of 40 decisions"
        " stand."
    )


def test_where_it_arises():
    assert "Most of the error under shifts arises in patch_embed (70 % of it)." in told(audited())
    held = audited()
    shares = [["net.body.stem.conv", 0.6], ["net.body.head", 0.3], ["net.body: between its modules", 0.1]]
    held["metrics"]["layerwise"] = {"shares": [*shares, ["the model: between its modules", 0.0]], "gap": 0}
    assert "Most of the error under shifts arises in net.body.stem (60 % of it)." in told(held)
    held["metrics"]["layerwise"]["shares"] = [["conv", 1.5], ["pool", -0.5]]
    assert "The error under shifts arises in conv (150 % of what is left: others take some away)." in told(held)
    assert wrapped(["net.conv"]) == "net."
    assert wrapped(["conv", "the model"]) == wrapped(["the model"]) == ""
    assert stage("blocks.3.attn.qkv") == "blocks.3"
    assert stage("blocks: between its modules") == "blocks"
    assert stage("the model: between its modules") == "what it computes between its modules"


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.01, "most of the symmetry"), (0.3, "part of the symmetry"), (0.9, "not equivariant")],
)
def test_beside_the_control(ratio, words):
    (sentence,) = [text for text in told(audited(ratio=ratio)) if text.startswith("Under shifts the error is")]
    assert words in sentence


def test_a_slope_that_says_little_of_whole_pixels_is_told():
    assert not any("overstates" in text for text in told(audited(slope=0.06)))
    assert any("overstates whole pixels 4 times" in text for text in told(audited(slope=0.2)))


def warned(record):
    (group,) = group_records([record])
    (flows,) = group.models.values()
    return " ".join(warnings_of(flows, group.settings))


def test_warnings():
    assert "weights are random" in warned(audited(weights="random"))
    assert "as its factory made them" in warned(audited(weights="as the factory made it"))
    guess = audited(weights="x", classes=10)
    guess["metrics"] |= {"accuracy": 0.1, "labelled": 20}
    assert "accuracy (10 % on 20 images) is that of guessing" in warned(guess)
    guess["metrics"]["accuracy"] = 0.9
    assert "guessing" not in warned(guess)
    assert "no class head" in warned(audited(output="logits", classes=None))
    chosen = audited()
    chosen["metrics"]["choices"] = ["mean 0.5"]
    assert "Chosen for you: mean 0.5." in warned(chosen)


def test_warnings_of_a_chapter():
    (group,) = group_records([audited(output="logits", classes=None), audited(model="vit", output="logits", classes=5)])
    found = " ".join(common_warnings(group.settings, group.models))
    assert "4 images are few" in found
    assert "The images are noise" in found
    assert "features here" in found
    (group,) = group_records([audited(images="a.png", count=1)])
    assert common_warnings(group.settings, group.models)[0].startswith("It is one image")
    (group,) = group_records([audited(images="demo", count=60)])
    assert common_warnings(group.settings, group.models) == []
