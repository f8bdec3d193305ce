"""soften: the same outputs, the weights split between the pathways, and a reason for every layer that was left."""

import pytest
import torch
from torch import nn

import softeq
from softeq import Prior, SoftAttention, SoftConv2d, SoftLinear, prior_penalty, soften
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Z
from softeq.models.images import ResNet, ViT
from softeq.reps import Vector


def images(n=2, channels=1, size=28, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed)).double()


def plain(kind, **options):
    torch.manual_seed(0)
    return kind(**options).double().eval()


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


SMALL = {
    "resnet": (ResNet, {"channels": (4, 6)}),
    "vit": (ViT, {"patch": 7, "dim": 8, "depth": 2, "heads": 2}),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("residual", ["local", "lowrank"])
def test_outputs_stay_and_every_form_of_the_twin_works(name, residual):
    kind, options = SMALL[name]
    model, x = plain(kind, **options), images()
    softened = soften(model, x[:1], residual=residual)
    soft = softened.model
    assert relative(soft(x), model(x)) < 1e-10
    assert relative(softeq.harden(soft)(x), model(x)) < 1e-10  # the residual is zero
    assert max(softeq.weight_defect(soft).values()) == 0
    optimizer = torch.optim.SGD(soft.parameters(), lr=1e-2)
    (soft.train()(x).square().sum() + prior_penalty(soft, Prior())).backward()
    optimizer.step()
    soft.eval()
    assert max(softeq.weight_defect(soft).values()) > 1e-6
    assert relative(softeq.fold(soft)(x), soft(x)) < 1e-10
    assert relative(softeq.harden(soft)(x), soft(x)) > 1e-8


def test_what_became_of_each_layer_is_said():
    softened = soften(plain(*[SMALL["vit"][0]], **SMALL["vit"][1]), images())
    assert softened.replaced["stem"] == "SoftConv2d"
    assert softened.replaced["blocks.0.attention.1"] == "SoftAttention"
    assert "reps" in softened.left["head"]
    assert "positions" in softened.left[""]
    attention = softened.model.get_submodule("blocks.0.attention.1")
    assert isinstance(attention, SoftAttention)
    assert (attention.size, attention.prefix) == ((4, 4), 1)
    assert "stem: SoftConv2d" in str(softened)


def test_the_original_and_its_mode_are_left_alone():
    model = plain(ResNet, channels=(4, 6)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    softened = soften(model, images())
    assert model.training
    assert softened.model.training
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_linear_layer_with_representations_is_split():
    rep = Vector(Z(4))
    model = plain(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    x = torch.randn(3, 4).double()
    softened = soften(model, x, reps={"0": (rep, rep)})
    layer = softened.model[0]
    assert isinstance(layer, SoftLinear)
    assert relative(softened.model(x), model(x)) < 1e-10
    torch.testing.assert_close(
        layer.projector(layer.pathways["equivariant"].weight), layer.pathways["equivariant"].weight
    )
    torch.testing.assert_close(layer.projector(layer.pathways["residual"].weight), torch.zeros(4, 4).double())
    assert softened.left["2"].startswith("Linear has no soft twin without")
    projected = SoftLinear.from_linear(model[0], rep, rep, parametrization="projected")
    torch.testing.assert_close(projected(x), model[0](x))


def test_a_convolution_with_field_types_is_split():
    escnn = pytest.importorskip("escnn")
    space = escnn.gspaces.rot2dOnR2(4)
    field = escnn.nn.FieldType(space, 2 * [space.regular_repr])
    model = plain(lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)))
    x = images(channels=8, size=9)
    softened = soften(model, x, types={"0": (field, field)})
    assert softened.replaced == {"0": "SoftR2Conv"}
    assert relative(softened.model(x), model(x)) < 1e-10
    assert 0.5 < softeq.weight_defect(softened.model)["0"] < 1  # a random filter is far from equivariant


class TwoSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.once = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.once(self.shared(x)).mean() + self.shared(x[..., ::2, ::2])


def test_layers_that_are_left_and_why():
    softened = soften(plain(TwoSizes), images(size=8))
    assert list(softened.replaced) == ["once"]
    assert "several sizes" in softened.left["shared"]
    skipped = soften(plain(ResNet, channels=(4, 6)), images(), skip=["stem"])
    assert skipped.left["stem"] == "as asked"
    assert isinstance(skipped.model.stem[0], nn.Conv2d)
    reflecting = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), nn.Conv2d(1, 1, 3)).double()
    assert "padding_mode" in soften(reflecting, images(size=8)).left["0"]


def test_bad_input():
    model, x = plain(ResNet, channels=(4, 6)), images()
    with pytest.raises(SofteqTypeError, match="model"):
        soften(lambda z: z, x)
    with pytest.raises(SofteqTypeError, match="example"):
        soften(model, [x])
    with pytest.raises(SofteqValueError, match=r"lazy ones .*0\.weight"):  # its copy would draw others than it itself
        soften(nn.Sequential(nn.LazyConv2d(4, 3)), x)
    with pytest.raises(SofteqValueError, match="example: the model does not run"):
        soften(model, images(channels=3))
    with pytest.raises(SofteqValueError, match="residual"):
        soften(model, x, residual="soft")
    for argument in ({"skip": ["nowhere"]}, {"reps": {"nowhere": (None, None)}}, {"types": {"nowhere": (None, None)}}):
        with pytest.raises(SofteqValueError, match="nowhere"):
            soften(model, x, **argument)
    with pytest.raises(SofteqValueError, match="found none"):
        soften(nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4))


def test_a_model_that_is_one_layer():
    conv = plain(nn.Conv2d, in_channels=1, out_channels=2, kernel_size=3)
    softened = soften(conv, images())
    assert isinstance(softened.model, SoftConv2d)
    assert relative(softened.model(images()), conv(images())) < 1e-10
    assert softened.replaced == {"": "SoftConv2d"}


def test_a_soft_network_is_left_alone():
    soft = soften(plain(lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))), images(), skip=["1"]).model
    again = soften(soft, images())
    assert list(again.replaced) == ["1"]
    assert again.left == {"0": "it is soft already"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("vgg11", 32),
        ("efficientnet_b0", 64),
        ("tf_efficientnet_lite0", 64),
        ("convnext_atto", 64),
        ("vit_tiny_patch16_224", 224),
    ],
)
def test_timm(name, size):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), images(1, 3, size).float()
    softened = soften(model, x)
    assert relative(softened.model(x), model(x)) < 1e-5
    kinds = {"Conv2d", "Conv2dSame", "Attention"}
    left = {n: why for n, why in softened.left.items() if type(model.get_submodule(n)).__name__ in kinds}
    assert all("one position" in why for why in left.values()), left
