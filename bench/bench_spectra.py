"""Singular values: ours against looped float32 SVD and the looped float64 Gram matrix.

Random matrices take part with the times, nearly rank-two ones with the errors too: collapsed
representations are what the accuracy is for.
"""

from collections.abc import Callable

import pytest
import torch

from bench.interleave import interleave
from bench.peers import spectra_peers
from geomfast.kernels.spectra import singular_values
from geomfast.measures.spectra import effective_rank

FULL = [(48, 200, 128), (144, 200, 384), (288, 200, 768)]
TINY = [(6, 20, 12), (6, 20, 38), (6, 20, 76)]


def near_rank_two(batch: int, n: int, d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return normal(batch, n, 2) @ normal(batch, 2, d) + 1e-3 * normal(batch, n, d)


def looped_svdvals(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.linalg.svdvals(matrix) for matrix in x])


def looped_gram(x: torch.Tensor) -> torch.Tensor:
    def one(matrix: torch.Tensor) -> torch.Tensor:
        y = matrix.double()
        gram = y @ y.mT if y.shape[0] <= y.shape[1] else y.mT @ y
        return torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()

    return torch.stack([one(matrix) for matrix in x])


def on_threads(count: int, function: Callable, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        torch.set_num_threads(count)
        return function(x)

    return call


@pytest.mark.parametrize("index", range(3), ids=["narrow", "square", "wide"])
def bench_spectra(benchmark, results, full, restore_threads, index):
    batch, n, d = (FULL if full else TINY)[index]
    functions = {
        "svdvals float32 looped": (1, looped_svdvals),
        "gram float64 looped": (1, looped_gram),
        "geomfast": (1, singular_values),
        "geomfast 2 threads": (2, singular_values),
        **{name: (1, function) for name, function in spectra_peers().items()},
    }
    torch.set_num_threads(1)
    hard = near_rank_two(min(batch, 16), n, d)
    exact = effective_rank(torch.linalg.svdvals(hard.double()))
    errors = {
        name: ((effective_rank(function(hard)) - exact).abs() / exact).max().item()
        for name, (_, function) in functions.items()
    }
    assert errors["geomfast"] <= 2e-5
    x = torch.randn(batch, n, d, generator=torch.Generator().manual_seed(0))
    calls = {name: on_threads(k, function, x) for name, (k, function) in functions.items()}
    seconds = interleave(calls, rounds=5 if full else 2)
    results.add(
        f"spectra {batch} x ({n} x {d})",
        seconds,
        {
            "over svdvals": ("svdvals float32 looped", "geomfast"),
            "over gram": ("gram float64 looped", "geomfast"),
            "2 threads over 1": ("geomfast", "geomfast 2 threads"),
        },
        errors,
    )
    benchmark.pedantic(calls["geomfast"], rounds=5 if full else 1, warmup_rounds=1)
