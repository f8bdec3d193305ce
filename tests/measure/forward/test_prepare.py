import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import math_attention, measurable, repeated


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.fused_attn = True
        self.seen = None

    def forward(self, x):
        self.seen = self.fused_attn
        return F.scaled_dot_product_attention(x, x, x)


def network():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Sequential(nn.ReLU6(True))
    )
    model[1].eval()  # one part frozen on purpose
    model[0].bias.requires_grad_(False)
    return model


def state(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [getattr(m, "inplace", None) for m in model.modules()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(fails):
    model = network()
    modes, learnt, inplace, weights = state(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        with measurable(model) as same:
            assert same is model
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            assert not any(getattr(m, "inplace", False) for m in model.modules())
            assert not torch.backends.mha.get_fastpath_enabled()
            model(torch.randn(2, 3, 8, 8))
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert state(model)[:3] == (modes, learnt, inplace)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in weights.items())  # running statistics too


def test_a_model_in_evaluation_mode_stays_so():
    model = network().eval()
    with measurable(model):
        pass
    assert not any(m.training for m in model.modules())


def test_train_is_called_where_a_model_does_more_in_it():
    class Merging(nn.Linear):
        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(2, 2)).train()
    with measurable(model):
        assert model[0].merged
    assert not model[0].merged
    assert model[0].training


def test_attention_has_a_forward_derivative_only_inside():
    model, x = Attention(), torch.randn(1, 2, 5, 8)
    with pytest.raises(NotImplementedError, match="forward"):
        torch.func.jvp(model, (x,), (x,))
    with measurable(model):
        value, _ = torch.func.jvp(model, (x,), (x,))
        assert model.seen is False
    assert model.fused_attn is True
    torch.testing.assert_close(value, model(x))
    with math_attention():
        torch.func.jvp(model, (x,), (x,))


def test_torch_attention_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 5, 8)
    with measurable(layer):
        _, tangent = torch.func.jvp(layer, (x,), (x,))
    assert tangent.abs().max() > 0
    assert layer.training


def test_callables_pass_through():
    fast = torch.backends.mha.get_fastpath_enabled()
    with measurable(torch.sin) as f:
        assert f is torch.sin
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == fast


class Counts(nn.Module):
    """Gives how often it was called, and fails at an input below 0."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout()
        self.calls, self.seen = 0, []
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.mean += 1
        if x.min() < 0:
            raise KeyError
        return {"sum": self.drop(x) + self.calls + len(self.seen) + self.mean, "mean": self.mean}


def test_every_pass_is_the_first():
    model = Counts()
    with repeated(model, lambda found: found["sum"]) as once:
        assert not model.drop.training
        assert [once(torch.ones(1)).item() for _ in range(3)] == [4.0] * 3
        with pytest.raises(KeyError):
            once(-torch.ones(1))
        assert once(torch.ones(1)).item() == 4.0
    with repeated(model, lambda found: found["mean"]) as once:
        assert once(torch.ones(1)).item() == 1.0  # though it is back at 0 by now
    assert (model.calls, model.seen, model.mean.item(), model.drop.training) == (0, [], 0.0, True)


class Exported(nn.Module):
    """Refuses to change its mode, as an exported program does."""

    def train(self, mode=True):
        raise NotImplementedError("not supported yet")


def test_what_stands_after_an_exported_program_is_put_into_evaluation_too():
    model = nn.Sequential(Exported(), nn.Sequential(nn.Dropout(), Exported(), nn.Dropout()))
    with measurable(model):
        assert not any(m.training for m in model.modules() if isinstance(m, nn.Dropout))
    assert all(m.training for m in model.modules())


def test_weights_made_in_inference_mode_are_refused_and_left_alone():
    with torch.inference_mode():
        model = network()
    with pytest.raises(NotMeasurable, match=r"made in torch.inference_mode \(0.weight, ...\)"), measurable(model):
        pass
    assert model[0].weight.requires_grad
