"""The process that speaks with a Ray cluster on behalf of a sweep.

It is a process of its own, and its session too: Ray's clients print what they like, abort when
the cluster goes away, and set signal handlers, none of which may happen to the sweep; and Ctrl-C in
a terminal does not reach the servers of a cluster started here, so that runs can save their state.

It sends pairs over a pipe: ``stage`` and what comes next, ``refused`` and why, ``event`` and an
:class:`~geomfast.runs.executors.events.Event`.  Anything that comes back means stop, and so does
the end of the pipe.
"""

from __future__ import annotations

import os
import secrets
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import geomfast
from geomfast.runs.executors.events import Work
from geomfast.runs.executors.processes import STOP_SIGNALS
from geomfast.runs.executors.ray_node import look, token_in
from geomfast.runs.executors.ray_runs import Runs, Wanted, capacity, nodes

#: Where in its folder the process prints.
LOG = "driver.log"
#: Bytes of Ray's object store; events are small.
_OBJECT_STORE = 100 * 2**20
#: Seconds for every node to say whether it sees OUT.
_LOOK_SECONDS = 60.0


class Refused(Exception):
    """A cluster that cannot run the sweep; the message says why."""


def drive(jobs: list[Work], wanted: Wanted, folder: Path, connection: Connection) -> None:
    """Body of the process: run the jobs and send what happens.

    Args:
        jobs: what to run; OUT is absolute.
        wanted: of the cluster.
        folder: for Ray's logs and sockets, and for what this process prints.
        connection: to the sweep.
    """
    os.setsid()
    _ignore_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if wanted.address is None:
        os.environ.update(_own_cluster())
    try:
        import ray
    except ImportError as error:
        connection.send(("refused", f"ray cannot be imported: {error}"))
        return
    try:
        connection.send(("stage", "connecting" if wanted.address else "starting"))
        _connect(ray, jobs[0].threads, wanted, folder)
        _ignore_signals()  # Ray has set a handler that would end this process
        connection.send(("stage", "looking"))
        with token_in(jobs[0].out) as token:
            _inspect(ray, jobs[0], wanted, token)
            connection.send(("stage", "running"))
            Runs(ray, jobs, wanted, token, connection).run()
    except Refused as error:
        connection.send(("refused", str(error)))
    finally:
        connection.close()  # before what may take long: the sweep has heard everything
        ray.shutdown()


def _own_cluster() -> dict[str, str]:
    """Environment of a cluster that is started here; Ray reads it when it is imported."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
        "RAY_worker_niceness": "0",  # runs are no nicer than the local engine's
        # A secret of its own: without, Ray takes the one in the home folder, or writes it there.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def _ignore_signals() -> None:
    # With a handler of our own, not SIG_IGN, which programs started from here would inherit.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: None)


def _connect(ray: Any, threads: int, wanted: Wanted, folder: Path) -> None:
    options: dict[str, Any] = {"address": wanted.address}
    if wanted.address is None:
        options = {
            "address": "local",
            "num_cpus": (wanted.workers or 1) * threads,
            "num_gpus": wanted.gpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
            "_temp_dir": str(folder),
        }
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:
        raise Refused(f"{type(error).__name__}: {error}") from error


def _inspect(ray: Any, job: Work, wanted: Wanted, token: str) -> None:
    """Refuse a cluster that has no room for a run, another geomfast, or does not see OUT."""
    names = {n["NodeID"]: n["NodeManagerHostname"] for n in nodes(ray)}
    if capacity(ray, job, wanted) == 0:
        needs = f"{job.threads} CPU{'s' if job.threads > 1 else ''}"
        if wanted.gpus_per_run:
            needs += f" and {wanted.gpus_per_run:g} GPU"
        raise Refused(f"no node of the cluster has the {needs} that a run takes")
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = {}
    for node, name in names.items():
        there = {"num_cpus": 0, "scheduling_strategy": affinity(node, soft=False)}
        answer = ray.remote(look).options(**there).remote(job.out, token, geomfast.__version__)
        asked[answer] = name
    answers, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_SECONDS)
    wrong = {asked[answer]: f"no answer within {_LOOK_SECONDS:.0f} s" for answer in silent}
    for answer in answers:
        try:
            wrong[asked[answer]] = ray.get(answer)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            wrong[asked[answer]] = f"geomfast does not work there: {last}"
    wrong = {name: why for name, why in wrong.items() if why}
    if wrong:
        raise Refused("\n".join(f"node {name}: {why}" for name, why in sorted(wrong.items())))
