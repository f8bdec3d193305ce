"""LeeResult: what it says about its values, in numbers, in words and as JSON; and which results may stand together."""

import dataclasses
import json
import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.flows import FLOWS
from softeq.measure.results.directions import rms_displacements
from softeq.measure.results.result import LeeResult, concatenate

SIZE = (12, 20)


def gram_of(direction, b=4, floor=1e-3):
    """(B, 6, 6) of a model that answers to one direction (rescaled basis) and hardly to what is orthogonal to it."""
    scales = rms_displacements(SIZE)
    direction = direction / direction.norm()
    scaled = torch.outer(direction, direction) + floor * torch.eye(6, dtype=torch.float64)
    return (scaled * scales[:, None] * scales).expand(b, 6, 6).clone()


def result(b=6, seed=0, control=True, flows=("translation_x", "rotation"), **changes):
    generator = torch.Generator().manual_seed(seed)
    values = torch.exp(torch.randn(b, len(flows), generator=generator, dtype=torch.float64))
    whole = LeeResult(
        flows=flows,
        units=tuple(FLOWS[name].unit for name in flows),
        norm="mean_square",
        output="probabilities",
        stencil="bspline",
        boundary="mirror",
        margin=0,
        values={"mean_square": values, "mean_abs": values.sqrt(), "relative": 3 * values},
        control={"mean_square": 4 * values, "mean_abs": 2 * values.sqrt(), "relative": 12 * values}
        if control
        else None,
        gram=gram_of(torch.tensor([0.0, 0, 0, 0, 1, 0], dtype=torch.float64), b),
        image_size=SIZE,
    )
    return dataclasses.replace(whole, **changes)


def with_nan(whole, row, column):
    values = {norm: v.clone() for norm, v in whole.values.items()}
    for v in values.values():
        v[row, column] = math.nan
    return dataclasses.replace(whole, values=values)


def test_statistics_are_those_of_the_samples():
    r = result()
    assert len(r) == 6
    assert r.mean()["rotation"] == pytest.approx(float(r.per_sample()[:, 1].mean()))
    assert r.median()["rotation"] == pytest.approx(float(torch.quantile(r.per_sample()[:, 1], 0.5)))
    assert r.quantile(1.0)["translation_x"] == pytest.approx(float(r.per_sample()[:, 0].max()))
    assert r.mean("relative")["rotation"] == pytest.approx(3 * r.mean()["rotation"])
    low, high = r.interval("rotation")
    assert low < r.mean()["rotation"] < high


def test_a_sample_that_was_not_measured_is_counted_and_is_no_zero():
    whole, holed = result(), with_nan(result(), 2, 1)
    kept = torch.cat([whole.per_sample()[:2, 1], whole.per_sample()[3:, 1]])
    assert holed.mean()["rotation"] == pytest.approx(float(kept.mean()))
    assert (holed.summary()["rotation"].count, holed.summary()["rotation"].missing) == (5, 1)
    assert holed.summary()["translation_x"].missing == 0
    assert "(1 not measurable)" in str(holed)
    assert holed.to_dict()["values"]["mean_square"][2][1] is None


def test_ratio_to_control_per_sample_and_norm():
    torch.testing.assert_close(result().ratio_to_control(), torch.full((6, 2), 0.25, dtype=torch.float64))
    torch.testing.assert_close(result().ratio_to_control("mean_abs"), torch.full((6, 2), 0.5, dtype=torch.float64))
    with pytest.raises(NotMeasurable, match="control=True"):
        result(control=False).ratio_to_control()


def test_directions_are_those_of_the_gram_matrix():
    assert result().directions().least.text.startswith("stretch_x (100%")
    with pytest.raises(NotMeasurable, match="images"):
        result(gram=None).directions()


def test_unknown_names_are_named():
    with pytest.raises(SofteqValueError, match="mean_square, mean_abs, relative"):
        result().mean("rms")
    with pytest.raises(SofteqValueError, match="translation_x, rotation"):
        result().interval("scale")


def test_table_names_all_that_the_numbers_depend_on():
    text = str(result())
    for word in ("mean_square", "probabilities", "bspline", "mirror", "margin 0", "control", "ratio", "radians", "95%"):
        assert word in text
    assert "control" not in str(result(control=False))


def test_to_dict_is_json_and_complete():
    record = json.loads(json.dumps(result().to_dict(), allow_nan=False))
    assert record["norm"] == "mean_square"
    assert record["image_size"] == [12, 20]
    assert record["summary"]["relative"]["rotation"]["count"] == 6
    assert len(record["values"]["mean_abs"]) == 6
    assert record["ratio_to_control"]["rotation"] == pytest.approx(0.25)
    assert record["directions"]["least"]["components"]["stretch_x"] == pytest.approx(1.0)
    bare = result(control=False, gram=None, image_size=None).to_dict()
    assert bare["control"] is None
    assert bare["directions"] is None
    json.dumps(bare, allow_nan=False)


def test_concatenating_pieces_gives_the_whole():
    pieces = [result(4, seed=1), result(3, seed=2)]
    whole = concatenate(pieces)
    assert len(whole) == 7
    torch.testing.assert_close(whole.per_sample()[4:], pieces[1].per_sample())
    torch.testing.assert_close(whole.control["relative"][:4], pieces[0].control["relative"])
    assert whole.gram.shape == (7, 6, 6)
    assert concatenate([pieces[0], result(3, control=False)]).control is None


@pytest.mark.parametrize("changes", [{"stencil": "central"}, {"output": "logits"}, {"margin": 3}, {"norm": "relative"}])
def test_results_measured_differently_are_not_joined(changes):
    with pytest.raises(SofteqValueError, match=next(iter(changes))):
        concatenate([result(), result(**changes)])
    with pytest.raises(SofteqValueError, match="at least one"):
        concatenate([])


def test_two_models_on_the_same_images():
    a = result()
    b = dataclasses.replace(a, values={norm: 2 * v for norm, v in a.values.items()})
    compared = a.compare(b, "rotation")
    assert compared.ratio == pytest.approx(0.5)
    assert compared.share_greater == 0.0
    with pytest.raises(SofteqValueError, match="stencil"):
        a.compare(dataclasses.replace(b, stencil="central"), "rotation")
    with pytest.raises(SofteqValueError, match="one value per image"):
        a.compare(result(5), "rotation")


def test_sizes_may_differ_but_not_where_the_unit_is_a_pixel():
    a, b = result(), result(image_size=(24, 40))
    assert a.compare(b, "rotation").ratio == pytest.approx(1.0)
    with pytest.raises(SofteqValueError, match="image_size"):
        a.compare(b, "translation_x")
