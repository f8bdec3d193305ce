import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.measure.forward import dual
from softeq.measure.forward.dual import RULES, Dual, Unfollowed, any_dual, at
from softeq.measure.forward.forward_mode import push_forward


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def both(f, x, directions):
    """The derivatives by Duals, and one at a time by torch.func.jvp."""
    value, found = push_forward(f, x, directions, engine="dual")
    pairs = [torch.func.jvp(f, (x,), (direction,)) for direction in directions]
    torch.testing.assert_close(value, pairs[0][0])
    return found, torch.stack([pair[1] for pair in pairs])


def in_place_on_a_view(x):
    y = x * 2
    y[:, 1:3].mul_(y[:, :2].clone()).add_(1)
    y[:, 0] = x[:, 1] ** 2
    y[:, 3] = 7.0
    part = y.transpose(1, 2)
    part += part.flip(1)
    return y.sin()


def aliases(x):
    y = x + 1.0  # a new tensor, not the same memory: writing into y must leave x alone
    y.mul_(3)
    z = x.detach()
    return x * y + z.clone().zero_() + F.relu(x.clone(), inplace=True)


def chains_and_branches(x):
    a, b = x.chunk(2, dim=1)
    joined = torch.cat([a * b, torch.ones_like(a), b], dim=1)
    stacked = torch.stack([joined, joined.roll(1, -1)]).mean(0)
    return stacked.permute(0, 2, 1).reshape(x.shape[0], -1)[:, ::2].unsqueeze(1).expand(-1, 3, -1)


def by_the_fallback(x):
    top = x.topk(2, dim=1)
    chosen = torch.where(x > 0, x.exp(), x**3).log_softmax(1) + top.values.sum(1, keepdim=True)
    return chosen / torch.linalg.vector_norm(x, dim=1, keepdim=True) + x.max(dim=1, keepdim=True)[0] - (1 - x)


FUNCTIONS = {
    "in place on a view": in_place_on_a_view,
    "aliases": aliases,
    "chains and branches": chains_and_branches,
    "by the fallback": by_the_fallback,
    "looks at its data": lambda x: x[x > 0] * (1 if x.sum() > 0 else 2) if bool((x > 5).any()) else x * len(x),
    "a gradient inside": lambda x: _slope(x),
    "complex": lambda x: torch.fft.ifft2(torch.fft.fft2(x) * torch.polar(x.new_ones(6), x.new_ones(6))).abs(),
    "complex parts": lambda x: torch.view_as_real(torch.fft.rfft(x) ** 2).sum(-1),
    "dtypes": lambda x: (x.float().double() + x.to(torch.float64, copy=True)).to(torch.float64) * 2,
    "constant": lambda x: torch.ones(3, 2, dtype=x.dtype),
    "torch.func inside": lambda x: torch.func.grad(lambda y: (y**3).sum())(x),
}


def _slope(x):
    """A force: minus the gradient of an energy, taken inside the function."""
    return torch.func.grad(lambda y: (y.sin() * y**2).sum())(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_jvp(name):
    x, directions = noise(3, 4, 6), noise(2, 3, 4, 6, seed=2)
    kept = x.clone()
    found, exact = both(FUNCTIONS[name], x.clone(), directions)
    torch.testing.assert_close(found, exact, atol=1e-6 if name == "dtypes" else 1e-10, rtol=1e-6)
    assert torch.equal(x, kept)
    assert name == "constant" or exact.abs().max() > 0.1


def test_autograd_inside():
    """torch.autograd.grad in f, which torch.func does not bear."""

    def force(x):
        with torch.enable_grad():
            y = x if x.requires_grad else x.clone().requires_grad_()
            energy = (F.silu(y @ y.mT).sin() * y.sum()).sum()
            return -torch.autograd.grad(energy, y, create_graph=True)[0]

    x, directions = noise(2, 3, 3), noise(2, 2, 3, 3, seed=2)
    value, found = push_forward(force, x, directions, engine="dual")
    torch.testing.assert_close(value, force(x).detach())
    step = 1e-5
    for direction, tangent in zip(directions, found, strict=True):
        difference = (force(x + step * direction) - force(x - step * direction)) / (2 * step)
        torch.testing.assert_close(tangent, difference.detach(), atol=1e-6, rtol=1e-6)


def test_detach_changes_no_value_and_stops_no_derivative():
    x, direction = noise(3, 4), noise(1, 3, 4, seed=2)
    _, found = push_forward(lambda y: y * y.detach(), x, direction)
    torch.testing.assert_close(found, 2 * x * direction)


def test_control_a_wrong_rule_is_seen(monkeypatch):
    x, directions = noise(3, 4, 6), noise(2, 3, 4, 6, seed=2)

    def forgets_a_factor(func, args, kwargs):
        return Dual(args[0].primal.sin(), list(args[0].tangents))

    monkeypatch.setitem(RULES, torch.ops.aten.sin, forgets_a_factor)
    found, exact = both(torch.sin, x, directions)
    assert (found - exact).abs().max() > 0.1


def test_what_cannot_be_followed_says_so():
    def fills(x):
        out = torch.zeros(3, 4, dtype=x.dtype)
        out[:, :] = x
        return out

    x, directions = noise(3, 4), noise(2, 3, 4, seed=2)
    with pytest.raises(Unfollowed, match="writes into a tensor that carries no derivative"):
        push_forward(fills, x, directions, engine="dual")
    torch.testing.assert_close(push_forward(fills, x, directions)[1], directions)  # by vmap
    for f in (lambda x: x.as_strided((2, 2), (1, 1)), lambda x: x.clone().unsqueeze_(0)):
        with pytest.raises(Unfollowed):
            push_forward(f, x, directions, engine="dual")
        torch.testing.assert_close(push_forward(f, x, directions)[1], torch.stack([f(d) for d in directions]))


def test_a_pending_convolution_notices_that_its_input_was_written():
    convolution = nn.Conv2d(2, 2, 1).double()

    def late(x):
        y = x * 1
        out = convolution(y)
        y.zero_()
        return out

    x, directions = noise(1, 2, 3, 3), noise(1, 1, 2, 3, 3, seed=2)
    with pytest.raises(Unfollowed, match="written into"):
        push_forward(late, x, directions, engine="dual")
    _, found = push_forward(late, x, directions)
    torch.testing.assert_close(found[0], (convolution(directions[0]) - convolution(0 * directions[0])).detach())


def test_strides_of_value_and_tangents_are_equal():
    primal = noise(4, 5).T
    held = Dual(primal, [noise(5, 4), noise(5, 4)])
    assert [t.stride() for t in held.tangents] == [primal.stride()] * 2
    assert held.shape == (5, 4)
    with pytest.raises(Unfollowed, match="a tangent of"):
        Dual(primal, [noise(5, 1)])


def test_helpers():
    held = Dual(noise(2), [noise(2, seed=2)])
    assert any_dual([1, [held]])
    assert not any_dual([1, [noise(2)]])
    assert at((held, 3), None) == [held.primal, 3]
    assert at(held, 0) is held.tangents[0]
    assert dual.wrapped(noise(2) > 0, []).dtype == torch.bool
