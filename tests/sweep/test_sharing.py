"""How many runs share a GPU, by a stand-in for its free memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from geomfast.runs.sharing import CONTEXT, MARGIN, fitting, free_bytes, runs_at_once
from geomfast.sweep.footprint import footprint, memory_bytes
from geomfast.sweep.jobs import Job, StackedJob
from geomfast.sweep.plan import Settings, run_specs

SETTINGS = Settings("joint", ("COPY",), (1,), 4, 8, None, "fp32", 4, 2, 8, 16)
GIB = 1 << 30


def jobs(out: Path, *scales: str, seeds: tuple[int, ...] = (0,), **changes: Any) -> list[Job]:
    planned = run_specs(SETTINGS, scales, seeds)
    device = changes.pop("device", "cuda")
    return [Job(spec, SETTINGS, ("rankme",), out, device, 1, **changes) for spec in planned]


def test_the_largest_of_them_have_to_fit_together() -> None:
    each = MARGIN * GIB + CONTEXT
    free = round(each * 3 / 0.9) + 1
    assert fitting([GIB] * 8, free) == 3
    assert fitting([GIB] * 2, free) == 2
    # Small ones do not make room for a large one that they may meet.
    assert fitting([GIB, GIB, 10 * GIB, 1], free) == 1
    assert fitting([GIB, GIB // 4, GIB // 4], free) == 3
    assert fitting([], free) == 1


def test_a_footprint_is_of_what_is_left(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "nano", device="cpu")
    assert footprint(job) == memory_bytes(job, [{"behaviour", "rankme"}])
    assert job.run()
    assert footprint(job) == 0


def test_a_group_takes_the_states_of_all_its_members(tmp_path: Path) -> None:
    alone = jobs(tmp_path, "nano", seeds=(0, 1))
    shared = (SETTINGS, ("rankme",), tmp_path, "cuda", 1)
    group = StackedJob("group", tuple(job.spec for job in alone), 2, *shared)
    assert footprint(group) > footprint(alone[0])


def test_runs_of_all_scales_share_a_large_gpu_and_not_a_small_one(tmp_path: Path) -> None:
    names = ("nano", "micro", "small", "medium", "large", "xlarge")
    six = jobs(tmp_path, *names)

    def at_once(free: int, cores: int = 16, devices: tuple[str, ...] = ("cuda",)) -> int:
        return runs_at_once(map(footprint, six), devices, cores, lambda device: free)

    assert at_once(139 * GIB) == 6
    assert 1 <= at_once(16 * GIB) < 6
    assert at_once(1 * GIB) == 1
    assert at_once(139 * GIB, cores=4) == 4  # each launches kernels from a core of its own
    assert at_once(1 * GIB, devices=("cuda:0", "cuda:1")) == 2
    assert runs_at_once(map(footprint, six[:1]), ("cuda",), 16, lambda device: 139 * GIB) == 1


def test_of_several_gpus_the_fullest_counts(tmp_path: Path) -> None:
    many = jobs(tmp_path, "nano", seeds=tuple(range(30)))
    free = {"cuda:0": 80 * GIB, "cuda:1": 20 * GIB}
    few = runs_at_once(map(footprint, many), tuple(free), 64, lambda device: free[device])
    assert (
        few
        == 2 * runs_at_once(map(footprint, many), ("cuda:1",), 64, lambda device: free[device])
        < 30
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu_takes_no_more_than_it_is_given(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "micro")
    given = MARGIN * footprint(job) + CONTEXT
    assert 0 < free_bytes("cuda") <= torch.cuda.get_device_properties(0).total_memory
    torch.cuda.reset_peak_memory_stats()
    assert job.run()
    assert torch.cuda.max_memory_reserved() < given
