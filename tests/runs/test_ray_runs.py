"""The Ray engine's decisions, without Ray: lost workers, nodes that do not fit, dead addresses."""

import dataclasses
import importlib.util
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import geomfast
from geomfast.runs.errors import PlanError
from geomfast.runs.executors import ray_cluster, ray_runs
from geomfast.runs.executors.events import TERMINAL, Event
from geomfast.runs.executors.ray_cluster import on_ray, refuse_dead
from geomfast.runs.executors.ray_node import look, token_in
from geomfast.runs.executors.ray_runs import Runs, Wanted
from geomfast.runs.executors.ray_worker import Worker
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs

SETTINGS = Settings("joint", ("COPY",), (1,), 6, 8, None, "fp32", 6, 2, 6, 16)
RUN = "joint-nano-seed0"


def jobs(out: Path, *scales: str) -> list[Job]:
    planned = run_specs(SETTINGS, scales or ("nano",), (0,))
    return [Job(spec, SETTINGS, (), out, "cpu", threads=2) for spec in planned]


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause = ValueError("of our own")


class Ray:
    """Stands in for the module: every worker gives the answers of the next script in line.

    Args:
        scripts: for each worker in the order they are started, what it answers to one question
            after the other; an exception is raised, None is not yet an answer, and before the
            answer after "stop" the sweep is told to stop.
        cpus: of the one node.
    """

    def __init__(self, *scripts: list[Any], cpus: float = 2.0) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.scripts = deque(scripts)
        self.cpus = cpus
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.killed: list[Any] = []
        self.told_to_stop: list[str] = []
        self.stop: Callable[[], None]

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": self.cpus}}, {"Alive": False}]

    def remote(self, _: Any) -> Any:
        return SimpleNamespace(options=lambda **options: self._created(options))

    def _created(self, options: dict[str, Any]) -> Any:
        def create(job: Job, token: str, version: str) -> Any:
            assert (token, version) == ("token", geomfast.__version__)
            self.started.append((job.spec.run, options))
            script = self.scripts.popleft()

            def poll_events(stop: bool) -> Question:
                if stop:
                    self.told_to_stop.append(job.spec.run)
                return Question(script)

            return SimpleNamespace(
                where=SimpleNamespace(remote=lambda: Question(script)),
                poll_events=SimpleNamespace(remote=poll_events),
            )

        return SimpleNamespace(remote=create)

    def wait(self, questions: list["Question"], timeout: float) -> tuple[list["Question"], None]:
        return [question for question in questions if question.script[0] is not None], None

    def get(self, question: "Question") -> Any:
        answer = question.script.pop(0)
        if answer == "stop":
            self.stop()
            answer = question.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


class Question:
    def __init__(self, script: list[Any]) -> None:
        self.script = script


HERE = ("node1", 7)


def at(step: int, kind: str = "progress") -> list[Event]:
    return [Event(RUN, kind, step)]


def run(ray: Ray, given: list[Job], **wanted: Any) -> list[Event]:
    """The events of jobs run to their end."""
    ours, its = Pipe()
    ray.stop = lambda: ours.send("stop")
    Runs(ray, given, Wanted(None, **{"workers": 2, **wanted}), "token", its).run()
    its.close()
    found = []
    while ours.poll():
        try:
            kind, event = ours.recv()
        except EOFError:
            break
        assert kind == "event"
        found.append(event)
    ours.close()
    return found


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_a_run_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOMFAST_BACKEND", "reference")
    ray = Ray([HERE, [], at(3), at(6) + at(6, "finished")])
    events = run(ray, jobs(tmp_path))
    assert kinds(events) == ["started", "progress", "progress", "finished"]
    ((name, options),) = ray.started
    assert (name, options["num_cpus"], options["num_gpus"]) == (RUN, 2, 0.0)
    environment = options["runtime_env"]["env_vars"]
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["GEOMFAST_BACKEND"] == "reference"
    assert "PATH" not in environment
    assert len(ray.killed) == 1  # so that its GPU is free


def test_no_more_runs_than_there_is_room_for_and_the_largest_first(tmp_path: Path) -> None:
    def script(name: str) -> list[Any]:
        return [HERE, [Event(name, "finished", 6)]]

    names = ["joint-micro-seed0", "joint-nano-seed0"]
    for cpus, workers in ((2.0, None), (64.0, 1)):
        ray = Ray(*map(script, names), cpus=cpus)
        events = run(ray, jobs(tmp_path, "nano", "micro"), workers=workers)
        assert [(event.run, event.kind) for event in events] == [
            (name, kind) for name in names for kind in ("started", "finished")
        ]


def test_a_lost_worker_is_replaced_and_said(tmp_path: Path) -> None:
    ray = Ray([HERE, at(3), RayError("died")], [("node2", 8), at(2), at(6, "finished")])
    events = run(ray, jobs(tmp_path))
    assert kinds(events) == ["started", "progress", "lost", "progress", "finished"]
    lost = events[2]
    assert "node1 (process 7)" in lost.error and "from the last checkpoint" in lost.error
    assert len(ray.started) == 2


def test_a_worker_lost_again_and_again_is_a_failed_run(tmp_path: Path) -> None:
    ray = Ray(*([HERE, at(3), RayError("node died\nsomehow")] for _ in range(10)))
    events = run(ray, jobs(tmp_path))
    # The first loss counts as getting further: there was nothing before it.
    assert len(ray.started) == ray_runs.LOSSES
    assert kinds(events).count("lost") == ray_runs.LOSSES - 1
    assert events[-1].kind == "failed" and "somehow" in events[-1].details


