"""What needs a GPU: skipped elsewhere, run by ``make gpu``."""

from pathlib import Path

import pytest
import torch

import geomfast as gf
from geomfast.records import load_records
from geomfast.sweep.cell import Job, run
from geomfast.sweep.plan import Settings, cells

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("shape", [(5, 200, 128), (3, 40, 100), (1, 2, 1)])
def test_rankme_agrees_with_the_cpu(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.allclose(gf.rankme(x.cuda()).cpu(), gf.rankme(x), rtol=2e-5)


def test_a_run_trains_and_measures(tmp_path: Path) -> None:
    settings = Settings("joint", ("COPY",), (1,), 8, 16, None, "bf16", 4, 2, 4, 16)
    (cell,) = cells(settings, ("nano",), (0,))
    assert run(Job(cell, settings, ("rankme",), tmp_path, "cuda", 1))
    assert set(load_records(tmp_path)["device"]) == {"cuda:0"}
