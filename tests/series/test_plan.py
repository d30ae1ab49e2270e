"""From a source and what is asked for to jobs."""

import importlib.util
import pickle
from pathlib import Path

import pytest

from geomfast.runs.errors import PlanError
from geomfast.series.plan import (
    STRETCH,
    default_out,
    jobs_of,
    remove_partial_writes,
    series_of,
)

STEPS = [0, *(2**k for k in range(10)), *range(1000, 11000, 1000)]
REVISIONS = tuple(f"step{step}" for step in STEPS)
MODEL = "someone/some-160m"


def jobs(out: Path, workers: int | None):
    series = series_of(MODEL, REVISIONS, out, {"samples": 5}, probes=("syntax",), dtype="bfloat16")
    what = {"device": "cpu", "threads": 1, "workers": workers}
    return jobs_of(series, ("rankme",), out, **what)


def test_one_worker_has_all_of_them_in_order(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    assert job.name == "some-160m" and list(job.steps) == STEPS
    assert job.series.scale == "some-160m" and job.series.run == "some-160m"
    # It goes to another process, perhaps on another machine.
    assert pickle.loads(pickle.dumps(job)) == job
    assert job.series.shared()["source"] == MODEL


def test_several_share_them_evenly_from_first_to_last(tmp_path: Path) -> None:
    found = jobs(tmp_path, 3)
    assert [len(job.steps) for job in found] == [7, 7, 7]
    assert [job.steps[:2] for job in found] == [(0, 4), (1, 8), (2, 16)]
    assert len({job.name for job in found}) == 3
    assert sorted(step for job in found for step in job.steps) == STEPS


def test_on_a_cluster_in_stretches(tmp_path: Path) -> None:
    assert max(len(job.steps) for job in jobs(tmp_path, None)) <= STRETCH


def test_what_a_kill_leaves_behind_goes(tmp_path: Path) -> None:
    for name in ("step0", "step3"):  # the second is not asked for
        (tmp_path / "downloads" / name).mkdir(parents=True)
    remains = tmp_path / "records" / "some-160m" / ".tmp-part-7"
    remains.parent.mkdir(parents=True)
    remains.touch()
    remove_partial_writes(tmp_path, jobs(tmp_path, 1))
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["step0"]
    assert not remains.exists()


def test_where_results_go(tmp_path: Path) -> None:
    assert default_out(str(tmp_path)) == tmp_path.with_name(f"{tmp_path.name}-measured")
    assert default_out("EleutherAI/pythia-160m") == Path("measured/EleutherAI--pythia-160m")


@pytest.mark.parametrize("source", ["no/such/folder", "./nothing", "no such model"])
def test_neither_a_folder_nor_a_model(source: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such folder"):
        series_of(source, (), tmp_path, {})


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"pip install \"geomfast\[hf\]\""):
        series_of(MODEL, REVISIONS, tmp_path, {})
