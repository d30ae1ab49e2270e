"""The Hessian's operator of samples that are shared over two processes."""

import os
import subprocess
import sys
from pathlib import Path

import torch

import geomfast as gf
from tests.estimators.curvature.cases import dense_hessian, made

ROOT = Path(__file__).resolve().parents[2]

_RANK = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
import geomfast as gf
from tests.estimators.curvature.cases import made
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2,
                        timeout=timedelta(seconds=60))
world = dist.group.WORLD
model, (x, y), loss = made("mlp", torch.float64)
own = [(x[:1], y[:1]), (x[1:2], y[1:2])] if rank == 0 else (x[2:], y[2:])
operator = gf.hessian_operator(model, loss, own, process_group=world)
said = []

def refused(call):
    try:
        call()
        said.append("")
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")

refused(lambda: operator @ torch.full((51,), 1.0 + rank))
refused(lambda: gf.hessian_operator(model, loss, [] if rank else (x, y), process_group=world))
refused(lambda: gf.hessian_operator(torch.nn.parallel.DistributedDataParallel(model), loss, own,
                                    process_group=world))
refused(lambda: gf.hessian_operator(model, loss, own, process_group="world"))
found = {"matrix": operator @ torch.eye(51), "gradient": operator.gradient(),
         "samples": operator.samples}
own = [(x[:2].clone(), y[:2])] if rank == 0 else (x[2:], y[2:])
another = gf.hessian_operator(model, loss, own, process_group=world)
if rank == 0:
    own[0][0][0, 0] += 1.0
refused(lambda: another @ torch.ones(51))
refused(another.gradient)

def spoiled(model, batch):  # of rank 1 alone; its second derivative at 0 is infinite
    return model(batch)[:, 0].abs().pow(1.5) + 0.0 * model(batch)[:, 0] ** 2

torch.manual_seed(0)
line = torch.nn.Linear(3, 1, bias=False)
infinite = gf.hessian_operator(line, spoiled, torch.ones(4, 3) * (1 - rank), process_group=world)
refused(lambda: infinite @ torch.ones(3))
model[0].weight.data += rank
refused(lambda: gf.hessian_operator(model, loss, own, process_group=world))
torch.save({**found, "said": said}, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_samples_shared_over_two_ranks(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=180)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    model, batch, loss = made("mlp", torch.float64)
    matrix = dense_hessian(model, loss, batch)
    gradient = gf.hessian_operator(model, loss, batch).gradient()
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for found in both:
        assert found["samples"] == 7
        torch.testing.assert_close(found["matrix"], matrix, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found["gradient"], gradient)
        vector, empty, wrapped, group, data, again, infinite, changed = found["said"]
        assert "data have been changed in place" in data and "changed in place" in again
        assert "product with the hessian is not finite" in infinite
        assert vector == "ValueError: v of rank 1 is another one than that of rank 0"
        assert "data holds no batch" in empty
        assert "give its own model, model.module, on every rank" in wrapped
        assert "process_group must be a torch.distributed.ProcessGroup" in group
        assert "rank 1 has another model" in changed
    assert torch.equal(both[0]["matrix"], both[1]["matrix"])
    assert both[0]["said"][1].startswith("RuntimeError: rank 1: ValueError")
    assert both[1]["said"][4].startswith("RuntimeError: rank 0: ValueError: data have been")
    assert both[0]["said"][6].endswith("on another rank")
    assert both[1]["said"][6].endswith("rank 1, batch 0")
