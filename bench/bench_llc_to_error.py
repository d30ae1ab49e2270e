"""Seconds and gradients to a standard error of 2% of the coefficient: ours, and devinterp's.

Both sample one model, its data, inverse temperature and localization, in four chains. Devinterp has
the best of a grid of step sizes and minibatches: the fewest seconds by a trial run, of those whose
value is the reference's (long chains of all of the data) within three joint errors or 2%. Ours
finds its step by itself, which counts, and has the best of the same minibatches. Devinterp's error
comes of its trace of losses by the same formula as ours; its draws are those that its trial needs
for 2% and, as ours, for 100 effective draws; where they take longer than a budget, fewer are timed
and seconds scaled by the number.

What each ingredient gives is told one after the other, in gradients and in seconds to that error:
devinterp; our steps at its setting with its losses, of minibatches as they come; the same less the
loss of the same minibatch at the weights; chains as one program, where that is what runs; steps
with momentum of a size that is found. Of the exact mean of localization |w - w0|^2 + nbeta
(w - w0).grad L, which is the number of parameters, a note says how much of the variance it explains
as a control variate.

Models: blocks of a GPT at T = 16 that have learned to continue arithmetic progressions mod 31; the
loss is of the tokens that the two before determine. One thread.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.bench_llc import SMALL
from bench.interleave import interleave, scaled
from bench.llc_error import (
    CHAINS,
    Problem,
    Trial,
    best_of,
    burn_in_of,
    devinterp_of,
    fits,
    trial_of,
)
from geomfast.estimators.hessian import hessian_top_eigenvalues
from geomfast.estimators.llc import LLC
from geomfast.estimators.sampling.chains import size_and_norm
from geomfast.estimators.sampling.rules import BURN_IN, usual_nbeta
from geomfast.estimators.sampling.streams import Shuffled
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES

P, T, SAMPLES = 31, 16, 256
GOAL = 0.02
#: Share of |w0| within which localization keeps chains; further off the loss is as of any weights.
WITHIN = 0.1
#: Step sizes in units of one over the largest curvature of the chains' energy, and minibatches.
STEPS, BATCHES = (0.1, 0.3, 1.0), (32, 128)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        scale: of the model.
        training: steps before.
        trial: draws of each chain of a trial.
        rounds: in which each is timed once.
        budget: seconds of one whole estimate of devinterp, above which it is scaled.
        reference: standard error of our reference, as a share.
    """

    scale: str
    training: int
    trial: int
    rounds: int
    budget: float
    reference: float


FULL = [
    Size("d=64", 1500, trial=200, rounds=3, budget=60.0, reference=0.01),
    Size("nano", 1500, trial=100, rounds=3, budget=60.0, reference=0.01),
]
TINY = [Size("d=64", 30, trial=16, rounds=1, budget=2.0, reference=1.0)]


def token_losses(model: Any, tokens: Tensor) -> Tensor:
    """(N, T - 1), zero where the two tokens before do not determine the next."""
    losses = F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return torch.cat([torch.zeros_like(losses[:, :1]), losses[:, 1:]], 1)


def sample_losses(model: Any, tokens: Tensor) -> Tensor:
    return token_losses(model, tokens).mean(1)