def test_a_run_that_gets_further_may_lose_many_workers(tmp_path: Path) -> None:
    lost = [[HERE, at(step), RayError("preempted")] for step in range(1, 9)]
    events = run(Ray(*lost, [HERE, at(9, "finished")]), jobs(tmp_path))
    assert kinds(events).count("lost") == 8
    assert events[-1].kind == "finished"


def test_a_worker_lost_before_it_began_is_replaced(tmp_path: Path) -> None:
    ray = Ray([RayError("no")], [HERE, at(6, "finished")])
    assert kinds(run(ray, jobs(tmp_path))) == ["lost", "started", "finished"]


def test_an_error_of_our_own_code_is_not_tried_again(tmp_path: Path) -> None:
    ray = Ray([HERE, RayTaskError("Traceback ...")])
    events = run(ray, jobs(tmp_path))
    assert kinds(events) == ["started", "failed"]
    assert events[-1].error == "ValueError: of our own" and "Traceback" in events[-1].details
    assert len(ray.started) == 1


def test_a_stop_tells_what_has_begun_and_forgets_the_rest(tmp_path: Path) -> None:
    # small runs, micro waits for its node, nano for its turn
    small = "joint-small-seed0"
    news = [[Event(small, "progress", 3)], [Event(small, "stopped", 4)]]
    ray = Ray([HERE, "stop", [], *news], [None], cpus=4.0)
    events = run(ray, jobs(tmp_path, "nano", "micro", "small"))
    assert [(event.run, event.kind) for event in events] == [
        (small, kind) for kind in ("started", "progress", "stopped")
    ]
    assert ray.told_to_stop == [small]
    assert len(ray.started) == len(ray.killed) == 2


def test_a_worker_lost_while_stopping_has_stopped(tmp_path: Path) -> None:
    ray = Ray([HERE, "stop", at(3), RayError("gone")])
    events = run(ray, jobs(tmp_path))
    assert events[-1].kind == "stopped"
    assert len(ray.started) == 1


def test_a_node_that_sees_another_folder_is_refused(tmp_path: Path) -> None:
    here = geomfast.__version__
    other = tmp_path / "other"
    other.mkdir()
    with token_in(tmp_path) as token:
        assert look(tmp_path, token, here) == ""
        assert "OUT must be on a file system that all nodes share" in look(other, token, here)
        assert "another folder" in look(tmp_path / "nowhere", token, here)
        assert look(tmp_path, token, "9.9") == f"geomfast is {here} there, 9.9 here"
    assert "another folder" in look(tmp_path, token, here)


def test_what_a_killed_sweep_left_is_cleared(tmp_path: Path) -> None:
    killed = token_in(tmp_path)
    before = killed.__enter__()
    with token_in(tmp_path) as token:
        assert token != before
        assert [path.name for path in tmp_path.iterdir()] == [token]
    assert not list(tmp_path.iterdir())


def last_event(job: Job, token: str, *, stop: bool = False) -> Event:
    worker = Worker(job, token, geomfast.__version__)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = worker.poll_events(stop)
        assert len(found) <= 2
        if found and found[-1].kind in TERMINAL:
            return found[-1]
    raise AssertionError("no last event")


def test_a_worker_runs_a_cell_and_stops_when_told(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    short = dataclasses.replace(job, threads=1)
    failed = last_event(short, "nothing")
    assert failed.kind == "failed" and failed.explained and "another folder" in failed.error
    with token_in(tmp_path) as token:
        finished = last_event(short, token)
        assert (finished.kind, finished.step) == ("finished", 6)
        (spec,) = run_specs(SETTINGS, ("nano",), (1,))
        long = dataclasses.replace(SETTINGS, steps=10_000)
        stopped = last_event(dataclasses.replace(short, spec=spec, settings=long), token, stop=True)
        assert stopped.kind == "stopped" and 0 < stopped.step < 10_000


@contextmanager
def listening() -> Iterator[str]:
    """Something that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as address:
        closed = address
        monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 0.3)
        with pytest.raises(PlanError, match="no answer within"):
            refuse_dead(address)
    with pytest.raises(PlanError, match="Connection refused"):
        refuse_dead(closed)
    for wrong in ("ray://127.0.0.1:1", "127.0.0.1", ":6379", "127.0.0.1:0", "host:port"):
        with pytest.raises(PlanError, match="HOST:PORT"):
            refuse_dead(wrong)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(PlanError, match=r"geomfast\[ray\]"),
        on_ray(jobs(tmp_path), Wanted(None, 1), lambda: False),
    ):
        pass


def test_folders_of_killed_commands_are_removed_and_those_in_use_are_not(tmp_path: Path) -> None:
    folders = {name: tmp_path / f"geomfast-ray-{name}" for name in ("left", "held", "young")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "log").write_text("of a cluster")
    old = time.time() - 3600
    for name in ("left", "held"):
        os.utime(folders[name], (old, old))
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "geomfast-ray-link").symlink_to(mine)
    with ray_cluster._held(folders["held"]), ray_cluster._folder(tmp_path) as ours:
        there = {path.name.removeprefix("geomfast-ray-") for path in tmp_path.glob("geomfast-*")}
        assert there == {"held", "young", "link", ours.name.removeprefix("geomfast-ray-")}
        with ray_cluster._folder(tmp_path) as other:
            assert ours.is_dir() and other != ours
    assert not ours.exists() and mine.is_dir()
