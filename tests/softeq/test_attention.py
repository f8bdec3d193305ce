"""SoftAttention: relative positions commute with shifts of the grid, absolute ones do not, and all forms agree."""

import copy
import math

import pytest
import torch
from torch import nn

import softeq
from softeq import Prior, SoftAttention, prior_penalty
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.testing import TOLERANCES

SIZE = (3, 4)
PERIODIC = {"size": SIZE, "periodic": True}
FORMS = [
    pytest.param(options, id="-".join(map(str, options.values())))
    for options in (
        {"constraint": "hard"},
        {"constraint": "none"},
        {"constraint": "none", "residual": "lowrank"},
        {"constraint": "soft"},
        {"constraint": "soft", "residual": "lowrank", "prefix": 1},
        {"constraint": "soft", "qkv_bias": False, "prefix": 2},
    )
]


def build(dim=8, heads=2, size=SIZE, seed=0, far=True, **options):
    torch.manual_seed(seed)
    layer = SoftAttention(dim, heads, size=size, **options).double()
    if far:  # away from its start, so that no term is too small to be seen
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer


def tokens(layer, batch=2, seed=1):
    return torch.randn(batch, layer.tokens, layer.dim, generator=torch.Generator().manual_seed(seed)).double()


def shifted(x, layer, shift):
    grid = x[:, layer.prefix :].unflatten(1, layer.size).roll(shift, (1, 2)).flatten(1, 2)
    return torch.cat([x[:, : layer.prefix], grid], 1)


def commutator(layer, x, shift=(1, 2)):
    moved, after = layer(shifted(x, layer, shift)), shifted(layer(x), layer, shift)
    return float(((moved - after).norm() / after.norm()).detach())


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_hard_commutes_with_cyclic_shifts_and_soft_does_not(prefix):
    hard = build(**PERIODIC, prefix=prefix, constraint="hard")
    assert commutator(hard, tokens(hard)) < TOLERANCES[torch.float64]
    soft = build(**PERIODIC, prefix=prefix)
    assert commutator(soft, tokens(soft)) > 1e-2


def test_without_periodicity_pairs_of_one_offset_share_one_bias():
    layer = build(constraint="hard", prefix=1)
    bias = layer.weight[:, 1:, 1:].unflatten(1, SIZE).unflatten(-1, SIZE)
    torch.testing.assert_close(bias[:, :-1, :-1, :-1, :-1], bias[:, 1:, 1:, 1:, 1:])
    assert commutator(layer, tokens(layer)) > 1e-3  # the frame matters


def in_sight(layer, rows, columns):
    """The places of a window of the grid, and the mask that hides every other key."""
    places = torch.arange(layer.tokens)[layer.prefix :].view(layer.size)[rows, columns].flatten()
    mask = torch.zeros(layer.tokens, layer.tokens, dtype=torch.bool)
    mask[:, places] = True
    return places, mask


@pytest.mark.parametrize("constraint", ["hard", "soft"])
def test_what_a_mask_leaves_in_sight_may_move_within_the_frame(constraint):
    layer = build(constraint=constraint, prefix=1)
    here, before = in_sight(layer, slice(0, 2), slice(0, 3))
    there, after = in_sight(layer, slice(1, 3), slice(1, 4))
    x = tokens(layer)
    y = x.flip(1)
    y[:, there] = x[:, here]
    error = (layer(x, attn_mask=before)[:, here] - layer(y, attn_mask=after)[:, there]).abs().max()
    assert (error < 1e-9) == (constraint == "hard")


def test_a_mask_of_booleans_hides_as_minus_infinity_does():
    layer = build()
    _, seen = in_sight(layer, slice(0, 2), slice(1, 3))
    added = torch.zeros(seen.shape).double().masked_fill(~seen, -torch.inf)
    for f in (layer, softeq.fold(layer)):
        torch.testing.assert_close(f(tokens(layer), attn_mask=seen), f(tokens(layer), attn_mask=added))
        assert not torch.allclose(f(tokens(layer), attn_mask=seen), f(tokens(layer)))


