"""Singular values: ours against SVDs, the float64 Gram matrix, SciPy and CuPy.

Random matrices take part with the times, nearly rank-two ones with the errors too: collapsed
representations are what the accuracy is for. On the CPU (the default) every contender runs on one
thread, and ours on two as well; with `--device cuda` times end when the GPU has finished.
"""

from collections.abc import Callable

import pytest
import torch

from bench.interleave import interleave, scaled
from bench.peers import spectra_peers
from geomfast.estimators.spectra import effective_rank
from geomfast.kernels.spectra import OP, singular_values

# A checkpoint's worth of matrices by scale, then few and many of the paper's shapes, then sides
# beyond shared memory and the widest scale.
FULL = [
    (48, 200, 128),
    (144, 200, 384),
    (288, 200, 768),
    (24, 200, 128),
    (600, 200, 128),
    (24, 200, 768),
    (600, 200, 768),
    (24, 1000, 768),
    (24, 200, 2560),
]
FULL_CUDA = FULL
TINY = [(6, 20, 12), (6, 20, 38), (6, 20, 76), (2, 30, 20)]
# On a GPU torch before 2.12 takes the matrices of a batch one by one: so many are timed, and stand
# for all of them. The errors are of fewer: float64 SVDs are slow there.
TIMED, CHECKED_CUDA = 24, 4
BUDGET_CUDA = 1.5
ROUNDS = 15  # short calls vary most: the second core has gone idle meanwhile
BUDGET = 5.0  # seconds of one contender and size: slow ones get fewer rounds, one at least

Contender = Callable[[torch.Tensor], torch.Tensor]


def near_rank_two(batch: int, n: int, d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return normal(batch, n, 2) @ normal(batch, 2, d) + 1e-3 * normal(batch, n, d)


def looped_svdvals(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.linalg.svdvals(matrix) for matrix in x])


def batched_gram(x: torch.Tensor) -> torch.Tensor:
    y = x.double()
    gram = y @ y.mT if y.shape[-2] <= y.shape[-1] else y.mT @ y
    return torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()


def looped_gram(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([batched_gram(matrix) for matrix in x])


def contenders(device: str) -> dict[str, tuple[int, Contender]]:
    """Name -> CPU threads, function (B, N, d) float32 -> (B, min(N, d)) singular values."""
    found: dict[str, tuple[int, Contender]] = {
        "svdvals float32 looped": (1, looped_svdvals),
        "gram float64 looped": (1, looped_gram),
        "geomfast": (1, singular_values),
    }
    if device == "cpu":  # where torch loops over a batch itself: a batched call takes as long
        found["geomfast 2 threads"] = (2, singular_values)
    else:
        found["svdvals float32 batched"] = (1, torch.linalg.svdvals)
        found["gram float64 batched"] = (1, batched_gram)
    return found | {name: (1, function) for name, function in spectra_peers(device).items()}


def one_by_one(name: str) -> bool:
    """Whether this contender's time on a GPU grows with the number of matrices and nothing else."""
    return name.startswith(("svdvals", "gram float64"))


def call(threads: int, function: Contender, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The timed call: on this many CPU threads, and until the device has finished."""

    def run() -> torch.Tensor:
        torch.set_num_threads(threads)
        values = function(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return values

    return run


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_spectra(benchmark, results, full, device, restore_threads, index):
    sizes = (FULL_CUDA if device == "cuda" else FULL) if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    batch, n, d = sizes[index]
    functions = contenders(device)
    torch.set_num_threads(1)
    hard = near_rank_two(min(batch, CHECKED_CUDA if device == "cuda" else 16), n, d).to(device)
    exact = effective_rank(torch.linalg.svdvals(hard.double()))
    errors = {
        name: ((effective_rank(function(hard)) - exact).abs() / exact).max().item()
        for name, (_, function) in functions.items()
    }
    assert errors["geomfast"] <= 2e-5
    x = torch.randn(batch, n, d, generator=torch.Generator().manual_seed(0)).to(device)
    few = {name for name in functions if device == "cuda" and one_by_one(name)}
    calls = {
        name: call(threads, function, x[:TIMED] if name in few else x)
        for name, (threads, function) in functions.items()
    }
    budget = BUDGET_CUDA if device == "cuda" else BUDGET
    seconds = interleave(calls, rounds=ROUNDS if full else 2, budget=budget)
    part = batch / min(batch, TIMED)
    seconds = scaled(seconds, {name: part for name in few})
    peers = {name: value for name, value in seconds.items() if not name.startswith("geomfast")}
    ratios = {
        "over svdvals": ("svdvals float32 looped", "geomfast"),
        "over gram": ("gram float64 looped", "geomfast"),
        "over best peer": (min(peers, key=lambda name: peers[name]), "geomfast"),
    }
    if device == "cpu":
        ratios["2 threads over 1"] = ("geomfast", "geomfast 2 threads")
    where = "" if device == "cpu" else f" on {device}"
    name = f"spectra{where} {batch} x ({n} x {d})"
    notes = {"backend": OP.backend_for(x)}
    if few and part > 1:
        notes["scaled"] = f"timed on {TIMED} matrices, times {part:g}: {', '.join(sorted(few))}"
    # The Gram matrix, lower half, and its reduction to tridiagonal form.
    side = min(n, d)
    operations = batch * (side * side * max(n, d) + 4 / 3 * side**3)
    work = ("matrix product float64, TFLOP/s", operations)
    results.add(name, seconds, ratios, errors, work, **notes)
    benchmark.pedantic(calls["geomfast"], rounds=ROUNDS if full else 1, warmup_rounds=1)
