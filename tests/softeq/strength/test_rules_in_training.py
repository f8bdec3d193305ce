"""Every rule in the loop: it trains, continues from a checkpoint, and behaves the same under AMP, compile and DDP."""

import copy
import io
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from softeq import (
    Prior,
    Scalar,
    SofteqError,
    SofteqTypeError,
    SofteqValueError,
    SofteqWarning,
    SoftLinear,
    Vector,
    groups,
    harden,
    weight_defect,
)
from softeq.strength import RULES, rule

REP = (2 * Scalar + Vector)(groups.O(3))
OUT = (Scalar + Vector)(groups.O(3))
X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 4, (24,), generator=torch.Generator().manual_seed(2))
LEARNED = ("variational", "mackay", "group-lasso", "dual", "validation")
pytestmark = pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")


def network(parametrization="pathways"):
    torch.manual_seed(3)
    return nn.Sequential(
        SoftLinear(REP, REP, parametrization=parametrization),
        nn.Tanh(),
        SoftLinear(REP, OUT, parametrization=parametrization),
    )


def turn(generator):
    g = groups.SO(3).sample(1, generator)[0].float()
    return lambda x: x @ REP.rho(g.double()).float().T, lambda y: y @ OUT.rho(g.double()).float().T


def options(name, model, loss_of):
    extra = {
        "annealed": {"steps": 10},
        "remul": {"action": turn},
        "validation": {"held": lambda: loss_of(model(X[:8]), 0)[0]},
        "halving": {"held": lambda: loss_of(model(X[:8]), 0)[0], "steps": 20},
    }
    return extra.get(name, {})


def loss_of(likelihood):
    def found(output, start):
        rows = slice(start, start + len(output))
        if likelihood == "categorical":
            return nn.functional.cross_entropy(output, LABELS[rows]), LABELS[rows]
        return nn.functional.mse_loss(output, Y[rows]), Y[rows]

    return found


def steps(model, one, optimizer, count, likelihood="gaussian", cast=None, first=0):
    for step in range(first, first + count):
        start = 8 * (step % 3)
        optimizer.zero_grad()
        with one.perturbed(), torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None):
            output = model(X[start : start + 8])
            loss, target = loss_of(likelihood)(output.float(), start)
        one.backward(loss, output, target=target)
        optimizer.step()
        one.step(optimizer)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def made(name, model, likelihood="gaussian", **more):
    return rule(name, model, samples=24, likelihood=likelihood, **options(name, model, loss_of(likelihood)), **more)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_continues_as_if_nothing_had_happened(name, likelihood):
    model = network()
    one = made(name, model, likelihood, record=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    start = parameters(model)
    steps(model, one, optimizer, 7, likelihood)
    kept = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rule": one.state_dict()}, kept)
    steps(model, one, optimizer, 6, likelihood, first=7)
    assert not torch.equal(parameters(model), start)
    assert one.history

    kept.seek(0)
    state = torch.load(kept, weights_only=True)
    other = network()
    again = made(name, other, likelihood, record=2)
    resumed = torch.optim.Adam(other.parameters(), lr=1e-2)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    again.load_state_dict(state["rule"])
    steps(other, again, resumed, 6, likelihood, first=7)
    torch.testing.assert_close(parameters(other), parameters(model), rtol=0, atol=0)
    assert again.history == one.history
    with pytest.raises(SofteqValueError, match="state"):
        again.load_state_dict({"rule": "none of them"})


@pytest.mark.parametrize("curvature", ["diagonal", "kfac", "trace"])
@pytest.mark.parametrize("name", ["variational", "mackay", "group-lasso"])
@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_curvatures_and_the_projected_form(name, curvature, parametrization):
    model = network(parametrization)
    one = made(name, model, curvature=curvature)
    before = [path.precision for path in one.paths]
    steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 12)
    after = [path.precision for path in one.paths]
    assert all(0 < p < float("inf") for p in after)
    assert before != after
    assert all(0 <= path.effective <= path.rank for path in one.paths)
    for path in one.paths:
        assert one.prior.of(path.layer)["residual"] == pytest.approx(path.precision * one.loss_per_nat)


def test_all_pathways_can_be_learned():
    model = network()
    one = made("mackay", model, learn="all")
    assert {(p.layer, p.pathway) for p in one.paths} == {(n, p) for n in "02" for p in ("equivariant", "residual")}
    assert next(p for p in one.paths if p.pathway == "equivariant").rank == model[0].projector.rank + 2
    steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 12)


