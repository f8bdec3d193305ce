"""Parts of a record that are made of finished measurements."""

import base64
import io

import numpy
import pytest
import torch

from softeq.experiments.audit import metrics
from softeq.experiments.audit.configuration import neutral
from softeq.measure.loading.images import load_images


def levels(entry, name):
    data = numpy.frombuffer(base64.b64decode(entry[name]), dtype=numpy.uint8)
    return data.reshape(entry["height"], entry["width"])


def test_a_map_is_kept_in_bytes_of_its_peak():
    mean, first = torch.arange(12.0).reshape(3, 4), torch.zeros(3, 4)
    entry = metrics.tile(mean, first)
    assert (entry["mean_peak"], entry["first_peak"]) == (11.0, 0.0)
    assert levels(entry, "mean").tolist() == (mean / 11 * 255).round().int().tolist()
    assert not levels(entry, "first").any()


def test_a_large_map_is_averaged_down_in_its_proportions():
    field = torch.zeros(40, 160)
    field[:, 80:] = 2.0
    entry = metrics.tile(field, field)
    assert (entry["height"], entry["width"]) == (10, metrics.CELLS)
    assert set(levels(entry, "mean")[:, :20].flat) == {0}
    assert set(levels(entry, "mean")[:, 20:].flat) == {255}


@pytest.mark.parametrize(
    ("name", "own"), [("", "the model"), ("net.conv", "conv"), ("net.", ""), ("softmax", "the model")]
)
def test_modules_have_the_names_that_the_user_knows(name, own):
    assert metrics._own_name(name, "net.", "the model") == own


def test_the_first_image_is_shown_as_it_was_before_it_was_normalised():
    image = pytest.importorskip("PIL.Image")
    model = neutral()
    images = load_images("noise", model=model, limit=1)
    images.x[:] = torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1)  # red, half green, no blue
    shown = numpy.asarray(image.open(io.BytesIO(base64.b64decode(metrics.thumbnail(model, images)))))
    assert max(shown.shape[:2]) <= metrics.THUMBNAIL
    assert numpy.abs(shown.reshape(-1, 3).mean(0) - [255, 127.5, 0]).max() < 5
