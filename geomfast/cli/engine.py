"""Where a sweep's runs happen: the options that say it, and the engine they choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from geomfast import machine
from geomfast.cli.choices import MOST_THREADS, Finite

if TYPE_CHECKING:  # these bring torch with them
    from geomfast.runs.executors.events import Event, Work
    from geomfast.sweep.assumed import Assumed
    from geomfast.sweep.jobs import Job, StackedJob

ENGINES = ("local", "ray")


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose an engine, on a command."""
    options = [
        click.option(
            "--device", default="cpu", show_default=True, help="cpu, cuda (every GPU), cuda:1, ..."
        ),
        click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default=ENGINES[0],
            show_default=True,
            help="Processes on this machine, or workers of a Ray cluster.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Runs at once.  [default: 1; on GPUs what their free memory holds, for measure "
            "one each; all that a running cluster holds]",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, MOST_THREADS),
            help="CPU threads a run.  [default: all, shared; 1 on a running cluster]",
        ),
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            envvar="RAY_ADDRESS",
            show_envvar=True,
            help="Of a running Ray cluster; without, one is started on this machine.",
        ),
        click.option(
            "--gpus-per-cell",
            type=Finite(0, 1, min_open=True),
            help="Share of a GPU that a run on Ray takes: 0.25 for four on each.  [default: 1]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Engine:
    """The engine that the options choose.

    Attributes:
        name: local or ray.
        device: where a run trains and measures, as its job says it.
        devices: of this machine, to spread runs over.
        workers: runs at once; None for as many as a running cluster holds.
        threads: CPU threads a run.
        address: of a running Ray cluster; None for one started here.
        gpus_per_cell: share of a GPU that a run on Ray takes.
        shared: whether more runs than there are GPUs may be at once, as nobody said how many.
    """

    name: str
    device: str
    devices: tuple[str, ...]
    workers: int | None
    threads: int
    address: str | None = None
    gpus_per_cell: float = 0.0
    shared: bool = False

    def shared_by(self, work: Sequence[Job | StackedJob], assumed: Assumed | None = None) -> Engine:
        """With as many runs at once as fit into the free memory of the GPUs, unless it is said.

        Threads stay: a run that is resumed must have as many as before, whatever else runs then.

        Args:
            work: of a sweep.
            assumed: the GPU, where there is none to ask.
        """
        if not self.shared:
            return self
        from geomfast.sweep.sharing import free_bytes, runs_at_once

        free, cores = free_bytes, machine.usable_cores()
        if assumed:
            free, cores = (lambda _: round(assumed.memory.value)), round(assumed.cores.value)
        return replace(self, workers=runs_at_once(work, self.devices, cores, free))

    def events(
        self, jobs: Sequence[Work], stop: Callable[[], bool]
    ) -> AbstractContextManager[Iterator[Event]]:
        """Run jobs; entering waits for a cluster, and events come as they happen.

        Raises:
            PlanError: on entering, when a Ray cluster cannot run them.
        """
        from geomfast.runs.executors.processes import local
        from geomfast.runs.executors.ray_cluster import on_ray
        from geomfast.runs.executors.ray_runs import Wanted

        if self.name == "local":
            return closing(local(jobs, self.workers or 1, stop, self.devices))
        gpus = len(self.devices) if self.device == "cuda" else 0
        return on_ray(jobs, Wanted(self.address, self.workers, self.gpus_per_cell, gpus), stop)

    def __str__(self) -> str:
        if self.name == "local":
            return "this machine"
        return f"Ray at {self.address}" if self.address else "Ray on this machine"


def chosen_engine(options: dict[str, Any]) -> Engine:
    """The engine that a command's options choose.

    Raises:
        click.UsageError: options that do not go together, or a device that cannot be used; one that
            is assumed (``assume``) need not be there.
    """
    name, device, share = options["engine"], options["device"], options["gpus_per_cell"]
    workers, threads = options["workers"], options["threads"]
    address = options["address"] if options["address"] not in ("", "local") else None
    if name == "local":
        for option in ("address", "gpus_per_cell"):
            source = click.get_current_context().get_parameter_source(option)
            if source == ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{option.replace('_', '-')} needs --engine ray")
        address = None
    else:
        if device not in ("cpu", "cuda"):
            raise click.UsageError(
                f"--device {device}: Ray chooses the GPU; ask for --device cuda, or cpu"
            )
        if share is not None and device == "cpu":
            raise click.UsageError("--gpus-per-cell needs --device cuda")
    share = (share or 1.0) if name == "ray" and device == "cuda" else 0.0
    if address:
        # What this machine has says nothing about the cluster's nodes.
        return Engine(name, device, (device,), workers, threads or 1, address, share)
    from geomfast.runs.executors.placing import devices

    if options.get("assume"):
        here = (device,)
    else:
        check_device(device)
        here = tuple(devices(device))
    shared = name == "local" and device.startswith("cuda") and workers is None
    workers = workers or len(here) * (int(1 / share + 1e-9) if share else 1)
    threads = threads or max(1, machine.usable_cores() // workers)
    return Engine(name, device, here, workers, threads, None, share, shared)


def check_device(device: str) -> None:
    """Refuses a device that torch cannot use."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise click.UsageError(f"--device {device} cannot be used: {why}") from error
