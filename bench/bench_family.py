"""The family of measures of one checkpoint: what it adds to the ranks, and what it costs by peers.

A nano model after a few hundred steps of the mixture, its 24 task-levels with 200 samples each, one
thread. Ours is the engine that sweeps measure with, asked for RankMe and both gradient ranks, and
for every measure that the same two passes give. The rivals take the functions of other libraries
(`family_peers.py`) for the same list: once with activations and per-sample gradients of their own
in every function, as packages that know nothing of each other do, and once with both shared.
"""

import math

import pytest
import torch

from bench import family_peers as peers
from bench.checkpoint_peers import by_vmap
from bench.interleave import interleave
from geomfast.estimators.activations import observe
from geomfast.measures import measures
from geomfast.measures.catalog import one_pass
from geomfast.sweep.measuring import measure
from geomfast.sweep.plan import Settings, run_specs
from geomfast.sweep.samples import LevelSamples, Row, level_samples
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.tasks import PAPER_TASKS
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.settings import TrainSettings

RANKS = ("rankme", "fisher_rank", "gradient_covariance_rank")
#: What the family leaves out: linear probes are no part of it.
LEFT_OUT = ("probe_accuracy", "centered_rankme")
ROUNDS = 5
BUDGET = 30.0  # seconds of one contender; what takes longer runs once
STEPS = 300


def trained(settings: Settings, steps: int, scale: str = "nano") -> tuple[GPT, list[LevelSamples]]:
    """A model after so many steps of the mixture, and its task-levels."""
    (spec,) = run_specs(settings, (scale,), (0,))
    trainer = Trainer(scale, 0, spec.trained, TrainSettings(steps, 168))
    trainer.advance(steps)
    return trainer.model, level_samples(spec, settings, torch.device("cpu"))


def by_peers(
    model: GPT, samples: list[LevelSamples], *, shared: bool
) -> dict[tuple[str, str], float]:
    """Every measure of every task-level, by name and task-level, of the final state where it has
    layers; CKA: of the first block with it."""
    found: dict[tuple[str, str], float] = {}
    for one in samples:
        answers = one.tokens[:, one.answer_start]

        def states(one: LevelSamples = one) -> torch.Tensor:
            return observe(model, one.tokens, one.answer_start).activations

        values: dict[str, float] = {}
        layers = states()
        for layer in layers:
            values |= peers.of_spectra(layer)
        for name, function in (("two_nn", peers.two_nn), ("anisotropy", peers.anisotropy)):
            for layer in layers if shared else states():
                values[name] = function(layer)
        layers = layers if shared else states()
        for i in range(len(layers)):
            for j in range(i + 1):
                alike = peers.cka(layers[i], layers[j])
                if j == 0:
                    values["cka"] = alike
        if (answers.unique(return_counts=True)[1] > 1).sum() > 1:
            for layer in layers if shared else states():
                values["neural_collapse"] = peers.neural_collapse(layer, answers)

        def gradients(one: LevelSamples = one) -> list[torch.Tensor]:
            return by_vmap(model, one)

        values |= peers.of_gradients(gradients, answers, shared=shared)
        found |= {(name, one.level.name): value for name, value in values.items()}
    return found


def difference(ours: list[Row], theirs: dict[tuple[str, str], float]) -> dict[str, float]:
    """Largest relative difference of each measure from the peers' values, over task-levels."""
    own = {
        (row["measure"], f"{row['task']}-{row['level']}"): row["value"]
        for row in ours
        if row["layer"] == ("block 1" if row["measure"] == "cka" else "final") or not row["layer"]
    }
    found: dict[str, float] = {}
    for (name, level), value in theirs.items():
        mine = own[name, level]
        if math.isfinite(mine) and math.isfinite(value):
            apart = abs(mine - value) / max(abs(mine), 1e-2)
            found[name] = max(apart, found.get(name, 0.0))
    return found


def bench_family(benchmark, results, full, device, restore_threads):
    if device != "cpu":
        pytest.skip("the family is compared on a CPU")
    torch.set_num_threads(1)
    settings = Settings(
        mixture="joint",
        tasks=PAPER_TASKS if full else ("COPY",),
        levels=(1, 2, 3) if full else (1,),
        steps=STEPS if full else 2,
        batch_size=168,
        learning_rate=None,
        precision="fp32",
        dense_until=1,
        dense_every=1,
        checkpoints=2,
        samples=200 if full else 60,
    )
    model, samples = trained(settings, settings.steps)
    names = set(one_pass(measures())) - set(LEFT_OUT)
    contenders = {
        "geomfast, ranks alone": lambda: measure(model, samples, {*RANKS}, settings),
        "geomfast, the family": lambda: measure(model, samples, names, settings),
        "peers, passes shared": lambda: by_peers(model, samples, shared=True),
        "peers, each alone": lambda: by_peers(model, samples, shared=False),
    }
    errors = difference(
        measure(model, samples, names, settings), by_peers(model, samples, shared=True)
    )
    seconds = interleave(contenders, ROUNDS if full else 1, BUDGET, warm_up=False)
    benchmark.pedantic(contenders["geomfast, the family"], rounds=1)
    size = f"family: nano, {len(samples)} task-levels of {settings.samples}"
    results.add(
        size,
        seconds,
        {
            "the family over the ranks": ("geomfast, the family", "geomfast, ranks alone"),
            "over peers that share": ("peers, passes shared", "geomfast, the family"),
            "over peers, each alone": ("peers, each alone", "geomfast, the family"),
        },
        {},
        differences=", ".join(f"{name} {value:.1e}" for name, value in errors.items()),
    )
