"""The engine that a command's work is done by. No torch before it is asked to run something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from geomfast import machine

if TYPE_CHECKING:  # these bring torch with them
    from geomfast.runs.executors.events import Event, Work

#: Called with every event.
Hear = Callable[["Event"], None]
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Executor of work: processes or a cluster, and how many pieces run at the same time.

    Attributes:
        name: local or ray.
        device: device of each piece of work.
        devices: of this machine, to spread work over.
        workers: number of workers; None for as many as a running cluster has room for.
        threads: CPU threads of each.
        address: of a running Ray cluster; None for one started here.
        gpus_per_run: share of a GPU that a piece of work on Ray takes.
        shared: whether several workers may share a GPU, because their number was not given.
    """

    name: str
    device: str
    devices: tuple[str, ...]
    workers: int | None
    threads: int
    address: str | None = None
    gpus_per_run: float = 0.0
    shared: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of this machine that the work is spread over."""
        return len(self.devices) if self.device.startswith("cuda") else 0

    def shared_by(
        self,
        footprints: Iterable[int],
        cores: int | None = None,
        free: Callable[[str], int] | None = None,
    ) -> Engine:
        """A copy with as many workers as fit into free GPU memory, unless their number was given.

        Threads stay: a run that is resumed must have as many as before, whatever else runs then.

        Args:
            footprints: bytes of a GPU that each run takes; 0 of what is done.
            cores: of the CPU; this machine's without.
            free: bytes of a device that are free; asked of the device without.
        """
        if not self.shared:
            return self
        from geomfast.runs.sharing import free_bytes, runs_at_once

        cores, free = cores or machine.usable_cores(), free or free_bytes
        return replace(self, workers=runs_at_once(footprints, self.devices, cores, free))

    def events(
        self, jobs: Sequence[Work], stop: Callable[[], bool]
    ) -> AbstractContextManager[Iterator[Event]]:
        """Run jobs in processes of their own; entering waits for a cluster, and events come as
        they happen.

        Raises:
            PlanError: on entering, when a Ray cluster cannot run them.
        """
        from geomfast.runs.executors.processes import local
        from geomfast.runs.executors.ray_cluster import on_ray
        from geomfast.runs.executors.ray_runs import Wanted

        if self.name == "local":
            return closing(local(jobs, self.workers or 1, stop, self.devices))
        gpus = len(self.devices) if self.device == "cuda" else 0
        return on_ray(jobs, Wanted(self.address, self.workers, self.gpus_per_run, gpus), stop)

    @contextmanager
    def opened(
        self, jobs: Sequence[Work], stop: Callable[[], bool], *, here: bool = False
    ) -> Iterator[Callable[[Hear], None]]:
        """Get ready to run jobs; entering waits for a cluster.

        Args:
            jobs: what to run.
            stop: asked several times a second; when true no job is started any more, and those
                running are told to save and leave.
            here: whether a single job may run in this process on a local engine, which saves
                loading torch once more.

        Yields:
            What runs them, and calls with every event; the last one of a job is one of
            :data:`geomfast.runs.executors.events.TERMINAL`.

        Raises:
            PlanError: on entering, when a Ray cluster cannot run them.
        """
        if here and self.name == "local" and len(jobs) == 1:
            from geomfast.runs.executors.events import Event, attempt

            def run(hear: Hear) -> None:
                if not stop():
                    hear(Event(jobs[0].name, "started"))
                    hear(attempt(jobs[0], hear, stop, patience=30.0))

            yield run
            return
        with self.events(jobs, stop) as events:

            def run_all(hear: Hear) -> None:
                for event in events:
                    hear(event)

            yield run_all

    def __str__(self) -> str:
        if self.name == "local":
            return "this machine"
        return f"Ray at {self.address}" if self.address else "Ray on this machine"