def prepared(size: Size) -> Problem:
    scale = dataclasses.replace((SCALES | SMALL)[size.scale], context=T, vocabulary=P)
    starts = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    tokens = (starts[:, :1] + starts[:, 1:] * torch.arange(T)) % P
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    tokens = tokens[order[:SAMPLES]].contiguous()
    model = GPT(scale, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    minibatches = Shuffled(SAMPLES, 64, (0,))
    for _ in range(size.training):
        optimizer.zero_grad()
        sample_losses(model, tokens[minibatches.next()]).mean().backward()
        optimizer.step()
    model.zero_grad()
    nbeta = usual_nbeta(SAMPLES)
    parameters, norm = size_and_norm(dict(model.named_parameters()))
    localization = parameters / (WITHIN * norm) ** 2
    top = hessian_top_eigenvalues(model, sample_losses, tokens, tol=0.05).values[0].item()
    stiff = nbeta * top + localization
    return Problem(model, tokens, token_losses, nbeta, localization, stiff, GOAL)


def energies_of(found: LLC, *, raw: bool = False) -> Tensor:
    losses = found.loss_trace - found.initial_loss if raw else found.excess_trace
    return found.nbeta * losses


def ingredients(
    problem: Problem, size: Size, step: float, batch_size: int, own_batch: int
) -> dict[str, Trial]:
    """Our way from devinterp's setting to ours, one thing after the other."""
    burn_in = burn_in_of(step)
    plain = {"lr": step / problem.stiff, "batch_size": batch_size, "burn_in": burn_in}
    runs: dict[str, tuple[dict[str, Any], bool]] = {
        "our steps, losses as they come": (plain | {"stacked": False}, True),
        "less the loss at the weights": (plain | {"stacked": False}, False),
    }
    if problem.ours(**plain | {"draws": 1, "burn_in": 0}).stacked > 1:
        runs["chains as one program"] = (plain | {"stacked": True}, False)
    momentum = {"lr": "auto", "batch_size": own_batch}
    runs["momentum, a step that is found"] = (momentum, False)
    found = {}
    for name, (options, raw) in runs.items():
        skip = options.setdefault("burn_in", BURN_IN)
        # Of the last the search for a step is not counted here: it is in what is timed whole.
        if options["lr"] == "auto":
            of = problem.ours(**options, draws=50)
            options |= {"lr": of.lr, "momentum": of.momentum}

        def run(options: dict[str, Any] = options, raw: bool = raw) -> Tensor:
            return energies_of(problem.ours(**options, draws=size.trial), raw=raw)

        found[name] = trial_of(run, skip, GOAL)
    return found


def explained(problem: Problem, own_batch: int, size: Size) -> float:
    """Share of the energies' variance that |w - w0|^2, as a regressor, explains."""
    found = problem.ours(lr="auto", batch_size=own_batch, draws=size.trial)
    energies, squared = energies_of(found)[:, BURN_IN:], found.distance[:, BURN_IN:].square()
    pair = torch.stack([energies.flatten(), squared.flatten()])
    return torch.corrcoef(pair)[0, 1].item() ** 2


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_llc_to_error(benchmark, results, full, restore_threads, index):
    sizes = FULL if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    size = sizes[index]
    torch.set_num_threads(1)
    problem = prepared(size)
    reference = problem.ours(**({"relative_stderr": size.reference} if full else {"draws": 8}))
    notes = {"reference": f"{reference.mean:.3f} +- {reference.stderr:.2g}; {reference.verdict}"}
    goal: dict[str, Any] = {"relative_stderr": GOAL} if full else {"draws": 8}
    own: dict[int, LLC] = {}
    spent: dict[int, float] = {}
    for batch_size in BATCHES:
        begin = time.perf_counter()
        own[batch_size] = problem.ours(batch_size=batch_size, **goal)
        spent[batch_size] = time.perf_counter() - begin
        notes[f"ours, minibatches of {batch_size}"] = _told(own[batch_size], spent[batch_size])
    own_batch = min(spent, key=lambda batch_size: spent[batch_size])
    calls: dict[str, Callable[[], object]] = {
        "geomfast": lambda: problem.ours(batch_size=own_batch, **goal)
    }
    ratios, factor = {}, 1.0
    step, batch_size = STEPS[0], BATCHES[0]
    peer = devinterp_of(problem)
    if peer is not None:
        trials: dict[tuple[float, int], Trial] = {}
        for step, batch_size in itertools.product(STEPS if full else STEPS[-1:], BATCHES):
            burn_in = burn_in_of(step) if full else 4
            run = partial(peer, step, batch_size, burn_in + size.trial)
            trials[step, batch_size] = trial_of(run, burn_in, GOAL)
            fit = "" if fits(trials[step, batch_size], reference) else "; not the reference's value"
            notes[f"devinterp, lr a = {step:g}, minibatches of {batch_size}"] = (
                f"{trials[step, batch_size]}{fit}"
            )
        step, batch_size = best_of(trials, reference)
        best = trials[step, batch_size]
        notes["devinterp's best"] = f"lr a = {step:g}, minibatches of {batch_size}: {best}"
        steps = best.gradients // CHAINS
        timed = max(min(steps, int(size.budget / (CHAINS * best.step_seconds))), 8)
        factor = steps / timed
        if factor > 1:
            notes["scaled"] = f"devinterp is timed on {timed:,} of {steps:,} steps a chain"
        calls["devinterp"] = partial(peer, step, batch_size, timed)
        ratios["over devinterp"] = ("devinterp", "geomfast")
    seconds = interleave(calls, size.rounds, warm_up=False)
    seconds = scaled(seconds, {"devinterp": max(factor, 1.0)})
    if full:
        for name, trial in ingredients(problem, size, step, batch_size, own_batch).items():
            notes[name] = str(trial)
        notes["localization as a control variate"] = (
            f"|w - w0|^2 explains {explained(problem, own_batch, size):.1%} of the variance"
        )
    found = own[own_batch]
    parameters = sum(p.numel() for p in problem.model.parameters())
    title = f"llc to a standard error of 2%, {size.scale}, T = {T}"
    notes |= {"parameters": f"{parameters:,}", "samples": str(SAMPLES)}
    results.add(title, seconds, ratios, {}, **notes)
    print("\n".join(f"  {name:<40} {note}" for name, note in notes.items()))
    if full:
        allowed = 3.0 * math.hypot(found.stderr, reference.stderr) + GOAL * reference.mean
        assert abs(found.mean - reference.mean) <= allowed
    benchmark.pedantic(lambda: problem.ours(batch_size=own_batch, draws=4), rounds=1)


def _told(found: LLC, seconds: float) -> str:
    gradients = found.loss_trace.numel()
    return (
        f"{found.mean:.3f} +- {found.stderr:.2g} after {gradients:,} gradients and {seconds:.1f} s "
        f"with the search for a step; {found.verdict}"
    )
