"""Chains from their first step to an estimate: as one program or not, and for how long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from geomfast.estimators.sampling.chains import ChainGroup, Sampling, Traces, group_size
from geomfast.estimators.sampling.estimate import LLC, estimate, require_own_losses
from geomfast.estimators.sampling.initial import require_finite_gradients
from geomfast.estimators.sampling.observe import Observer
from geomfast.estimators.sampling.sequential import Goal

logger = logging.getLogger("geomfast")


class AllChainsDiverged(ValueError):
    """No chain is left to estimate anything from."""


@dataclass(frozen=True)
class Pilot:
    """The first draws of chains, by which these run on or are given up.

    Attributes:
        burn_in: steps before its first draw.
        draws: of each chain.
        accepts: whether chains are worth it, by the estimate of these draws.
        runs_on: whether these are the first of those that count; else chains begin again.
    """

    burn_in: int
    draws: int
    accepts: Callable[[LLC], bool]
    runs_on: bool = True


@dataclass
class Chains:
    """What chains are run of, and until when."""

    sampling: Sampling
    chains: int
    burn_in: int
    goal: Goal | None
    progress: Callable[[int], None]
    #: Of what else is evaluated at every kept draw.
    observer: Observer | None = None
    #: Where it does not accept them, the chains end with it and have its burn_in.
    pilot: Pilot | None = None
    #: How it ended, where there is a goal.
    ending: str = ""


def run_chains(run: Chains, stacked: bool | None) -> tuple[Traces, int]:
    """The traces of all chains, and how many of them ran as one program."""
    group = group_size(run.sampling, run.chains, stacked)
    try:
        return _traces(run, group), group
    except (RuntimeError, NotImplementedError) as error:
        if group == 1:
            raise
        if stacked:
            raise ValueError(
                f"the model cannot run {group} chains as one program, leave stacked None: {error}"
            ) from error
        # Not every operation has a rule for vmap.
        logger.warning("chains run one after the other: %s", error)
        return _traces(run, 1), 1


def _traces(run: Chains, size: int) -> Traces:
    """Of all chains, `size` of them at a time."""
    sampling, goal, pilot = run.sampling, run.goal, run.pilot
    if run.observer is not None:
        run.observer.begin()
    firsts = range(0, run.chains, size)

    def made() -> Iterator[ChainGroup]:
        return (ChainGroup(sampling, first, min(size, run.chains - first)) for first in firsts)

    def further(groups: Iterable[ChainGroup], steps: int) -> Traces:
        return Traces.joined([group.run(steps, run.progress, run.observer) for group in groups])

    # One after the other where none is run on, so that only one takes memory.
    alone = goal is None and (pilot is None or len(firsts) > 1)
    again = pilot is not None and (alone or not pilot.runs_on)
    groups, begin = made() if alone else list(made()), time.monotonic()
    if pilot is None:
        traces = further(groups, sampling.steps)
    else:
        traces = further(groups, pilot.burn_in + pilot.draws)
        if not pilot.accepts(estimate_of(run, traces, size, pilot.burn_in)):
            run.burn_in = pilot.burn_in
            return traces
        if again:
            groups = made() if alone else list(made())
            traces = further(groups, sampling.steps)
        elif (left := sampling.steps - traces.losses.shape[1]) > 0:
            traces = traces.continued(further(groups, left))
    while goal is not None:
        good = ~traces.diverged
        energies = sampling.dynamics.nbeta * traces.excess[good, run.burn_in :]
        steps, run.ending = goal.further(energies, traces.losses.shape[1], time.monotonic() - begin)
        if not steps:
            break
        traces = traces.continued(further(groups, steps))
    return traces


def estimate_of(run: Chains, traces: Traces, stacked: int, burn_in: int | None = None) -> LLC:
    """The estimate of chains that have been run.

    Args:
        run: that gave the traces.
        traces: of all chains.
        stacked: chains that ran as one program.
        burn_in: None for that of the run.

    Raises:
        AllChainsDiverged: no chain stayed.
        ValueError: losses or gradients at the model's own weights are wrong.
    """
    sampling = run.sampling
    require_own_losses(sampling, traces)
    if traces.diverged.all() or not torch.isfinite(traces.statistics[:, 0]).all():
        require_finite_gradients(sampling)
    if traces.diverged.all():
        last, dynamics = int(torch.isfinite(traces.losses).sum(1).max()), sampling.dynamics
        raise AllChainsDiverged(
            f"all {len(traces.diverged)} chains have diverged, the last after {last} steps: lower "
            f"lr = {dynamics.lr:g}, or raise localization = {dynamics.localization:g}"
        )
    burn_in = run.burn_in if burn_in is None else burn_in
    return estimate(sampling, traces, burn_in, stacked, run.ending)
