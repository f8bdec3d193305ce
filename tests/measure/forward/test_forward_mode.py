import logging

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.forward_mode import push_forward

timm = pytest.importorskip("timm")

SMALL = {
    "vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
    ),
    "convnext": lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(4, 8, 8, 16), num_classes=5),
    "resnet": lambda: timm.create_model("resnet10t", channels=(8, 8, 8, 8), layers=(1, 1, 1, 1), num_classes=5),
    "mixer": lambda: timm.models.mlp_mixer.MlpMixer(
        img_size=16, patch_size=4, embed_dim=16, num_blocks=2, num_classes=5
    ),
    "swin": lambda: timm.models.SwinTransformer(
        img_size=16, patch_size=2, window_size=2, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=5
    ),
}


def small(name):
    model = SMALL[name]().double()
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():  # heads and layer scales that start at zero would hide what comes before them
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64, generator=drawn))
    return model


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SMALL)
def test_engines_agree(name):
    model, size = small(name), 32 if name in ("convnext", "resnet") else 16
    x, directions = noise(2, 3, size, size), noise(3, 2, 3, size, size, seed=2)
    value, found = push_forward(model, x, directions, engine="dual")
    twin_value, twin = push_forward(model, x, directions, engine="vmap")
    torch.testing.assert_close(value, twin_value)
    torch.testing.assert_close(found, twin)
    torch.testing.assert_close(value, model.eval()(x).detach())
    assert twin.abs().max() > 1e-4
    for chunk in (1, 2):
        torch.testing.assert_close(push_forward(model, x, directions, chunk=chunk)[1], twin)


BLOCKS = {
    "pointwise": torch.sin,
    "linear": lambda h: torch.nn.functional.linear(h, torch.ones(2, 3, dtype=h.dtype)),
    "in place": lambda h: h.clone().relu_().mul_(2),
    "view": lambda h: h[:, :2].mT.sin(),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_inside_of_inference_mode_no_derivative_is_lost(block):
    def frozen(x):
        with torch.inference_mode():
            return BLOCKS[block](x)

    x, directions = noise(2, 3, 3), noise(3, 2, 3, 3, seed=2)
    wanted = push_forward(BLOCKS[block], x, directions)[1]
    torch.testing.assert_close(push_forward(frozen, x, directions)[1], wanted)
    assert wanted.abs().max() > 0.1
    with pytest.raises(NotMeasurable, match=r"computes in torch\.inference_mode"):
        push_forward(frozen, x, directions, engine="vmap")


def test_f_is_called_once():
    calls = []
    push_forward(lambda y: calls.append(y) or y.sin(), noise(2, 3), noise(6, 2, 3, seed=2))
    assert len(calls) == 1


def test_the_other_engine_takes_over(request):
    def fills(y):
        out = torch.zeros(2, 3, dtype=y.dtype)
        out[:] = y
        return out

    logger, told = logging.getLogger("softeq.measure.forward.forward_mode"), []
    request.addfinalizer(lambda level=logger.level: logger.setLevel(level))
    request.addfinalizer(logger.filters.clear)
    logger.setLevel(logging.DEBUG)  # not the attribute: what a logger has said before is cached
    logger.addFilter(lambda record: told.append(record.getMessage()))  # returns None: it goes no further
    _, found = push_forward(fills, noise(2, 3), noise(2, 2, 3, seed=2))
    torch.testing.assert_close(found, noise(2, 2, 3, seed=2))
    assert any("carries no derivative" in line for line in told)


@pytest.mark.parametrize("engine", ["auto", "dual", "vmap"])
@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda y: y * torch.rand(3, dtype=y.dtype), "random numbers"),
        (lambda y: y / 0, "NaN or infinite"),
        (lambda y: [y], "the output is a list"),
        (lambda y: y > 0, "no derivative"),
        (lambda y: y + y.view(torch.int64).view(torch.float64), r"reads the bits of its data as torch\.int64"),
        (lambda y: y + y.to(torch.float8_e4m3fn).to(y.dtype), "quantises"),
    ],
)
def test_not_measurable(engine, f, message):
    with pytest.raises(NotMeasurable, match=message):
        push_forward(f, noise(2, 3), noise(2, 2, 3, seed=2), engine=engine)


@pytest.mark.parametrize("engine", ["auto", "vmap"])
def test_dropout_is_not_measurable(engine):
    with pytest.raises(NotMeasurable, match="random numbers"):
        push_forward(nn.functional.dropout, noise(2, 3), noise(2, 2, 3, seed=2), engine=engine)


def test_bits_of_what_does_not_move_may_be_read():
    packed = noise(3).view(torch.int64)
    for engine in ("dual", "vmap"):
        _, found = push_forward(lambda y: y * packed.view(torch.float64), noise(2, 3), noise(1, 2, 3), engine=engine)
        torch.testing.assert_close(found[0], noise(2, 3) * noise(3))


def test_bad_options():
    for options in ({"engine": "jvp"}, {"chunk": 0}):
        with pytest.raises(SofteqValueError, match="expected"):
            push_forward(torch.sin, noise(2, 3), noise(2, 2, 3), **options)


def test_an_error_of_f_is_raised_as_it_is():
    def fails(y):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        push_forward(fails, noise(2, 3), noise(2, 2, 3))


def test_an_exhausted_memory_is_not_tried_again():
    calls = []

    def exhausts(y):
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        push_forward(exhausts, noise(2, 3), noise(2, 2, 3))
    assert len(calls) == 1
