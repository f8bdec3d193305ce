"""Packaged weights."""

import importlib.util

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.measure.loading import weights


def test_in_order_checks_shapes_and_names():
    ours = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    given = {"x.weight": torch.ones(2, 3), "x.bias": torch.ones(2)}
    assert list(weights.in_order(given, ours, "f")) == ["a.weight", "a.bias"]
    with pytest.raises(SofteqError, match="in its place"):
        weights.in_order({"x.weight": torch.ones(2, 3), "x.scale": torch.ones(2)}, ours, "f")
    with pytest.raises(SofteqError, match="expected 2 tensors"):
        weights.in_order({"x.weight": torch.ones(2, 3)}, ours, "f")


def test_packaged_file_errors(monkeypatch):
    with pytest.raises(SofteqValueError, match="packages ship weights for"):
        weights.packaged_file("resnet50")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[audit\]"):
        weights.packaged_file("tf_efficientnet_lite0")


@pytest.mark.slow
def test_the_vit_gives_what_its_onnx_graph_gives():
    import onnx
    import onnxruntime

    from softeq.measure.loading.sources import load_model

    path = weights.packaged_file("vit_small_patch14_dinov2")
    graph = onnx.load(str(path))
    (last,) = (
        n
        for n in graph.graph.node
        if n.name.startswith("/backbone/layernorm/") and n.output[0].endswith("Add_1_output_0")
    )
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (theirs,) = session.run([last.output[0]], {"input_image": x.numpy()})
    with torch.no_grad():
        ours = load_model("vit_small_patch14_dinov2").module.forward_features(x)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-3)