@pytest.mark.parametrize("periodic", [True, False])
def test_pairs_share_a_bias_exactly_where_a_shift_takes_one_to_the_other(periodic):
    layer = build(constraint="hard", prefix=2, periodic=periodic)
    places = [None, None, *((a, b) for a in range(SIZE[0]) for b in range(SIZE[1]))]

    def offset(i, j):
        if places[i] is None or places[j] is None:
            return tuple(f"prefix {n}" if places[n] is None else "grid" for n in (i, j))
        steps = [b - a for a, b in zip(places[i], places[j], strict=True)]
        return tuple(step % n if periodic else step for step, n in zip(steps, SIZE, strict=True))

    classes = layer.constants.exact["classes"].tolist()
    of_class = {}
    for i in range(layer.tokens):
        for j in range(layer.tokens):
            of_class.setdefault(classes[i][j], set()).add(offset(i, j))
    assert all(len(offsets) == 1 for offsets in of_class.values())
    assert len(set().union(*of_class.values())) == len(of_class) == layer.n_classes


@pytest.mark.parametrize("options", FORMS)
def test_against_the_definition_head_by_head(options):
    layer = build(**options)
    x = tokens(layer)
    bias = torch.zeros(layer.tokens, 3 * layer.dim).double() if layer.bias is None else layer.bias
    qkv = torch.stack([layer.projections.qkv.weight @ t for t in x.flatten(0, 1)]).view(*x.shape[:2], -1) + bias
    q, k, v = qkv.chunk(3, -1)
    d, heads = layer.dim // layer.heads, []
    for h in range(layer.heads):
        part = slice(h * d, (h + 1) * d)
        logits = q[..., part] @ k[..., part].mT / math.sqrt(d) + layer.weight[h]
        heads.append(logits.softmax(-1) @ v[..., part])
    expected = layer.projections.out(torch.cat(heads, -1))
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[0]), expected[0])


@pytest.mark.parametrize("options", FORMS)
def test_parameters_are_partitioned_and_priced_once(options):
    layer = build(**options)
    of_pathways = [p for pathway in layer.pathways.values() for p in pathway.parameters()]
    assert len({id(p) for p in of_pathways}) == len(of_pathways) == len(list(layer.parameters()))
    expected = sum(
        0.5 * precision * sum(p.square().sum() for p in layer.pathways[name].parameters())
        for name, precision in (("equivariant", 2.0), ("residual", 3.0))
        if name in layer.pathways
    )
    torch.testing.assert_close(prior_penalty(layer, Prior(2.0, 3.0)), expected)


@pytest.mark.parametrize("options", FORMS)
def test_folded_has_the_values_and_gradients(options):
    layer = build(**options)
    plain, x = softeq.fold(layer), tokens(layer).requires_grad_()
    torch.testing.assert_close(plain(x), layer(x))
    (own,) = torch.autograd.grad(layer(x).square().sum(), x)
    (folded,) = torch.autograd.grad(plain(x).square().sum(), x)
    torch.testing.assert_close(folded, own)
    mask = torch.randn(layer.tokens, layer.tokens).double()
    torch.testing.assert_close(plain(x, attn_mask=mask), layer(x, attn_mask=mask))
    exported = torch.export.export(plain, (x.detach(),)).module()
    torch.testing.assert_close(exported(x.detach()), layer(x))


