"""Learning coefficients: the whole estimate, ours against two libraries and against its gradients.

All take as many draws from the same weights, with the same step size, inverse temperature and
localization, and count every draw; their values have to agree. The libraries cut minibatches from
epochs: a chain is of whole ones, so that no sample counts more than another. "gradients alone" are
as many forward and backward passes over ours' minibatches as an estimate makes steps, at the
model's own weights. On the CPU they take turns with the steps of ours, one each, and neither's time
counts as the other's: over the minutes of a whole estimate the machine drifts by more than what is
to be seen. Models after a few steps of training; one thread on the CPU.

Sixteen chains tell the error of an estimate to a sixth of itself, and a chain's estimate is far
from normal; whether the values agree is asked of more chains, untimed (`bench_llc_agreement`).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from bench.interleave import finished, interleave, scaled
from bench.llc_peers import Estimate, Setting, estimate_peers
from geomfast.estimators.llc import LLC, llc
from geomfast.estimators.sampling.streams import Shuffled
from geomfast.kernels.sgld import Dynamics
from geomfast.losses import next_token
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES, Scale

SMALL = {f"d={d}": Scale(f"d={d}", 2, d, 4, 8e-4) for d in (64, 32)}
ONE_BY_ONE = "geomfast, a chain at a time"


@dataclasses.dataclass(frozen=True)
class Size:
    """What one comparison is of.

    Attributes:
        scale: of the model.
        length: tokens of a sample; those of geomfast's tasks have 15 on average.
        chains, draws: how many, and of each how many.
        batch_size: of a minibatch.
        epochs: of a chain; what is left of it says how many samples there are.
        training: steps before.
    """

    scale: str
    length: int
    chains: int
    draws: int
    batch_size: int
    epochs: int
    training: int = 100

    @property
    def samples(self) -> int:
        return self.draws * self.batch_size // self.epochs


FULL = [
    Size("nano", 48, chains=4, draws=100, batch_size=64, epochs=10),
    *(
        Size(name, length, chains=16, draws=50, batch_size=16, epochs=5)
        for name in SMALL
        for length in (16, 48)
    ),
]
FULL_CUDA = [dataclasses.replace(size, chains=64) for size in FULL]
#: Where values are compared: chains enough for an error of a few per cent.
AGREEMENT = [
    dataclasses.replace(FULL[0], chains=16),
    *(dataclasses.replace(size, chains=128) for size in FULL[1:] if size.length == 16),
]
TINY = [Size(name, 16, 2, 4, 4, epochs=2, training=1) for name in ("nano", "d=32")]
ROUNDS = 3
BUDGET = 300.0  # seconds of one contender
BUDGET_CUDA = 4.0
# One chain at a time takes as long for each: on a GPU so many are timed, and stand for all.
TIMED_CUDA = 4


def trained(scale: Scale, tokens: Tensor, size: Size) -> GPT:
    model = GPT(scale, 0).to(tokens.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    minibatches = Shuffled(size.samples, size.batch_size, (0,))
    for _ in range(size.training):
        optimizer.zero_grad()
        next_token(model, tokens[minibatches.next()]).mean().backward()
        optimizer.step()
    model.zero_grad()
    return model


def gradients(model: nn.Module, tokens: Tensor, s: Setting) -> Iterator[None]:
    """One of each item: over the minibatches of all chains, one chain after the other."""
    batches = []
    for chain in range(s.chains):
        stream = Shuffled(len(tokens), s.batch_size, (0, chain))
        batches += [tokens[stream.next()] for _ in range(s.draws)]
    parameters = list(model.parameters())
    for batch in batches:
        torch.autograd.grad(next_token(model, batch).mean(), parameters)
        yield


def ours(
    model: nn.Module,
    tokens: Tensor,
    s: Setting,
    stacked: bool | None,
    progress: Callable[[int], None] = lambda steps: None,
) -> LLC:
    return llc(
        model,
        next_token,
        tokens,
        lr=s.dynamics.lr,
        nbeta=s.dynamics.nbeta,
        localization=s.dynamics.localization,
        chains=s.chains,
        draws=s.draws,
        burn_in=0,
        batch_size=s.batch_size,
        stacked=stacked,
        progress=progress,
    )


def part_of(s: Setting) -> int:
    """How many times the chains that are timed one by one stand for."""
    return max(1, s.chains // TIMED_CUDA) if s.device == "cuda" else 1


def contenders(model: nn.Module, tokens: Tensor, s: Setting) -> dict[str, Callable[[], object]]:
    """Name -> what is timed: `LLC` of ours, `Estimate` of a library."""
    found: dict[str, Callable[[], object]] = {"geomfast": lambda: ours(model, tokens, s, None)}
    if ours(model, tokens, dataclasses.replace(s, draws=1), None).stacked > 1:
        few = dataclasses.replace(s, chains=s.chains // part_of(s))
        found[ONE_BY_ONE] = lambda: ours(model, tokens, few, False)
    return {**found, **estimate_peers(model, tokens.cpu(), s)}


def prepared(size: Size, device: str) -> tuple[GPT, Tensor, Setting]:
    """The model, its data, and what it is sampled with."""
    torch.set_num_threads(1)
    scale = dataclasses.replace((SCALES | SMALL)[size.scale], context=size.length)
    generator = torch.Generator().manual_seed(0)
    shape = (size.samples, size.length)
    tokens = torch.randint(0, scale.vocabulary, shape, generator=generator).to(device)
    dynamics = Dynamics(1e-6, size.samples / math.log(size.samples), localization=100.0)
    setting = Setting(dynamics, size.chains, size.draws, size.batch_size, device)
    return trained(scale, tokens, size), tokens, setting


def chosen(full: bool, device: str, index: int) -> Size:
    sizes = (FULL_CUDA if device == "cuda" else FULL) if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    return sizes[index]


def title(size: Size, device: str) -> str:
    where = "" if device == "cpu" else f" on {device}"
    draws = f"{size.chains} x {size.draws} draws of {size.batch_size} x T={size.length}"
    return f"llc{where} {draws}, {size.scale}"


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_llc(benchmark, results, full, device, restore_threads, index):
    size = chosen(full, device, index)
    model, tokens, setting = prepared(size, device)
    short = dataclasses.replace(setting, draws=2)
    for call in contenders(model, tokens, short).values():
        call()
    made: dict[str, object] = {}

    def kept(who: str, call: Callable[[], object]) -> Callable[[], None]:
        return finished(lambda: made.update({who: call()}), device)

    calls = {who: kept(who, call) for who, call in contenders(model, tokens, setting).items()}
    budget = BUDGET_CUDA if device == "cuda" else BUDGET
    seconds = interleave(calls, ROUNDS if full else 1, budget, warm_up=False)
    notes = {}
    if (part := part_of(setting)) > 1 and ONE_BY_ONE in calls:
        seconds = scaled(seconds, {ONE_BY_ONE: part})
        notes["scaled"] = f"timed on {setting.chains // part} chains, times {part}: {ONE_BY_ONE}"
    own = made["geomfast"]
    assert isinstance(own, LLC)
    peers = [who for who, found in made.items() if isinstance(found, Estimate)]
    ratios = {f"over {who}": (who, "geomfast") for who in peers}
    if ONE_BY_ONE in calls:
        ratios["over a chain at a time"] = (ONE_BY_ONE, "geomfast")
    results.add(
        title(size, device),
        seconds,
        ratios,
        {},
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        samples=str(size.samples),
        verdict=own.verdict,
        **{"chains as one program": str(own.stacked)},
        **notes,
    )
    benchmark.pedantic(lambda: ours(model, tokens, short, None), rounds=1)


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_llc_in_gradients(benchmark, results, full, device, restore_threads, index):
    size = chosen(full, device, index)
    model, tokens, setting = prepared(size, device)
    short = dataclasses.replace(setting, draws=2)
    in_turn(model, tokens, short)
    if device == "cpu":
        timed = [in_turn(model, tokens, setting) for _ in range(ROUNDS if full else 1)]
        names = ("geomfast in turn", "gradients alone")
        seconds = {n: statistics.median(s[i] for s in timed) for i, n in enumerate(names)}
    else:  # nobody waits for a step there, so that nothing has its turn after it
        calls: dict[str, Callable[[], object]] = {
            "geomfast in turn": lambda: ours(model, tokens, setting, None),
            "gradients alone": lambda: list(gradients(model, tokens, setting)),
        }
        calls = {who: finished(call, device) for who, call in calls.items()}
        seconds = interleave(calls, ROUNDS if full else 1, BUDGET_CUDA, warm_up=False)
    ratios = {"in gradients": ("geomfast in turn", "gradients alone")}
    results.add(f"{title(size, device)}, and its gradients", seconds, ratios, {})
    benchmark.pedantic(lambda: ours(model, tokens, short, None), rounds=1)


def in_turn(model: nn.Module, tokens: Tensor, setting: Setting) -> tuple[float, float]:
    """Seconds of our estimate, and of a gradient after each step for every chain that made it."""
    alone = gradients(model, tokens, setting)
    spent = 0.0

    def after(steps: int) -> None:
        nonlocal spent
        begin = time.perf_counter()
        for _ in range(steps):
            next(alone)
        spent += time.perf_counter() - begin

    begin = time.perf_counter()
    ours(model, tokens, setting, None, after)
    return time.perf_counter() - begin - spent, spent


@pytest.mark.parametrize("index", range(len(AGREEMENT)))
def bench_llc_agreement(benchmark, results, full, device, restore_threads, index):
    sizes = AGREEMENT if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    size = sizes[index]
    model, tokens, setting = prepared(size, device)
    short = dataclasses.replace(setting, draws=2)
    own = ours(model, tokens, setting, None)
    # Between chains, as for the others; its own says that they still move away from the start.
    estimates = {"geomfast": Estimate.of(own.per_chain)}
    for who, estimate in estimate_peers(model, tokens.cpu(), setting).items():
        estimates[who] = estimate()
    errors = {
        who: abs(e.value - own.mean) / math.hypot(estimates["geomfast"].stderr, e.stderr)
        for who, e in estimates.items()
        if who != "geomfast"
    }
    results.add(
        f"{title(size, device)}, values",
        {},
        {},
        {},
        **{f"value of {who}": f"{e.value:.4g} +- {e.stderr:.2g}" for who, e in estimates.items()},
        **{f"joint standard errors to {who}": f"{x:.2f}" for who, x in errors.items()},
    )
    print("\n".join(f"  {who:<28} {e.value:.4g} +- {e.stderr:.2g}" for who, e in estimates.items()))
    if full:  # a standard error of two chains says nothing
        assert max(errors.values(), default=0.0) <= 3.0, errors
    benchmark.pedantic(lambda: ours(model, tokens, short, None), rounds=1)
