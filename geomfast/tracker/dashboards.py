"""Dashboards that show a tracker's values: TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

_KNOWN = 'one of "tensorboard", "wandb", a SummaryWriter or a run of Weights & Biases'


class Dashboard(Protocol):
    """Takes values while training runs."""

    def show(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def dashboards(log_to: Any, folder: Path) -> list[Dashboard]:
    """The dashboards that `log_to` names.

    Args:
        log_to: ``"tensorboard"``, ``"wandb"`` (its active run), a SummaryWriter (of torch or
            tensorboardX), a Weights & Biases run, or several of these; None for nothing.
        folder: where TensorBoard's own files go.

    Raises:
        ImportError: the package is not installed; says how to.
        ValueError: anything else, or no active run of Weights & Biases.
    """
    if log_to is None:
        return []
    several = log_to if isinstance(log_to, (list, tuple, set)) else [log_to]
    return [_dashboard(one, folder) for one in several]


def tags(rows: Iterable[Mapping[str, Any]], several: bool = False) -> dict[str, float]:
    """Records as named values: ``geomfast/rankme/final``, ``geomfast/fisher_rank``.

    Args:
        rows: of the records.
        several: of several sets of samples, whose names follow: ``geomfast/test/loss``.
    """
    found = {}
    for row in rows:
        name = ("geomfast", *([row["task"]] if several else []), row["measure"], row["layer"])
        found["/".join(filter(None, name))] = row["value"]
    return found


def _dashboard(one: Any, folder: Path) -> Dashboard:
    if one == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                'log_to="tensorboard" needs it: pip install "geomfast[tensorboard]"'
            ) from error
        return _TensorBoard(SummaryWriter(str(folder)), ours=True)
    if one == "wandb":
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError('log_to="wandb" needs it: pip install wandb') from error
        if wandb.run is None:
            raise ValueError('log_to="wandb" finds no active run: call wandb.init first')
        return _WeightsAndBiases(wandb.run)
    if callable(getattr(one, "add_scalar", None)):
        return _TensorBoard(one, ours=False)
    if callable(getattr(one, "define_metric", None)):
        return _WeightsAndBiases(one)
    raise ValueError(f"log_to must be {_KNOWN}, not {one!r}")


class _TensorBoard:
    def __init__(self, writer: Any, ours: bool):
        self.writer, self.ours = writer, ours

    def show(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        if self.ours:
            self.writer.close()


class _WeightsAndBiases:
    def __init__(self, run: Any):
        # An axis of its own: the run's step only moves forward, and the loop logs to it as well.
        run.define_metric("geomfast/step")
        run.define_metric("geomfast/*", step_metric="geomfast/step")
        self.run = run

    def show(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "geomfast/step": step})

    def close(self) -> None:
        """The run is the user's."""