def test_defect_is_the_distance_to_the_nearest_relative_layer():
    layer = build(**PERIODIC, prefix=1)
    weight, bias = layer.weight.detach(), layer.bias.detach().expand(layer.tokens, -1)
    mean = torch.zeros_like(weight)
    shifts = [(a, b) for a in range(SIZE[0]) for b in range(SIZE[1])]
    for shift in shifts:  # the projector as the mean over the group, of both arguments
        mean += shifted(shifted(weight, layer, shift).mT, layer, shift).mT / len(shifts)
    flat = bias.clone()
    flat[1:] = bias[1:].mean(0)
    off = (weight - mean).square().sum() + (bias - flat).square().sum()
    expected = math.sqrt(float(off / (weight.square().sum() + bias.square().sum())))
    assert layer.weight_defect() == pytest.approx(expected, rel=1e-12)
    assert 0.1 < expected < 1
    assert build(constraint="hard").weight_defect() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("residual", ["dense", "lowrank"])
def test_a_soft_layer_starts_near_its_hard_twin_and_can_leave(residual):
    layer = build(far=False, residual=residual)
    assert 0 < layer.weight_defect() < 0.01
    x = tokens(layer)
    hard = softeq.harden(layer)
    assert hard.constraint == "hard"
    assert float(((layer(x) - hard(x)).norm() / hard(x).norm()).detach()) < 1e-3
    layer(x).square().sum().backward()
    assert any(p.grad.abs().max() > 0 for p in layer.pathways["residual"].parameters())


def test_attention_as_it_is_taken_over():
    torch.manual_seed(0)
    qkv, out = nn.Linear(8, 24).double(), nn.Linear(8, 8).double()
    layer = SoftAttention.from_projections(qkv, out, 2, size=SIZE, prefix=1, residual="lowrank")
    x = tokens(layer)
    q, k, v = qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight_defect() == 0
    layer(x).square().sum().backward()
    for name in ("queries", "offset"):
        assert getattr(layer.pathways["residual"], name).grad.abs().max() > 0
    with pytest.raises(SofteqValueError, match="qkv, out"):
        SoftAttention.from_projections(nn.Linear(8, 16), out, 2, size=SIZE)


def test_compiled_and_autocast_agree_with_eager():
    layer = build(residual="lowrank", prefix=1).float()
    x = tokens(layer).float()

    def step(f):
        layer.zero_grad()
        y = f(x)
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in layer.parameters())]

    torch.testing.assert_close(step(torch.compile(layer, backend="aot_eager")), step(layer), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), rtol=0.1, atol=0.1)


def test_state_dicts_and_copies():
    layer, other = build(prefix=1), build(prefix=1, seed=5)
    other.load_state_dict(layer.state_dict())
    x = tokens(layer)
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)
    assert not any("classes" in name for name in layer.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 9}, "dim"),
        ({"size": (0, 3)}, "size"),
        ({"prefix": -1}, "prefix"),
        ({"residual": "sparse"}, "residual"),
        ({"constraint": "half"}, "constraint"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(SofteqValueError, match=message):
        build(**options)


def test_bad_inputs():
    layer = build()
    with pytest.raises(SofteqValueError, match=r"expected \(B, 12, 8\)"):
        layer(torch.zeros(2, 13, 8).double())
    for f in (layer, softeq.fold(layer)):
        with pytest.raises(SofteqValueError, match="is_causal"):
            f(tokens(layer), is_causal=True)
    with pytest.raises(SofteqValueError, match="no equivariant pathway"):
        softeq.harden(build(constraint="none"))


class Adapter(nn.Module):
    """A low-rank change of a linear layer, as libraries of adapters wrap one; it passes the layer's weight on."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 1, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(1, base.out_features, bias=False, dtype=base.weight.dtype)
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_adapters_count_or_are_refused():
    layer = build()
    x, before = tokens(layer), layer(tokens(layer))
    layer.projections.out = Adapter(layer.projections.out)
    assert (layer(x) - before).abs().max() > 1e-3
    layer.projections.qkv = Adapter(layer.projections.qkv)
    with pytest.raises(SofteqTypeError, match=r"qkv: expected an nn.Linear, .* got Adapter"):
        layer(x)
    with pytest.raises(SofteqTypeError, match="got Adapter"):
        softeq.fold(layer)
