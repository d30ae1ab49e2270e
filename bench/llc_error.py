"""What a learning coefficient costs to a standard error: ours, and devinterp by a short run."""

from __future__ import annotations

import dataclasses
import importlib
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.llc_peers import quiet
from geomfast.estimators.llc import LLC, llc
from geomfast.estimators.sampling.diagnostics import Mixing, mixing
from geomfast.estimators.sampling.rules import BURN_IN
from geomfast.estimators.sampling.sequential import LEAST_ESS

CHAINS = 4


@dataclasses.dataclass
class Problem:
    """What both are given.

    Attributes:
        model: logits (N, T, V) of tokens.
        tokens: (N, T).
        token_losses: (model, tokens) -> (N, T'), of which a sample's loss is the mean.
        nbeta, localization: of the chains.
        stiff: largest curvature of the chains' energy.
        goal: standard error, as a share of the coefficient.
    """

    model: nn.Module
    tokens: Tensor
    token_losses: Callable[[Any, Tensor], Tensor]
    nbeta: float
    localization: float
    stiff: float
    goal: float

    def sample_losses(self, model: nn.Module, tokens: Tensor) -> Tensor:
        return self.token_losses(model, tokens).mean(1)

    def ours(self, **options: Any) -> LLC:
        return llc(
            self.model, self.sample_losses, self.tokens, nbeta=self.nbeta, chains=CHAINS,
            localization=self.localization, **options,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a run tells of the work to a standard error.

    Attributes:
        mixed: mean, error and effective draws of what was kept.
        kept: draws of each chain.
        burn_in: steps before them.
        step_seconds: of one gradient.
        goal: standard error, as a share of the mean.
    """

    mixed: Mixing
    kept: int
    burn_in: int
    step_seconds: float
    goal: float

    @property
    def draws(self) -> int:
        """Of each chain, for the goal and for as many effective draws as ours asks for."""
        for_error = (self.mixed.stderr / (self.goal * abs(self.mixed.mean))) ** 2
        return math.ceil(self.kept * max(for_error, LEAST_ESS / self.mixed.ess))

    @property
    def gradients(self) -> int:
        return CHAINS * (self.burn_in + self.draws)

    @property
    def seconds(self) -> float:
        return self.gradients * self.step_seconds

    def __str__(self) -> str:
        return (
            f"{self.mixed.mean:.3f} +- {self.mixed.stderr:.2g}, {self.mixed.ess:.0f} effective of "
            f"{CHAINS * self.kept}; to {self.goal:.0%}: {self.gradients:,} gradients of "
            f"{1e3 * self.step_seconds:.1f} ms, {self.seconds:.1f} s"
        )


def burn_in_of(step: float) -> int:
    """Steps in which the start is forgotten, at a step size in units of the largest curvature."""
    return max(BURN_IN, math.ceil(15.0 / step))


def devinterp_of(problem: Problem) -> Callable[[float, int, int], Tensor] | None:
    """(step, batch size, draws) -> (C, draws) nbeta times losses less the initial one.

    It is given an initial loss of all samples, each seen once, and minibatches of its own for
    every chain.
    """
    with quiet():
        try:
            library = importlib.import_module("devinterp.slt.llc")
            datasets = importlib.import_module("datasets")
        except ImportError:
            return None
    tokens = problem.tokens.tolist()
    data = datasets.Dataset.from_dict({"input_ids": tokens}).with_format("torch")

    def run(step: float, batch_size: int, draws: int) -> Tensor:
        with quiet(), torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            found = library.llc(
                problem.model,
                data,
                observables={},
                lr=step / problem.stiff,
                n_beta=problem.nbeta,
                localization=problem.localization,
                num_chains=CHAINS,
                num_draws=draws,
                batch_size=batch_size,
                num_init_loss_batches=len(tokens) // batch_size,
                match_sampling_input_ids_across_chains=False,
                device="cpu",
                output_path=Path(folder) / "samples.zarr",
                loss_fn=problem.token_losses,
            )
            trace = torch.from_numpy(found.loss_trace.values.copy()).double()
            return problem.nbeta * (trace - float(found.init_loss))

    return run


def trial_of(run: Callable[[], Tensor], burn_in: int, goal: float) -> Trial:
    """Of (C, burn_in + draws) energies."""
    begin = time.perf_counter()
    energies = run()
    seconds = (time.perf_counter() - begin) / energies.numel()
    kept = energies[:, burn_in:]
    return Trial(mixing(kept), kept.shape[1], burn_in, seconds, goal)


def fits(trial: Trial, reference: LLC) -> bool:
    """Whether it is the reference's value within three joint errors, or the goal."""
    joint = math.hypot(trial.mixed.stderr, reference.stderr)
    allowed = max(3.0 * joint, trial.goal * reference.mean)
    return abs(trial.mixed.mean - reference.mean) <= allowed


def best_of(trials: dict[Any, Trial], reference: LLC) -> Any:
    """Of those that have the right value, or, where there is none, the nearest."""
    fitting = {key: trial for key, trial in trials.items() if fits(trial, reference)}
    if fitting:
        return min(fitting, key=lambda key: fitting[key].seconds)
    return min(trials, key=lambda key: abs(trials[key].mixed.mean - reference.mean))
