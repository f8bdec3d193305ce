"""Flows under one stencil, boundary and margin; the control's noise; which images a flow does not move."""

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.measure.motion.fields import FibreFlow
from softeq.measure.motion.flows import FLOWS, GENERATORS
from softeq.measure.motion.spaces import point_flows
from softeq.measure.settings import resolve


def test_image_flows_get_what_is_asked_and_stencil_none_leaves_them():
    own = FLOWS["scale"].with_(stencil="central", margin=2)
    asked = resolve(own, "fourier", "periodic", 1)
    assert (asked.flows[0].stencil, asked.flows[0].boundary, asked.flows[0].margin) == ("fourier", "periodic", 1)
    kept = resolve(own, None, "periodic", 1)
    assert (kept.stencil, kept.boundary, kept.margin) == ("central", "mirror", 2)
    unlike = resolve([own, FLOWS["rotation"]], None, "mirror", 0)
    assert (unlike.images, unlike.stencil, unlike.names) == (False, "own", ("scale", "rotation"))


def test_flows_that_turn_channels_get_them_too():
    turning = FibreFlow(FLOWS["rotation"], torch.zeros(2, 2, dtype=torch.float64))
    (asked,) = resolve([turning], "central", "mirror", 1).flows
    assert (asked.base.stencil, asked.base.margin, asked.fibre is turning.fibre) == ("central", 1, True)


def test_other_data_have_no_image_size():
    settings = resolve(point_flows(3), "bspline", "mirror", 0)
    assert not settings.images
    assert settings.image_size(torch.zeros(2, 5, 3)) is None


def test_a_name_may_stand_once():
    with pytest.raises(SofteqValueError, match="once"):
        resolve(["scale", FLOWS["scale"]], "bspline", "mirror", 0)


def test_noise_is_the_same_in_any_batching_and_dtype_and_0_in_the_margin():
    settings = resolve("scale", "bspline", "mirror", 2)
    x = torch.zeros(5, 3, 7, 9)
    whole = settings.noise(x, torch.Generator().manual_seed(3), 3)
    generator = torch.Generator().manual_seed(3)
    pieces = torch.cat([settings.noise(part, generator, 3) for part in x.double().split(2)], 1)
    torch.testing.assert_close(pieces, whole.double(), rtol=0, atol=0)
    assert (whole[..., 2:-2, 2:-2] != 0).all()
    whole[..., 2:-2, 2:-2] = 0
    assert not whole.any()
    last = resolve(FLOWS["scale"].with_(channels_last=True), "bspline", "mirror", 2)
    drawn = last.noise(x.movedim(1, -1), torch.Generator().manual_seed(3))[0]
    assert (drawn[:, 2:-2, 2:-2] != 0).all()
    assert not drawn[:, :2].any()


def test_still_images_by_axis():
    settings = resolve(FLOWS, "bspline", "mirror", 0)
    x = torch.rand(3, 2, 5, 6)
    x[0] = x[0, :, :1]  # the same in every row
    x[1] = 0.3
    still = settings.still(x, settings.coefficients())
    names = [{name for name, flag in zip(settings.names, row, strict=True) if flag} for row in still.tolist()]
    assert names == [{"translation_y", "shear_y", "stretch_y"}, set(FLOWS), set()]


def test_a_single_row_has_no_shear():
    settings = resolve(FLOWS, "bspline", "mirror", 0)
    still = settings.still(torch.rand(1, 2, 1, 6), settings.coefficients())[0].tolist()
    moved = {name for name, flag in zip(settings.names, still, strict=True) if not flag}
    assert moved == {"translation_x", "scale", "stretch_x"}
    x = torch.rand(1, 2, 1, 6, dtype=torch.float64)
    for name, flow in FLOWS.items():
        assert bool(flow.tangent(x).any()) == (name in moved)


def test_affine_flows_share_their_generators_and_others_stand_beside_them():
    turn = point_flows(2)[2]
    settings = resolve(["scale", turn, "translation_y"], "central", "mirror", 1)
    pushed, combination = settings.pushed()
    assert [flow.name for flow in pushed] == [*GENERATORS, turn.name]
    assert settings.images
    assert settings.stencil == "central"
    assert combination.tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0]]
    alone = resolve([turn], "central", "mirror", 1)
    assert alone.pushed()[1].tolist() == [[1]]
