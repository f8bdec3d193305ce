import json
import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure import FLOWS, concatenate, local_equivariance_error

X = torch.rand(4, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, -1, 1])


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(256, 5)).double().eval()


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_the_change_of_a_probability_is_that_of_finite_differences(output):
    model, flows = classifier(), ["translation_x", "rotation", "scale"]
    found = local_equivariance_error(model, X, flows, output=output, labels=LABELS, batch_size=3).classes
    top = model(X).argmax(1)
    for k, name in enumerate(flows):
        h = 1e-5
        with torch.no_grad():
            ahead, behind = (model(FLOWS[name](X, s * h)).softmax(1) for s in (1, -1))
        slope = (ahead - behind) / (2 * h)
        torch.testing.assert_close(found.top[:, k], slope[range(4), top], atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(
            found.true[:, k].nan_to_num(), slope[range(4), LABELS] * (LABELS >= 0), atol=1e-7, rtol=1e-4
        )
    assert found.true[2].isnan().all()
    per = found.per_unit()
    torch.testing.assert_close(per["rotation"], found.top[:, 1].abs() * math.pi / 180)
    torch.testing.assert_close(per["scale"], found.top[:, 2].abs() / 100)
    record = json.loads(json.dumps(found.to_dict()))
    assert [record[name]["per"] for name in flows] == ["pixel", "degree", "percent"]
    assert record["rotation"]["true"]["missing"] == 1


def test_without_labels_and_joined():
    model = classifier()
    parts = [local_equivariance_error(model, part, ["scale"]) for part in X.split(2)]
    assert parts[0].classes.true is None
    with pytest.raises(SofteqValueError, match="labels"):
        parts[0].classes.per_unit("true")
    with pytest.raises(SofteqValueError, match="expected 'top'"):
        parts[0].classes.per_unit("first")
    whole = local_equivariance_error(model, X, ["scale"])
    torch.testing.assert_close(concatenate(parts).classes.top, whole.classes.top)
    assert local_equivariance_error(lambda x: x.flatten(1)[:, :1], X, ["scale"], output="logits").classes is None


def test_bad_labels():
    for labels, error in (
        (LABELS[:3], SofteqValueError),
        (LABELS.double(), SofteqTypeError),
        ([0, 1], SofteqTypeError),
    ):
        with pytest.raises(error, match="labels: expected"):
            local_equivariance_error(classifier(), X, ["scale"], labels=labels)