def test_weight_noise_is_there_until_backward_and_gone_after():
    model = network()
    one = made("variational", model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    steps(model, one, optimizer, 6)
    mean = parameters(model)
    with one.perturbed():
        noisy = parameters(model)
        output = model(X)
    assert not torch.equal(noisy, mean)
    own = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "equivariant" in n])
    assert torch.equal(
        own, torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "equivariant" in n])
    )
    one.backward((output - Y).square().mean(), output)
    assert torch.equal(parameters(model), mean)
    with pytest.raises(RuntimeError, match="stop"), one.perturbed():
        raise RuntimeError("stop")
    assert torch.equal(parameters(model), mean)


@pytest.mark.parametrize("name", ["variational", "mackay", "validation", "fixed"])
def test_compiled_gives_the_same(name):
    def trained(wrap):
        model = network()
        one = made(name, model)
        steps(wrap(model), one, torch.optim.Adam(model.parameters(), lr=1e-2), 8)
        return parameters(model)

    torch.compiler.reset()
    eager, compiled = trained(lambda m: m), trained(lambda m: torch.compile(m, backend="aot_eager"))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


def _compiled_steps(model, one, sizes):
    compiled, optimizer = torch.compile(model), torch.optim.Adam(model.parameters(), lr=1e-2)
    for rows in sizes:
        optimizer.zero_grad()
        with one.perturbed():
            output = compiled(X[:rows])
        one.backward((output - Y[:rows]).square().mean(), output)
        optimizer.step()
        one.step(optimizer)


def test_code_that_a_compiler_made_at_a_step_without_a_probe_can_be_probed_later():
    torch.compiler.reset()
    model = network()
    one, eager = made("mackay", model), network()
    another = made("mackay", eager)
    # A probe at the first step, of code for 20 rows; the code for others is made at the next one, which has none.
    sizes = [20, 12] + [12] * one.every
    _compiled_steps(model, one, sizes)
    optimizer = torch.optim.Adam(eager.parameters(), lr=1e-2)
    for rows in sizes:
        optimizer.zero_grad()
        output = eager(X[:rows])
        another.backward((output - Y[:rows]).square().mean(), output)
        optimizer.step()
        another.step(optimizer)
    torch.testing.assert_close(parameters(model), parameters(eager), rtol=1e-3, atol=1e-4)


def test_code_that_gives_its_buffers_away_is_refused_and_remade():
    torch.compiler.reset()
    model = network()
    with torch._functorch.config.patch(donated_buffer=True):  # torch's default, which a training may have set
        torch.compile(model)(X).square().mean().backward()
    one = made("mackay", model)
    with pytest.raises(SofteqValueError, match=r"torch\.compiler\.reset"):
        _compiled_steps(model, one, [len(X)])
    torch.compiler.reset()
    _compiled_steps(model, one, [len(X)])


@pytest.mark.parametrize("name", ["variational", "mackay"])
def test_autocast_is_close(name):
    def trained(cast):
        model = network()
        one = made(name, model)
        steps(model, one, torch.optim.SGD(model.parameters(), lr=1e-2), 8, cast=cast)
        return parameters(model), [path.precision for path in one.paths]

    (exact, own), (cast, other) = trained(None), trained(torch.bfloat16)
    torch.testing.assert_close(cast, exact, rtol=0.05, atol=0.02)
    torch.testing.assert_close(torch.tensor(other).log(), torch.tensor(own).log(), rtol=0, atol=0.2)


def test_the_annealed_rule_ends_hard():
    model = network()
    one = rule("annealed", model, samples=24, steps=60, loose=0.1, tight=1e3, turn=0.4)
    assert one.precision(0) == pytest.approx(1e3)
    assert min(one.precision(k) for k in range(60)) == pytest.approx(0.1, rel=0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    steps(model, one, optimizer, 40)
    assert max(weight_defect(model).values()) > 1e-3
    steps(model, one, optimizer, 20)
    torch.testing.assert_close(harden(model)(X), model(X), rtol=0, atol=1e-5)


def test_the_dual_rule_tightens_and_slack_costs():
    def sizes(**more):
        model = network()
        one = made("dual", model, rate=20.0, every=1, **more)
        steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 150)
        return max(weight_defect(model).values()), max(one.multipliers.values())

    plain, elastic = sizes(), sizes(elastic=0.5)
    assert plain[0] < 1e-3
    assert elastic[0] > 10 * plain[0]


def test_remul_makes_a_plain_backbone_more_equivariant_and_needs_no_soft_layer():
    def trained(weight, against="self"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
        one = rule("remul", model, samples=24, action=turn, weight=weight, against=against)
        steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 150)
        move_in, move_out = turn(torch.Generator().manual_seed(9))
        with torch.no_grad():
            return float((model(move_in(X)) - move_out(model(X))).square().mean())

    free, held, labels = trained(0.0), trained(3.0), trained(3.0, "labels")
    assert held < 0.3 * free
    assert labels < 0.8 * free


