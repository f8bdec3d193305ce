"""Models by name where there is no network: one line with a way out, soon."""

import socket
import time

import pytest

from softeq.errors import SofteqError
from softeq.measure.loading import timm_models
from softeq.measure.loading.sources import load_model


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """Nothing was ever downloaded, and there is no proxy."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return constants


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["no name", "nobody answers"])
def test_no_network_is_one_line_with_a_way_out_soon(monkeypatch, empty_cache, kind):
    def resolved(*_, **__):
        if kind == "no name":
            raise OSError("no name service")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", closed_port()))]

    monkeypatch.setattr(timm_models.socket, "getaddrinfo", resolved)
    start = time.monotonic()
    with pytest.raises(SofteqError, match="--weights FILE") as caught:
        load_model("resnet10t", weights="pretrained")
    assert time.monotonic() - start < 15  # with the hub's own retries it is 48 s
    assert "\n" not in str(caught.value)
    assert empty_cache.HF_HUB_OFFLINE is False


def test_a_proxy_counts_as_a_network(monkeypatch, empty_cache):
    monkeypatch.setattr(timm_models, "_PATIENCE", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for proxy in (f"http://{address}", address):
            monkeypatch.setenv("https_proxy", proxy)
            assert timm_models._answers("https://no-such-host.invalid")
        monkeypatch.setenv("no_proxy", "no-such-host.invalid")
        assert not timm_models._answers("https://no-such-host.invalid")
        monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
    assert not timm_models._answers("https://no-such-host.invalid")


def test_a_model_without_pretrained_weights(empty_cache):
    with pytest.raises(SofteqError, match=r"No pretrained weights exist.*--weights FILE") as caught:
        load_model("seresnet18", weights="pretrained")
    assert "\n" not in str(caught.value)
