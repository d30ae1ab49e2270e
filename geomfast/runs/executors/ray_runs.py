"""The runs of a sweep on a Ray cluster, seen from its driver."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import geomfast
from geomfast.runs.executors.events import TERMINAL, Event, Work
from geomfast.runs.executors.placing import largest_first, room
from geomfast.runs.executors.ray_worker import Worker

#: Times that work may lose its worker without progress in between.
LOSSES = 3
#: Environment that shapes a run's numbers or its speed, and so goes with it to another machine.
_CARRIED = ("GEOMFAST_", "GOMP_", "PYTORCH_", "CUBLAS_", "NVIDIA_TF32_", "TRITON_INTERPRET")
#: Seconds between two counts of the nodes: they may come and go.
_COUNT_EVERY = 5.0


@dataclass(frozen=True)
class Wanted:
    """Resources that a command requests from a cluster.

    Attributes:
        address: of a running one; None to start one on this machine.
        workers: runs at once; None for as many as the cluster has room for.
        gpus_per_run: share of one GPU that a run takes; 0 without.
        gpus: GPUs of a cluster that is started here.
    """

    address: str | None
    workers: int | None
    gpus_per_run: float = 0.0
    gpus: int = 0


@dataclass
class _Attempt:
    """Work that has a worker, or waits for a node to have room for one."""

    job: Work
    actor: Any
    begun: bool = False
    where: str = "a node"
    last: Event = field(default_factory=lambda: Event("", "progress"))


def nodes(ray: Any) -> list[dict[str, Any]]:
    """The nodes that runs can be on."""
    return [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0.0) > 0]


def capacity(ray: Any, job: Work, wanted: Wanted) -> int:
    """Runs like this one that the cluster as it is now holds at once."""
    return room((n["Resources"] for n in nodes(ray)), job.threads, wanted.gpus_per_run)


class Runs:
    """The runs of a sweep on a cluster.

    Args:
        ray: the module, connected.
        jobs: what to run; OUT is absolute.
        wanted: of the cluster.
        token: of OUT, see :func:`geomfast.runs.executors.ray_node.look`.
        connection: to the sweep; takes ``event`` and an event.
    """

    def __init__(
        self, ray: Any, jobs: list[Work], wanted: Wanted, token: str, connection: Connection
    ) -> None:
        self._ray = ray
        self._worker = ray.remote(Worker)
        self._wanted = wanted
        self._token = token
        self._connection = connection
        self._waiting = largest_first(jobs)
        self._running: dict[Any, _Attempt] = {}  # by the answer that is awaited
        self._begun: set[str] = set()
        self._losses: dict[str, int] = {}
        self._furthest: dict[str, int] = {}
        self._stopping = False

    def run(self) -> None:
        """Run all work, until it is done or stopped."""
        limit, counted = 0, float("-inf")
        while self._waiting or self._running:
            if not self._stopping and self._told():
                self._leave()
            if self._waiting and time.monotonic() > counted + _COUNT_EVERY:
                limit, counted = self._limit(), time.monotonic()
            while self._waiting and len(self._running) < limit:
                self._start(self._waiting.pop(0))
            if not self._running:  # every node has gone; some may come back
                time.sleep(0.25)
                continue
            ready, _ = self._ray.wait(list(self._running), timeout=0.25)
            for answer in ready:
                self._hear(self._running.pop(answer), answer)

    def _told(self) -> bool:
        if not self._connection.poll():
            return False
        with suppress(EOFError, OSError):  # the end of the pipe says the same
            self._connection.recv()
        return True

    def _limit(self) -> int:
        found = capacity(self._ray, self._waiting[0], self._wanted)
        return min(found, self._wanted.workers or found)

    def _start(self, job: Work) -> None:
        carried = {k: v for k, v in os.environ.items() if k.startswith(_CARRIED)}
        actor = self._worker.options(
            num_cpus=job.threads,
            num_gpus=self._wanted.gpus_per_run,
            max_restarts=0,
            runtime_env={"env_vars": {**carried, "OMP_NUM_THREADS": str(job.threads)}},
        ).remote(job, self._token, geomfast.__version__)
        self._running[actor.where.remote()] = _Attempt(job, actor)

    def _leave(self) -> None:
        """Drop work that has not begun; running work is told at the next poll of its events."""
        self._stopping = True
        self._waiting.clear()
        for answer, one in list(self._running.items()):
            if not one.begun:
                self._ray.kill(one.actor)
                del self._running[answer]

    def _hear(self, one: _Attempt, answer: Any) -> None:
        """Take in a worker's answer, and ask it the next question."""
        name = one.job.name
        try:
            found = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:  # raised by our own code there
            why = f"{type(error.cause).__name__}: {error.cause}"
            self._send(replace(one.last, run=name, kind="failed", error=why, details=str(error)))
            self._ray.kill(one.actor)
            return
        except self._ray.exceptions.RayError as error:
            self._lose(one, error)
            return
        if not one.begun:
            one.begun = True
            one.where = f"node {found[0]} (process {found[1]})"
            if name not in self._begun:
                self._begun.add(name)
                self._send(Event(name, "started"))
        else:
            for event in found:
                one.last = event
                self._send(event)
        if one.last.kind in TERMINAL:
            self._ray.kill(one.actor)
        else:
            self._running[one.actor.poll_events.remote(self._stopping)] = one

    def _lose(self, one: _Attempt, error: Exception) -> None:
        """Start work again whose worker is lost, unless that happens repeatedly."""
        # Cut off is not dead: it may still be writing.
        self._ray.kill(one.actor)
        name = one.job.name
        last = replace(one.last, run=name)
        if self._stopping:
            self._send(replace(last, kind="stopped"))
            return
        further = last.step > self._furthest.get(name, 0)
        self._furthest[name] = max(last.step, self._furthest.get(name, 0))
        self._losses[name] = 1 if further else self._losses.get(name, 0) + 1
        why = f"its worker on {one.where} is gone"
        if self._losses[name] >= LOSSES:
            why += f", like the {LOSSES - 1} before it, without getting further (out of memory?)"
            self._send(replace(last, kind="failed", error=why, details=f"{error}\n"))
            return
        why += "; another resumes from the last checkpoint"
        self._send(replace(last, kind="lost", error=why))
        self._waiting.insert(0, one.job)

    def _send(self, event: Event) -> None:
        with suppress(OSError):  # the sweep was killed: the end of its pipe is noticed next
            self._connection.send(("event", event))
