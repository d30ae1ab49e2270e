"""Gram matrices of per-sample gradients: ours against vmap(grad) and a loop over samples.

The rivals store N x P gradients and multiply them in float64, or take singular values in float32,
as is usual. They run with plain attention, which `vmap` can batch; ours uses what the model uses.
One thread on the CPU; N = 200 samples of T tokens, a next-token loss.
"""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.interleave import interleave
from geomfast.measures.gradients import gradient_gram
from geomfast.models.gpt import GPT
from geomfast.models.scales import SCALES

LENGTHS = (4, 16, 32, 48, 128)
ROUNDS = 5
BUDGET = 6.0  # seconds of one contender and size


def next_token(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens)[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens[:, 1:], reduction="none").sum(1)


def stored(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(N, P) gradients by vmap(grad)."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, parameters, (row[None],))[0, :-1]
        return F.cross_entropy(logits, row[1:], reduction="sum")

    with sdpa_kernel(SDPBackend.MATH):
        gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, tokens)
    return torch.cat([g.flatten(1) for g in gradients.values()], 1)


def looped(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(N, P) gradients, one backward pass per sample."""
    parameters = list(model.parameters())
    rows = []
    for row in tokens:
        gradients = torch.autograd.grad(next_token(model, row[None]).sum(), parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def gram(gradients: torch.Tensor) -> torch.Tensor:
    gradients = gradients.double()
    return gradients @ gradients.mT


@pytest.mark.parametrize("length", LENGTHS)
def bench_gradient_gram(benchmark, results, full, device, restore_threads, length):
    if not full and length > 4:
        pytest.skip("a size of the full run")
    torch.set_num_threads(1)
    samples = 200 if full else 8
    scale = dataclasses.replace(SCALES["nano"], context=max(LENGTHS))
    model = GPT(scale, 0).to(device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, scale.vocabulary, (samples, length), generator=generator).to(device)
    functions: dict[str, Callable[[], torch.Tensor]] = {
        "geomfast": lambda: gradient_gram(model, next_token, tokens),
        "geomfast unchecked": lambda: gradient_gram(model, next_token, tokens, check=False),
        "vmap(grad), float64 gram": lambda: gram(stored(model, tokens)),
        "vmap(grad), svdvals": lambda: torch.linalg.svdvals(stored(model, tokens)),
        "loop, float64 gram": lambda: gram(looped(model, tokens)),
    }
    exact = gram(looped(model, tokens))
    errors = {
        name: ((function() - exact).abs().max() / exact.abs().max()).item()
        for name, function in functions.items()
        if "svdvals" not in name
    }
    assert errors["geomfast"] <= 1e-5

    def finished(function: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def call() -> None:
            function()
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    calls = {name: finished(function) for name, function in functions.items()}
    seconds = interleave(calls, rounds=ROUNDS if full else 2, budget=BUDGET)
    where = "" if device == "cpu" else f" on {device}"
    results.add(
        f"gradient gram{where} {samples} x T={length}, nano",
        seconds,
        {
            "over vmap + gram": ("vmap(grad), float64 gram", "geomfast"),
            "over vmap + svdvals": ("vmap(grad), svdvals", "geomfast"),
            "over the loop": ("loop, float64 gram", "geomfast"),
            "unchecked over vmap + gram": ("vmap(grad), float64 gram", "geomfast unchecked"),
        },
        errors,
        backend="torch",
    )
    benchmark.pedantic(calls["geomfast"], rounds=ROUNDS if full else 1, warmup_rounds=1)
