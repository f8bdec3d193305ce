"""Output spaces: what is read of what a model returned, and how it is declared to move."""

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import ImageMap, Invariant, Pick
from softeq.measure.output import output_space

LOGITS = torch.tensor([[1.0, 2.0], [0.0, -1.0]])


def test_probabilities_and_logits_are_invariant():
    for name, expected in (("probabilities", LOGITS.softmax(1)), ("logits", LOGITS)):
        space = output_space(name)
        assert space.name == name
        assert isinstance(space.action, Invariant)
        torch.testing.assert_close(space.read(LOGITS), expected)
        torch.testing.assert_close(space.on(lambda x: x + 1)(LOGITS - 1), expected)


def test_a_module_stays_a_module_under_the_head():
    model = nn.Linear(2, 3)
    headed = output_space("probabilities").on(model)
    assert isinstance(headed, nn.Module)
    assert next(headed.parameters()) is model.weight
    torch.testing.assert_close(headed(LOGITS), model(LOGITS).softmax(1))


def test_an_action_reads_the_raw_output():
    space = output_space(Pick("map", ImageMap()))
    f = lambda x: {"map": x}
    assert space.on(f) is f
    assert space.read({"map": LOGITS}) is LOGITS
    with pytest.raises(NotMeasurable, match="Pick"):
        output_space(Invariant()).read((LOGITS,))


@pytest.mark.parametrize(
    ("raw", "message"),
    [((LOGITS,), "Pick"), (LOGITS[None], "ImageMap"), (LOGITS[:, :1], "one logit")],
)
def test_what_is_no_class_output_is_refused(raw, message):
    with pytest.raises(NotMeasurable, match=message):
        output_space("probabilities").read(raw)


def test_unknown_spaces_are_named():
    with pytest.raises(SofteqValueError, match="'softmax'"):
        output_space("softmax")
    with pytest.raises(SofteqTypeError, match="int"):
        output_space(3)
