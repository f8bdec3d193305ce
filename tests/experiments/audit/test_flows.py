from dataclasses import replace

import pytest

from softeq.errors import SofteqValueError
from softeq.experiments.audit.configuration import neutral
from softeq.experiments.audit.flows import NAMES, flow_of
from softeq.measure.motion.colour import COLOURS
from softeq.measure.motion.flows import FLOWS

HOW = {"stencil": "central", "boundary": "periodic", "margin": 3}


def test_every_name_is_a_flow_of_that_name():
    assert [flow_of(name, neutral(), **HOW).name for name in NAMES] == list(NAMES)
    assert set(NAMES) == {*FLOWS, *COLOURS}


def test_motions_are_sampled_as_it_was_asked():
    flow = flow_of("rotation", neutral(), **HOW)
    assert (flow.stencil, flow.boundary, flow.margin) == ("central", "periodic", 3)


@pytest.mark.parametrize(("channels", "words"), [(1, "takes 1 channel$"), (2, "takes 2 channels$")])
def test_colours_need_red_green_and_blue(channels, words):
    grey = replace(neutral(), mean=(0.5,) * channels, std=(0.5,) * channels)
    assert flow_of("scale", grey, **HOW).name == "scale"
    with pytest.raises(SofteqValueError, match=words):
        flow_of("hue", grey, **HOW)
