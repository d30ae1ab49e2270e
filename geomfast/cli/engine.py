"""The engine that a command's options choose; see :data:`geomfast.cli.options.engine_options`."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from geomfast import machine
from geomfast.runs.executors.engine import Engine


def check_backend() -> None:
    """Refuse a forced backend that does not exist, before any work fails for it.

    Raises:
        click.UsageError: it is none of those there are.
    """
    if not (forced := os.environ.get("GEOMFAST_BACKEND", "")):
        return
    from geomfast.kernels.backends import backend_report  # brings torch

    names = [backend.name for backend in backend_report()]
    if forced not in names:
        raise click.UsageError(f"GEOMFAST_BACKEND={forced}: there are {', '.join(names)}")


def chosen_engine(options: dict[str, Any]) -> Engine:
    """The engine that a command's options choose.

    Raises:
        click.UsageError: options that do not go together, or a device that cannot be used; one that
            is assumed (``assume``) need not be there.
    """
    check_backend()
    name, device, share = options["engine"], options["device"], options["gpus_per_run"]
    workers, threads = options["workers"], options["threads"]
    address = options["address"] if options["address"] not in ("", "local") else None
    if name == "local":
        for option in ("address", "gpus_per_run"):
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
            raise click.UsageError("--gpus-per-run needs --device cuda")
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
