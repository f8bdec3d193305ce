"""Soft layers under FSDP2 on one process and under DDP on two: the same training as without."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from softeq import Prior, Scalar, SoftGated, SoftLinear, SoftO3Linear, T, Vector, gated, prior_penalty
from softeq.groups import O

HIDDEN = (2 * Scalar + 2 * Vector)(O(3))
PRIOR = Prior(residual=10.0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        SoftLinear(Vector(O(3)), gated(HIDDEN)), SoftGated(HIDDEN), SoftO3Linear("2x0e+2x1o", "2x0e+2x1o"),
        SoftLinear(HIDDEN, T(2)(O(3)), parametrization="projected"),
    )  # fmt: skip


def inputs():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def trained(model, x, steps=3):
    """The weights after a few steps of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x).square().mean() + prior_penalty(model, PRIOR) / 100).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


WORKER = """
import sys
import torch
import torch.distributed as dist

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
from softeq import Prior, prior_penalty

model, x = torch.load(f"{folder}/model.pt", weights_only=False)
wrapped = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
for _ in range(3):
    optimizer.zero_grad()
    (wrapped(x[rank::2]).square().mean() + prior_penalty(model, Prior(residual=10.0)) / 100).backward()
    optimizer.step()
if rank == 0:
    torch.save(dict(model.named_parameters()), f"{folder}/trained.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ddp_on_two_processes_trains_as_one(tmp_path):
    """The model travels by pickle, as to spawned processes."""
    torch.save((network(), inputs()), tmp_path / "model.pt")
    commands = [[sys.executable, "-c", WORKER, str(rank), str(tmp_path)] for rank in range(2)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    found = torch.load(tmp_path / "trained.pt")
    for name, value in trained(network(), inputs()).items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-4, atol=1e-6)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def full(weights):
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in weights.items()}


@pytest.mark.filterwarnings("ignore")
def test_fsdp2_trains_as_without(one_process):
    from torch.distributed.fsdp import fully_shard

    plain = network()
    model = copy.deepcopy(plain)
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=one_process)
    fully_shard(model, mesh=one_process)
    expected, found = trained(plain, inputs()), full(trained(model, inputs()))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_fsdp2_from_the_meta_device(one_process):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    plain = network()
    with torch.device("meta"):
        model = network()
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=one_process)
    model.to_empty(device="cpu")
    sharded = {
        name: distribute_tensor(value, one_process, dict(model.named_parameters())[name].placements)
        for name, value in plain.state_dict().items()
    }
    model.load_state_dict(sharded, assign=True)
    torch.testing.assert_close(model(inputs()), plain(inputs()))
