"""What is refused before anything is loaded, and what follows from the options."""

from dataclasses import replace

import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.audit.settings import Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "relativ"}, "unknown norm 'relativ': .*did you mean 'relative'"),
        ({"output": "words"}, "unknown output"),
        ({"device": "tpu"}, "unknown device"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"control": "nothing"}, "unknown control"),
        ({"stencil": "cubic"}, "unknown stencil"),
        ({"boundary": "edge"}, "unknown boundary"),
        ({"flows": ()}, "flows: expected some of translation_x, .*got none"),
        ({"flows": ("rotation", "shearing")}, "unknown flow 'shearing'"),
        ({"flows": ("hue",), "control": "phase"}, "control: phase has no meaning for hue"),
        ({"batch_size": 0}, "batch-size: expected 1 or more, got 0"),
        ({"limit": 0}, "limit"),
        ({"limit": 100_001}, "limit: expected at most 100,000"),
        ({"margin": -1}, "margin"),
        ({"seed": -1}, "seed"),
        ({"image_size": 0}, "image-size"),
        ({"num_classes": -1}, "num-classes"),
        ({"weights_key": "ema"}, "weights-key: expected --weights FILE"),
        ({"weights_key": "ema", "weights": "random"}, "weights-key: expected --weights FILE"),
    ],
)
def test_options_out_of_range_are_named(changes, message):
    Settings().check(["a"])
    with pytest.raises(SofteqValueError, match=message):
        replace(Settings(), **changes).check(["a"])


def test_a_file_of_weights_is_one_networks():
    own = Settings(weights="a.pt", weights_key="ema")
    own.check(["a"])
    with pytest.raises(SofteqValueError, match=r"one model for the file a\.pt, got 2"):
        own.check(["a", "b"])
    Settings(weights="random").check(["a", "b"])


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Settings().torch_device.type == "cpu"
    with pytest.raises(SofteqError, match="cuda was asked for"):
        Settings(device="cuda").check(["a"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Settings().torch_device.type == "cuda"
    assert Settings(device="cpu").torch_device.type == "cpu"


def test_the_control_follows_the_images_and_the_flow():
    assert [Settings().control_of(n) for n in (1, 2)] == ["phase", "samples"]
    assert Settings().control_of(2, "hue") == "noise"
    assert Settings(control="phase").control_of(2, "rotation") == "phase"


def test_what_a_record_says_is_of_the_images_that_were_read():
    few = Settings(layerwise=True).shared_config(2, "ab")
    assert (few["count"], few["stencil_images"], few["layerwise"], few["control"]) == (2, 2, 2, "samples")
    assert Settings().shared_config(50, "ab")["layerwise"] == 0
    assert "decibel_draws" not in few
    assert "decibel_draws" in Settings(output="map").shared_config(2, "ab")
