"""Rules in the loop under torch.compile, autocast and several processes: the same as without."""

import copy
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from softeq import (
    Prior,
    SofteqValueError,
    SofteqWarning,
)
from softeq.strength import rule

from .test_rules_in_training import X, Y, made, network, parameters, steps

pytestmark = pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")


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


@pytest.mark.parametrize("name", ["variational", pytest.param("mackay", marks=pytest.mark.slow)])
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