def test_validation_tightens_what_hurts_held_out_data_and_loosens_what_helps():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(300, 5, generator=g)
    torch.manual_seed(7)
    with torch.no_grad():
        whole = SoftLinear(REP, OUT, constraint="hard")(x)
        broken = whole + x @ torch.randn(5, 4, generator=g)
    found = {}
    for kind, y in (("whole", whole), ("broken", broken)):
        torch.manual_seed(0)
        layer, noisy = SoftLinear(REP, OUT), y + 0.5 * torch.randn(y.shape, generator=g)
        one = rule("validation", layer, samples=20, every=2, record=0,
                   held=lambda m=layer, y=noisy: nn.functional.mse_loss(m(x[20:]), y[20:]))  # fmt: skip
        optimizer = torch.optim.Adam(layer.parameters(), lr=2e-2)
        for _ in range(250):
            optimizer.zero_grad()
            output = layer(x[:20])
            loss = nn.functional.mse_loss(output, noisy[:20])
            one.backward(loss, output)
            optimizer.step()
            one.step(optimizer)
        found[kind] = one.paths[0].precision, layer.weight_defect()
    assert found["whole"][0] > 10 * found["broken"][0]
    assert found["whole"][1] < 0.05
    assert found["broken"][1] > 0.5


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mackay", {"start": 1e4}, "start: expected 3 to 100.*stays hard"),
        ("variational", {"start": 0.1}, "start: expected 3 to 100.*overfits"),
        ("variational", {"curvature": "full"}, "curvature: expected one of diagonal, kfac, trace"),
        ("variational", {"learn": "some"}, "learn: expected"),
        ("variational", {"every": 0}, "every: expected"),
        ("variational", {"seed": 0.5}, "seed: expected"),
        ("variational", {"eta": 1.0}, "variational: expected options among .*got eta"),
        ("group-lasso", {"eta": -1.0}, "eta: expected"),
        ("annealed", {}, "steps"),
        ("annealed", {"steps": 10, "loose": 5.0, "tight": 1.0}, "loose: expected"),
        ("annealed", {"steps": 10, "turn": 1.5}, "turn: expected"),
        ("dual", {"rate": 0.0}, "rate: expected"),
        ("remul", {"action": 3}, "action: expected"),
        ("remul", {"action": turn, "against": "them"}, "against: expected"),
        ("validation", {"held": 3.0}, "held: expected a function"),
    ],
)
def test_bad_options(name, change, message):
    with pytest.raises(SofteqError, match=message):
        rule(name, network(), samples=24, **change)


def test_a_hard_network_has_nothing_to_learn():
    with pytest.raises(SofteqValueError, match="expected a residual pathway whose precision can be learned"):
        rule("mackay", SoftLinear(REP, OUT, constraint="hard"), samples=3)


def test_outputs_that_do_not_fit():
    model = network()
    one = rule("mackay", model, samples=24, likelihood="categorical")
    output = model(X)
    with pytest.raises(SofteqTypeError, match="output: expected the tensor"):
        one.backward(output.square().mean())
    with pytest.raises(SofteqValueError, match="output: expected logits"):
        one.backward(output.square().mean(), output[:, :1])
    with pytest.raises(SofteqValueError, match="output: expected a floating"):
        one.backward(output.square().mean(), output.detach())
    with pytest.raises(SofteqValueError, match="it has no gradient there"):
        one.backward(output.square().mean(), model(X))
    assert all(p.grad is None for p in model.parameters())
    gaussian = rule("mackay", model, samples=24, every=1)

    def entropies():
        for size in (1.0, 10.0, 100.0):
            output = size * model(X)
            gaussian.backward(nn.functional.cross_entropy(output, LABELS), output)
            gaussian._backwards = 0

    with pytest.raises(SofteqValueError, match="expected a squared error"):
        entropies()


def _worker(rank, port, folder, name):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    warnings.simplefilter("ignore", SofteqWarning)
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    one = rule(name, wrapped, samples=24)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(8):
        start = 8 * (step % 3) + 4 * rank
        optimizer.zero_grad()
        with one.perturbed():
            output = wrapped(X[start : start + 4])
            loss = nn.functional.mse_loss(output, Y[start : start + 4])
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    torch.save([parameters(model), torch.tensor([p.precision for p in one.paths]), one.noise], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["variational", "mackay"])
def test_processes_agree(name, tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_worker, args=(port, str(tmp_path), name), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=0)
    assert first[2] == second[2]
    assert copy.deepcopy(Prior()) == Prior()
