"""One checkpoint with the paper's five measures: geomfast, and a glue of a package for each.

A model after 500 steps of the smoke preset's training, its 24 task-levels with 200 samples each.
Ours is what sweeps measure with. The glue takes, per task-level: torch's svdvals layer by layer;
per-sample gradients by vmap (Opacus has no rule for a tied head), their Gram matrix and its
eigenvalues; the fastest of PyHessian, hessian-eigenthings, curvlinops and the plain recipe that
reaches a residual of 1e-3, at a setting found beforehand on the first task-level; and devinterp
(its steps by ours where it is not installed) at its best step size. Values have to agree: RankMe to
1e-4, gradient ranks to 1e-3, the eigenvalue to 1e-3, the coefficient within three joint errors.

Both draw the coefficient to a standard error of 5%; of one task-level in three, and the seconds are
three times those. Longer runs of devinterp than a budget are timed in part and scaled.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench import checkpoint_peers as glue
from bench.bench_family import trained
from bench.gradient_memory import measured
from bench.hessian_peers import NextToken, hessian_peers
from bench.interleave import interleave
from geomfast.estimators.llc import LLC, llc
from geomfast.sweep.measuring import measure
from geomfast.sweep.plan import Settings
from geomfast.sweep.samples import LevelSamples
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.tasks import PAPER_TASKS

RANKS = ("fisher_rank", "gradient_covariance_rank")
#: Relative differences from ours that a value of the glue may have.
ALLOWED = {"rankme": 1e-4, "gradient ranks": 1e-3, "hessian_top": 1e-3}
GOAL, BATCH_SIZE = 0.05, 32
#: One task-level in so many has its coefficient drawn.
EVERY = 3
ROUNDS, BUDGET = 3, 90.0
FULL = [("nano", 1), ("nano", 2), ("micro", 1)]
TINY = [("nano", 1)]


def settings_of(full: bool) -> Settings:
    return Settings(
        mixture="joint",
        tasks=PAPER_TASKS if full else ("COPY",),
        levels=(1, 2, 3) if full else (1,),
        steps=500 if full else 5,
        batch_size=168,
        learning_rate=None,
        precision="fp32",
        dense_until=1,
        dense_every=1,
        checkpoints=2,
        samples=200 if full else 40,
    )


def ours_llc(model: GPT, one: LevelSamples, full: bool) -> LLC:
    """To a standard error of 5%, or of a few draws."""
    goal: dict[str, Any] = {"relative_stderr": GOAL} if full else {"draws": 6, "burn_in": 4}
    return llc(
        model, one.loss, one.tokens, localization="norm", batch_size=BATCH_SIZE, **goal
    )  # fmt: skip


def values_of(rows: list[dict[str, Any]], measures: tuple[str, ...]) -> dict[Any, float]:
    return {
        (row["measure"], f"{row['task']}-{row['level']}", row["layer"]): row["value"]
        for row in rows
        if row["measure"] in measures
    }


def largest(pairs: list[tuple[float, float]]) -> float:
    return max(glue.apart(theirs, ours) for theirs, ours in pairs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("index", range(len(FULL)))
def bench_checkpoint(benchmark, results, full, device, restore_threads, index):
    if device != "cpu":
        pytest.skip("the glue is compared on a CPU")
    sizes = FULL if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    scale, threads = sizes[index]
    torch.set_num_threads(threads)
    settings = settings_of(full)
    model, samples = trained(settings, settings.steps, scale)
    some = samples[::EVERY]
    notes: dict[str, str] = {"steps": str(settings.steps), "threads": str(threads)}

    def sweep(*measures: str) -> Callable[[], Any]:
        return lambda: measure(model, samples, {*measures}, settings)

    ours: dict[str, Callable[[], Any]] = {
        "rankme": sweep("rankme"),
        "gradient ranks": sweep(*RANKS),
        "hessian_top": sweep("hessian_top"),
        "llc": lambda: [ours_llc(model, one, full) for one in some],
    }
    first = samples[0]
    peers = hessian_peers(model, first.tokens, NextToken(first.answer_start))
    searches = {name: glue.Search.found(name, peer) for name, peer in peers.items()}
    theirs: dict[str, dict[str, Callable[[], Any]]] = {
        "rankme": {"svdvals": lambda: [glue.rankme(model, one) for one in samples]},
        "gradient ranks": {
            "vmap": lambda: [glue.ranks(glue.by_vmap(model, one)) for one in samples]
        },
        "hessian_top": {
            name: lambda search=search: [search.value(model, one) for one in samples]
            for name, search in searches.items()
        },
    }
    # The values, and what each costs: the fastest of several is the glue's.
    rows = {name: ours[name]() for name in ALLOWED}
    found = {
        name: {who: call() for who, call in contenders.items()}
        for name, contenders in theirs.items()
    }
    wrong = differences(rows, found, samples)
    notes |= {f"{name}, {who}": f"off by {off:.1e}" for (name, who), off in wrong.items()}
    for name, contenders in theirs.items():
        right = {who: c for who, c in contenders.items() if wrong[name, who] <= ALLOWED[name]}
        notes |= {f"{name}, {who}, left out": "too far off" for who in contenders.keys() - right}
        theirs[name] = right if full else contenders
    chains, drawn = coefficients(model, some, full)
    notes |= {f"llc of {one.level.name}": c.told for one, c in zip(some, chains, strict=True)}
    notes["llc of ours"] = ", ".join(f"{one.mean:.3g} +- {one.stderr:.2g}" for one in drawn)
    notes["llc of the glue, right"] = f"{sum(c.right for c in chains)} of {len(chains)}"
    # A part of each run is scaled by its own factor, as timed in turn.
    theirs["llc"] = {"chains": lambda: [chain.call() for chain in chains]}

    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    for name, own in ours.items():
        contenders = {"geomfast": own} | theirs[name]
        rounds = (1 if name == "llc" else ROUNDS) if full else 1
        took = interleave(contenders, rounds, BUDGET, warm_up=False)
        if name == "llc":
            took["chains"] *= statistics.fmean(chain.factor for chain in chains)
            took = {who: EVERY * value for who, value in took.items()}
        best = min(theirs[name], key=lambda who: took[who])
        notes[f"{name} of the glue"] = best
        seconds |= {f"{name}, geomfast": took["geomfast"], f"{name}, glue": took[best]}
        for who, call in (("geomfast", own), ("glue", theirs[name][best])):
            before, peak = measured(call, device)
            memory[f"{name}, {who}"] = (peak - before) / 1e6
    for who in ("geomfast", "glue"):
        seconds[f"all five, {who}"] = sum(seconds[f"{name}, {who}"] for name in ours)
    benchmark.pedantic(ours["rankme"], rounds=1)
    size = f"checkpoint: {scale}, {len(samples)} task-levels of {settings.samples}, {threads} "
    size += "thread" if threads == 1 else "threads"
    ratios = {name: (f"{name}, glue", f"{name}, geomfast") for name in ("all five", *ours)}
    results.add(size, seconds, ratios, {}, **notes)
    results.add_memory(f"{size}, memory", memory, {})
    print("\n".join(f"  {name:<40} {note}" for name, note in notes.items()))


def differences(
    rows: dict[str, Any], found: dict[str, dict[str, Any]], samples: list[LevelSamples]
) -> dict[tuple[str, str], float]:
    """Largest relative difference from ours of every contender of every measure."""
    names = [one.level.name for one in samples]
    wrong: dict[tuple[str, str], float] = {}
    own = values_of(rows["rankme"], ("rankme",))
    for who, values in found["rankme"].items():
        pairs = [
            (value, mine)
            for name, layers in zip(names, values, strict=True)
            for value, mine in zip(layers, [v for k, v in own.items() if k[1] == name], strict=True)
        ]
        wrong["rankme", who] = largest(pairs)
    own = values_of(rows["gradient ranks"], RANKS)
    for who, values in found["gradient ranks"].items():
        pairs = [
            (value, own[measure, name, ""])
            for name, both in zip(names, values, strict=True)
            for measure, value in zip(RANKS, both, strict=True)
        ]
        wrong["gradient ranks", who] = largest(pairs)
    own = values_of(rows["hessian_top"], ("hessian_top",))
    for who, values in found["hessian_top"].items():
        pairs = [
            (value, own["hessian_top", name, ""]) for name, value in zip(names, values, strict=True)
        ]
        wrong["hessian_top", who] = largest(pairs)
    return wrong


def coefficients(
    model: GPT, some: list[LevelSamples], full: bool
) -> tuple[list[glue.Chains], list[LLC]]:
    """The glue's chains of every task-level, and ours."""
    chains, drawn = [], []
    for one in some:
        found = ours_llc(model, one, full)
        curvature = found.localization * (1.0 / found.localization_least - 1.0) / found.nbeta
        problem = glue.problem_of(model, one, found, curvature, GOAL if full else 1.0)
        budget = BUDGET / 3 if full else 0.1
        arguments = (problem, found, 100 if full else 4, BATCH_SIZE, budget)
        made = glue.devinterp(*arguments) or glue.sgld(*arguments)
        chains.append(made)
        drawn.append(found)
    return chains, drawn
