"""A prior's overrides: names, patterns and wrappers, which goes before which, and what matches nothing."""

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
    prior_penalty,
)

from .test_prior import PRIOR, REP, expected_penalty, network


def test_overrides_by_name():
    model = network()
    prior = Prior(0.25, 3.0, {"3": {"residual": 10.0}, "2": {"equivariant": 0.0, "residual": 7.0}})
    expected = (
        expected_penalty(model[:2])
        + expected_penalty([model[3]], Prior(0.25, 10.0))
        + expected_penalty([model[2]], Prior(0.0, 7.0))
    )
    assert prior_penalty(model, prior).item() == pytest.approx(expected, rel=1e-5)
    assert prior.of("3") == {"equivariant": 0.25, "residual": 10.0}
    assert prior.of("0") == {"equivariant": 0.25, "residual": 3.0}


def test_an_override_reaches_a_projected_layer_and_the_root():
    layer = SoftLinear(REP, REP, parametrization="projected")
    assert prior_penalty(layer, Prior(1.0, 1.0, {"": {"equivariant": 0.2, "residual": 4.0}})).item() == pytest.approx(
        prior_penalty(layer, Prior(0.2, 4.0)).item()
    )


@pytest.mark.parametrize(
    "overrides", [{"layer": 3.0}, {"layer": None}, [("layer", {"residual": 1.0})], "layer"], ids=repr
)
def test_overrides_of_another_form_are_refused_by_name(overrides):
    with pytest.raises(SofteqTypeError, match="overrides"):
        Prior(overrides=overrides)


@pytest.mark.parametrize("key", ["0", "*"])
def test_an_unknown_pathway_is_refused_by_name(key):
    with pytest.raises(SofteqValueError, match=r"overrides\['.*'\]: expected pathways among .*got 'free'"):
        prior_penalty(network(), Prior(overrides={key: {"free": 1.0}}))


@pytest.mark.parametrize("wrap", ["compiled", "inner", "parallel", "averaged", "compiled parallel"])
@pytest.mark.parametrize("key", ["layers.3", "layers.*", "*.[3]", "_orig_mod.layers.3", "module.layers.3"])
def test_overrides_match_names_under_wrappers_and_patterns(wrap, key):
    model = nn.ModuleDict({"layers": network()})
    prior = Prior(0.25, 3.0, {key: {"residual": 10.0}})
    matched = range(4) if key == "layers.*" else [3]
    expected = sum(
        expected_penalty([layer], Prior(0.25, 10.0) if i in matched else PRIOR)
        for i, layer in enumerate(model["layers"])
    )
    assert prior_penalty(model, prior).item() == pytest.approx(expected, rel=1e-5)
    if wrap == "inner":
        model["layers"] = torch.compile(model["layers"], backend="eager")
    else:
        if "compiled" in wrap:
            model = torch.compile(model, backend="eager")
        if "parallel" in wrap:
            model = nn.DataParallel(model)
        if "averaged" in wrap:
            model = torch.optim.swa_utils.AveragedModel(model)
    assert prior_penalty(model, prior).item() == pytest.approx(expected, rel=1e-5)


def test_a_name_goes_before_a_later_pattern_and_that_before_an_earlier_one():
    prior = Prior(
        overrides={"a.0": {"residual": 1.0}, "*": {"residual": 2.0, "equivariant": 2.0}, "a.*": {"residual": 3.0}}
    )
    assert prior.of("a.0") == {"equivariant": 2.0, "residual": 1.0}
    assert prior.of("a.1") == {"equivariant": 2.0, "residual": 3.0}
    assert prior.of("b") == {"equivariant": 2.0, "residual": 2.0}
    assert prior.of("module.a._orig_mod.0") == prior.of("a.0")


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(SofteqValueError, match=r"prior.overrides: \['layers.\*'\] name no soft layer"):
        prior_penalty(network(), Prior(overrides={"layers.*": {"residual": 1.0}}))


def test_a_name_that_fits_two_layers_is_refused_and_full_names_are_not():
    two = nn.ModuleDict({"module": nn.ModuleDict({"a": SoftLinear(REP, REP)}), "a": SoftLinear(REP, REP)})
    with pytest.raises(SofteqValueError, match=r"overrides\['a'\]: names several soft layers"):
        prior_penalty(two, Prior(overrides={"a": {"residual": 1.0}}))
    full = Prior(0.25, 3.0, {"a": {"residual": 7.0}, "module.a": {"residual": 5.0}})
    expected = expected_penalty([two["a"]], Prior(0.25, 7.0)) + expected_penalty([two["module"]["a"]], Prior(0.25, 5.0))
    assert prior_penalty(two, full).item() == pytest.approx(expected, rel=1e-5)


def test_a_name_with_brackets_is_a_name_first():
    model = nn.ModuleDict({"a[0]": SoftLinear(REP, REP), "a0": SoftLinear(REP, REP)})
    prior = Prior(0.25, 3.0, {"a[0]": {"residual": 5.0}})
    assert prior.of("a[0]")["residual"] == 5.0
    assert prior_penalty(model, prior).item() > 0


def test_a_prior_does_not_follow_the_mapping_that_it_was_made_from():
    overrides = {"3": {"residual": 10.0}}
    prior = Prior(overrides=overrides)
    overrides["3"]["residual"] = 0.0
    overrides["9"] = {}
    assert prior.of("3")["residual"] == 10.0
    assert prior_penalty(network(), prior).item() > 0


def test_an_override_of_an_unknown_layer_is_refused_with_the_known_names():
    with pytest.raises(SofteqValueError, match=r"prior.overrides: \['9'\].*\['0', '1', '2', '3'\]"):
        prior_penalty(network(), Prior(overrides={"9": {"residual": 1.0}}))
