"""What a run of chains gives beside its coefficient: observed data, and losses of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomfast.estimators.arguments import kind
from geomfast.estimators.batches import Batches
from geomfast.estimators.calls import Losses
from geomfast.estimators.sampling.estimate import LLC
from geomfast.estimators.sampling.kept import InMemory, SampledLosses
from geomfast.estimators.sampling.observe import Observer, observables_of, sample_means
from geomfast.estimators.sampling.observed import observed
from geomfast.estimators.sampling.run import Chains

if TYPE_CHECKING:
    from geomfast.estimators.sampling.loss_files import LossFolder


def check_keeping(observe: Any, keep_losses: Any) -> None:
    """Raises for arguments of `geomfast.llc` that no run could serve, before any is made.

    Raises:
        TypeError: observe is no mapping, or keep_losses no path.
        geomfast.files.FileError: keep_losses is a folder that holds something.
    """
    if observe is not None and not isinstance(observe, Mapping):
        raise TypeError(
            f"observe must map names to data, or to (loss_fn, data), not be {kind(observe)}"
        )
    if not isinstance(keep_losses, (bool, np.bool_)):
        _folder(keep_losses)


def _folder(path: Any) -> LossFolder:
    from geomfast.estimators.sampling.loss_files import LossFolder  # pyarrow takes a while

    return LossFolder(path)


class Keeping:
    """Observes a run's draws, as asked for; a folder that is begun and not finished is removed.

    Args:
        observe, keep_losses: as in `geomfast.llc`.
        losses: of the chains.
        run: gets an observer, where there is anything to observe.
    """

    def __init__(
        self,
        observe: Mapping[str, Any] | None,
        keep_losses: bool | str | Path,
        losses: Losses,
        run: Chains,
    ):
        self.run, self.folder, self.memory = run, None, None
        if isinstance(keep_losses, (bool, np.bool_)):
            self.memory = InMemory() if keep_losses else None
        else:
            self.folder = _folder(keep_losses)
        sink, sampling = self.folder or self.memory, run.sampling
        if sink is None and observe is None:
            return
        at_once = sampling.at_once or sampling.batch_size
        own = None if sink is None else Batches(sampling.batches)
        asked = observables_of(observe, losses, sampling.model, own, at_once)
        run.observer = Observer(
            asked, sampling.parameters, sampling.model, run.burn_in, at_once, sink
        )

    def __enter__(self) -> Keeping:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self.folder is not None:
            self.folder.discard()

    def added(self, found: LLC) -> LLC:
        """The estimate, with what was observed at its draws."""
        observer = self.run.observer
        if observer is None:
            return found
        chains, steps = found.loss_trace.shape
        draws = steps - self.run.burn_in
        answers = {}
        for one in observer.observables:
            trace = observer.means(one.name, chains, draws)
            initial = sample_means(one.initial, one.initial).mean().item()
            answers[one.name] = observed(trace, initial, found)
        return replace(found, observed=answers, losses=self._losses(found, chains, draws))

    def _losses(self, found: LLC, chains: int, draws: int) -> SampledLosses | None:
        sampling, observer = self.run.sampling, self.run.observer
        assert observer is not None
        about = {
            "nbeta": found.nbeta,
            "samples": len(sampling.initial),
            "localization": found.localization,
        }
        if self.folder is not None:
            more = {"lr": found.lr, "momentum": found.momentum, "seed": sampling.seed}
            more |= {"batch_size": sampling.batch_size, "burn_in": self.run.burn_in}
            return self.folder.finish(chains, draws, found.diverged, about | more)
        if self.memory is None:
            return None
        initial = {one.name: one.initial for one in observer.observables}
        shapes = {name: (chains, draws, *x.shape) for name, x in initial.items()}
        return SampledLosses(
            shapes=shapes, initial=initial, diverged=found.diverged, source=self.memory, **about
        )
