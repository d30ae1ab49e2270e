"""The paper's five measures of one task-level by a package each, as five loops would take them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.hessian_peers import NextToken, Peer, hessian_peers, loosest, settings_of
from bench.llc_error import CHAINS, Problem, best_of, burn_in_of, devinterp_of, fits, trial_of
from bench.stored_gradients import gram
from geomfast.estimators.llc import LLC
from geomfast.sweep.samples import LevelSamples

#: Step sizes of devinterp in units of one over the largest curvature of the chains' energy.
STEPS = (0.1, 0.3)


def rankme(model: nn.Module, one: LevelSamples) -> list[float]:
    """Of the state before the answer in every layer: a forward pass, and svdvals in turn."""
    states: list[Tensor] = []
    with torch.no_grad():
        model(one.tokens[:, : one.answer_start], collect=states)
        found = []
        for state in states:
            values = torch.linalg.svdvals(state[:, -1])
            found.append(torch.special.entr(values / values.sum()).sum().exp().item())
    return found


def by_vmap(model: nn.Module, one: LevelSamples) -> list[Tensor]:
    """(N, ...) gradients of every parameter of the loss of a task-level."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (row[None, :-1],))[0, one.answer_start - 1 :]
        return F.cross_entropy(logits, row[one.answer_start :])

    with sdpa_kernel(SDPBackend.MATH):
        return list(vmap(grad(loss), in_dims=(None, 0))(parameters, one.tokens).values())


def ranks(gradients: list[Tensor]) -> tuple[float, float]:
    """Effective rank of the Fisher matrix and of the covariance, from stored gradients."""
    kernel = gram(gradients, torch.float32)
    n = len(kernel)
    center = torch.eye(n, dtype=kernel.dtype) - 1 / n

    def effective(k: Tensor) -> float:
        values = torch.linalg.eigvalsh(k).clamp_min(0)
        return torch.special.entr(values / values.sum()).sum().exp().item()

    return effective(kernel), effective(center @ kernel @ center)


@dataclass
class Search:
    """The top eigenvalue by one library at the setting that was found for it.

    Attributes:
        name: of the library.
        tol, most: as of `Peer.top`.
    """

    name: str
    tol: float
    most: int

    @classmethod
    def found(cls, name: str, peer: Peer) -> Search:
        tol, most, _ = loosest(peer, settings_of(name))
        return cls(name, tol, most)

    def value(self, model: nn.Module, one: LevelSamples) -> float:
        peer = hessian_peers(model, one.tokens, NextToken(one.answer_start), (self.name,))
        return peer[self.name].top(self.tol, self.most)[0]


def problem_of(
    model: nn.Module, one: LevelSamples, found: LLC, curvature: float, goal: float
) -> Problem:
    """What devinterp samples a task-level with: the temperature and localization of ours."""

    def token_losses(model: nn.Module, tokens: Tensor) -> Tensor:
        logits = model(tokens[:, :-1])[:, one.answer_start - 1 :]
        targets = tokens[:, one.answer_start :]
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    stiff = found.nbeta * curvature + found.localization
    return Problem(model, one.tokens, token_losses, found.nbeta, found.localization, stiff, goal)


@dataclass(frozen=True)
class Chains:
    """Devinterp at its best setting for a task-level: what is timed, and how much of the whole.

    Attributes:
        call: runs so many steps of every chain.
        factor: of the whole to what is run.
        told: the setting and what it gives.
        right: whether its value is the reference's.
    """

    call: Callable[[], object]
    factor: float
    told: str
    right: bool


def devinterp(
    problem: Problem, reference: LLC, trial: int, batch_size: int, budget: float
) -> Chains | None:
    """By a short run of every step size.

    Args:
        problem: of a task-level.
        reference: what the value has to be.
        trial: draws of each chain of a short run.
        batch_size: of the minibatches.
        budget: seconds, of which more are scaled.
    """
    peer = devinterp_of(problem)
    if peer is None:
        return None
    trials = {}
    for step, size in itertools.product(STEPS, (batch_size,)):
        burn_in = min(burn_in_of(step), 5 * trial)
        run = partial(peer, step, size, burn_in + trial)
        trials[step, size] = trial_of(run, burn_in, problem.goal)
    step, size = best_of(trials, reference)
    best = trials[step, size]
    steps = best.gradients // CHAINS
    timed = max(min(steps, int(budget / (CHAINS * best.step_seconds))), 8)
    told = f"lr a = {step:g}, minibatches of {size}: {best}"
    call = partial(peer, step, size, timed)
    return Chains(call, max(steps / timed, 1.0), told, fits(best, reference))


def sgld(problem: Problem, reference: LLC, trial: int, batch_size: int, budget: float) -> Chains:
    """What stands in for devinterp where it is not installed: its steps, a chain at a time."""
    options = {"lr": STEPS[0] / problem.stiff, "batch_size": batch_size, "stacked": False}
    burn_in = min(burn_in_of(STEPS[0]), 5 * trial)

    def run(draws: int) -> Tensor:
        found = problem.ours(**options, burn_in=0, draws=draws)
        return found.nbeta * (found.loss_trace - found.initial_loss)

    best = trial_of(lambda: run(burn_in + trial), burn_in, problem.goal)
    steps = best.gradients // CHAINS
    timed = max(min(steps, int(budget / (CHAINS * best.step_seconds))), 8)
    told = f"plain steps, one chain at a time: {best}"
    return Chains(lambda: run(timed), max(steps / timed, 1.0), told, fits(best, reference))


def apart(a: float, b: float) -> float:
    """Relative difference."""
    return abs(a - b) / max(abs(b), 1e-12) if math.isfinite(a) else math.inf
