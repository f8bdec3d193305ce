"""The split over the modules of timm's networks."""

import torch

from softeq.measure.layerwise import layerwise

from .test_layerwise import assert_complete, images


def timm_model(name, **options):
    import timm

    return timm.create_model(name, pretrained=False, num_classes=7, **options).double().eval()


def test_timm_resnet_with_in_place_additions():
    model = timm_model("resnet10t", layers=(1, 1, 1, 1), channels=(10, 10, 12, 12))
    result = layerwise(model, images(2, h=32, w=32), ["translation_x", "rotation"], output="logits")
    assert_complete(result)
    assert "layer1.0.act2" in result.names
    assert abs(result.shares("rotation")["layer2.0"]) < 1e-9  # an addition commutes with every flow
    assert abs(result.by_type("rotation")["BatchNorm2d"]) < 1e-9


def test_timm_vit_with_tokens():
    model = timm_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    with torch.no_grad():
        model.head.weight.normal_()
    result = layerwise(model, images(2, h=32, w=32), ["translation_x", "rotation"], output="logits")
    assert_complete(result)
    shares = result.shares("rotation")
    for name in ("blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "blocks.0"):
        assert abs(shares[name]) < 1e-9  # what is linear and the same for all tokens commutes with moving them
    for name in ("patch_embed.proj", "blocks.0.mlp.act", ""):
        assert abs(shares[name]) > 1e-6  # a coarse grid, aliasing by a nonlinearity, position embeddings
    assert not any("attn_drop" in name for name, _ in result.not_attributable)
