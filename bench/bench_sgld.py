"""One Langevin step: ours, torch's operations in place, and devinterp's optimizers.

Ours steps one flat buffer, as `llc` does; a library steps a list of tensors, shaped like those of a
GPT of that size, as the models that it is given. Gradients are there before and stay the same. A
timed call makes several steps where one is short; times are of one step, and the notes have them in
nanoseconds per parameter. "tracked" is the step that `llc` makes, which also writes down what the
Metropolis test needs; a copy reads and writes the 16 bytes per parameter that no step can do
without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bench.interleave import finished, interleave
from bench.llc_peers import StepMaker, step_peers
from geomfast.kernels.sgld import (
    OP,
    Dynamics,
    LangevinState,
    normals,
    sgld_step,
)
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES

SCALE_NAMES = ["", "nano", "micro", "small"]
MATRICES = {"": 256, "100M": 10_000}  # the side of a single matrix instead of a model
FULL = [(name, threads) for threads in (1, 2) for name in SCALE_NAMES]
FULL_CUDA = [(name, 1) for name in (*SCALE_NAMES, "xlarge", "100M")]
TINY = [("", 1)]
ROUNDS = 15
BUDGET = 10.0  # seconds of one contender and size
BUDGET_CUDA = 0.5
ENTRIES = 4_000_000  # parameters stepped in one timed call, at least
STEPS_CUDA = 20  # in one timed call

# A step size at which float32 still tells the deterministic part of a step from rounding.
PLAIN = Dynamics(lr=1e-3, nbeta=80.0, localization=100.0)
MOVING = Dynamics(lr=1e-3, nbeta=80.0, localization=100.0, momentum=0.5)

RATIOS = {
    "over devinterp SGLD": ("devinterp SGLD", "geomfast"),
    "over devinterp SGMCMC": ("devinterp SGMCMC", "geomfast"),
    "over torch in place": ("torch in place", "geomfast"),
    "tracked, over devinterp SGLD": ("devinterp SGLD", "geomfast tracked"),
    "momentum, over devinterp SGLD": ("devinterp SGLD", "geomfast momentum"),
    "share of the speed of a copy": ("copy", "geomfast"),
}


@dataclass(frozen=True)
class Start:
    """Where every contender starts.

    Attributes:
        weights, gradients, center: flat.
        shapes: of the tensors that they would be in a model.
    """

    weights: Tensor
    gradients: Tensor
    center: Tensor
    shapes: list[torch.Size]

    @classmethod
    def of(cls, name: str, device: str) -> Start:
        """Of a GPT of that scale, or of one matrix."""
        shapes = [torch.Size((MATRICES.get(name, 0),) * 2)]
        if name not in MATRICES:
            shapes = [p.shape for p in GPT(SCALES[name], 0).parameters()]
        generator = torch.Generator(device).manual_seed(0)
        size = sum(shape.numel() for shape in shapes)
        center, away, gradients = torch.randn(3, size, generator=generator, device=device)
        return cls(center + 0.1 * away, gradients, center, shapes)

    def peer(
        self, make: StepMaker, dynamics: Dynamics, deviation: float, flat: bool
    ) -> tuple[Callable[[], object], list[nn.Parameter]]:
        """Its step, and the parameters that it moves."""
        shapes = [self.weights.shape] if flat else self.shapes
        sizes = [shape.numel() for shape in shapes]

        def parts(x: Tensor) -> list[Tensor]:
            return [y.view(z).clone() for y, z in zip(x.split(sizes), shapes, strict=True)]

        parameters = [nn.Parameter(part) for part in parts(self.center)]
        for parameter, gradient in zip(parameters, parts(self.gradients), strict=True):
            parameter.grad = gradient
        step = make(parameters, dynamics, deviation)
        for parameter, weights in zip(parameters, parts(self.weights), strict=True):
            parameter.data.copy_(weights)
        return step, parameters


def in_place(
    parameters: list[nn.Parameter], dynamics: Dynamics, deviation: float
) -> Callable[[], object]:
    """What torch can do with one noise buffer and no other memory: four passes."""
    (p,) = parameters
    w, g, center, noise = p.data, p.grad, p.data.clone(), torch.empty_like(p.data)
    assert g is not None
    by = dynamics.factors

    def step() -> None:
        noise.normal_(0.0, by["spread"] * deviation)
        w.lerp_(center, by["back"]).add_(g, alpha=-by["pull"]).add_(noise)

    return step


def ours(start: Start, dynamics: Dynamics, tracked: bool = False) -> Callable[[], object]:
    weights, center = start.weights.clone()[None], start.center.clone()
    gradients = start.gradients.clone()[None]
    previous = weights.clone() if tracked else None
    velocity = None if dynamics.momentum is None else torch.zeros_like(weights)
    steps = itertools.count()
    # On a GPU the number of the step is read there: to send it would be to wait.
    number = torch.zeros((), dtype=torch.int64, device=weights.device)
    state = LangevinState(
        weights, gradients, center, dynamics, 0, previous=previous, velocity=velocity
    )
    # Asked once, and the buffers checked once, as chains do.
    sgld_step_on = OP[OP.backend_for(weights)].step

    def step() -> None:
        sgld_step_on(state, number if weights.is_cuda else next(steps))

    return step


def deterministic_part(start: Start, dynamics: Dynamics) -> Tensor:
    """What a step without noise adds to the weights, in float64."""
    g, away = start.gradients.double(), (start.weights.double() - start.center.double())
    moved = -0.5 * dynamics.lr * (dynamics.nbeta * g + dynamics.localization * away)
    return moved * (1.0 + (dynamics.momentum or 0.0))


def moved_by_ours(start: Start, dynamics: Dynamics) -> Tensor:
    """The same of ours: what it added, less its own noise."""
    weights = start.weights.clone()[None]
    velocity = None if dynamics.momentum is None else torch.zeros_like(weights)
    state = LangevinState(
        weights, start.gradients[None], start.center, dynamics, 3, velocity=velocity
    )
    sgld_step(state, 7)
    z = normals(1, weights.shape[1], seed=3, step=7, device=weights.device)
    kick = dynamics.factors["spread"] * z[0].double()
    return weights[0].double() - start.weights.double() - kick


def moved_by_peer(start: Start, make: StepMaker, dynamics: Dynamics, flat: bool) -> Tensor:
    """The same of a peer, whose noise can be switched off."""
    step, parameters = start.peer(make, dynamics, 0.0, flat)
    step()
    after = torch.cat([p.detach().flatten() for p in parameters])
    return after.double() - start.weights.double()


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_sgld(benchmark, results, full, device, restore_threads, index):
    sizes = (FULL_CUDA if device == "cuda" else FULL) if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    name, threads = sizes[index]
    torch.set_num_threads(threads)
    start = Start.of(name, device)
    size = len(start.weights)
    peers = {"torch in place": in_place, **step_peers()}

    moved = {
        "geomfast": moved_by_ours(start, PLAIN),
        "geomfast momentum": moved_by_ours(start, MOVING),
    }
    for peer, make in peers.items():
        moved[peer] = moved_by_peer(start, make, PLAIN, make is in_place)
    errors = {}
    for who, found in moved.items():
        exact = deterministic_part(start, MOVING if "momentum" in who else PLAIN)
        errors[who] = ((found - exact).abs().max() / exact.abs().max()).item()
    assert max(errors.values()) <= 1e-5, errors
    del moved

    source = torch.randn(2 * size, device=device)
    target = torch.empty_like(source)
    steps: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "geomfast": ours(start, PLAIN),
        "geomfast tracked": ours(start, PLAIN, tracked=True),
        "geomfast momentum": ours(start, MOVING),
    }
    for peer, make in peers.items():
        steps[peer] = start.peer(make, PLAIN, 1.0, make is in_place)[0]
    times = STEPS_CUDA if device == "cuda" else -(-ENTRIES // size)
    times = times if full else 1

    def repeated(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                step()

        return finished(run, device)

    calls = {who: repeated(step) for who, step in steps.items()}
    budget = BUDGET_CUDA if device == "cuda" else BUDGET
    seconds = interleave(calls, rounds=ROUNDS if full else 1, budget=budget)
    seconds = {who: value / times for who, value in seconds.items()}
    where = f" on {device}" if device != "cpu" else f", threads={threads}"
    results.add(
        f"sgld step {size:,} parameters{where}",
        seconds,
        {ratio: pair for ratio, pair in RATIOS.items() if set(pair) <= set(seconds)},
        errors,
        ("copy, TB/s read and written", 16.0 * size),
        **{
            "backend": OP.backend_for(start.weights[None]),
            "ns per parameter": "; ".join(
                f"{who} {1e9 * value / size:.3g}" for who, value in seconds.items()
            ),
            "tensors of a model": str(len(start.shapes)),
            "GB/s of a copy": f"{16e-9 * size / seconds['copy']:.0f}",
            "GB/s of geomfast, at 16 bytes per parameter": (
                f"{16e-9 * size / seconds['geomfast']:.0f}"
            ),
        },
    )
    benchmark.pedantic(calls["geomfast"], rounds=1)
