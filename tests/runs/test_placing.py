"""Which run goes first, and where: decided without a GPU or a cluster."""

import dataclasses
from pathlib import Path

import pytest
import torch

from geomfast.runs.executors.placing import devices, largest_first, least_loaded, only, room
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs

SETTINGS = Settings("joint", ("COPY",), (1,), 100, 8, None, "fp32", 4, 2, 8, 16)


def jobs(*scales: str, seeds: tuple[int, ...] = (0,), steps: int = 100) -> list[Job]:
    settings = dataclasses.replace(SETTINGS, steps=steps)
    planned = run_specs(settings, scales, seeds)
    return [Job(spec, settings, (), Path("out"), "cpu", threads=1) for spec in planned]


def test_the_largest_is_first_and_equals_keep_their_order() -> None:
    ordered = largest_first(jobs("nano", "xlarge", "micro", seeds=(0, 1)))
    assert [(job.spec.scale, job.spec.seed) for job in ordered] == [
        ("xlarge", 0),
        ("xlarge", 1),
        ("micro", 0),
        ("micro", 1),
        ("nano", 0),
        ("nano", 1),
    ]
    # 404,992 parameters a hundred times as long outweigh 3.2 million
    mixed = largest_first([*jobs("micro"), *jobs("nano", steps=10_000)])
    assert [job.spec.scale for job in mixed] == ["nano", "micro"]


def test_small_runs_share_a_gpu_and_a_large_one_has_its_own() -> None:
    loads: dict[str, list[float]] = {"cuda:0": [], "cuda:1": [], "cuda:2": []}
    placed = []
    for cost in (85.0, 25.0, 10.0, 10.0, 10.0, 3.0):
        device = least_loaded(loads)
        loads[device].append(cost)
        placed.append(device)
    assert placed == ["cuda:0", "cuda:1", "cuda:2", "cuda:2", "cuda:2", "cuda:1"]
    loads["cuda:0"].remove(85.0)
    assert least_loaded(loads) == "cuda:0"


def test_of_equally_loaded_gpus_the_one_with_fewer_runs() -> None:
    assert least_loaded({"cuda:0": [1.0, 1.0], "cuda:1": [2.0]}) == "cuda:1"


@pytest.mark.parametrize(
    ("count", "asked", "expected"),
    [
        (4, "cuda", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (1, "cuda", ["cuda"]),
        (4, "cuda:2", ["cuda:2"]),
        (4, "cpu", ["cpu"]),
    ],
)
def test_cuda_means_every_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, asked: str, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert devices(asked) == expected


def test_a_gpu_among_those_that_are_visible() -> None:
    assert only("cuda:3", None) == "3"
    assert only("cuda:1", "5,7") == "7"
    assert only("cuda:0", "GPU-1b2c, GPU-3d4e") == "GPU-1b2c"


def test_room_of_a_cluster() -> None:
    four = {"CPU": 16.0, "GPU": 4.0}
    assert room([four], cpus=1, gpus=1.0) == 4
    assert room([four], cpus=1, gpus=0.25) == 16
    assert room([four], cpus=3, gpus=0.25) == 5  # CPUs are the fewer
    # A run is never on two GPUs: 0.4 fits twice on each, not ten times on four.
    assert room([four], cpus=1, gpus=0.4) == 8
    assert room([four], cpus=1, gpus=0.1) == 16
    assert room([four], cpus=1, gpus=1 / 3) == 12
    assert room([four, {"CPU": 8.0}], cpus=8, gpus=0.0) == 3
    assert room([{"CPU": 7.0}, {"CPU": 7.0}], cpus=8, gpus=0.0) == 0
    assert room([{"CPU": 64.0}], cpus=1, gpus=0.5) == 0
