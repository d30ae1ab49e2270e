"""Gram matrices of per-sample gradients: ours against vmap(grad), a loop over samples, and Opacus.

The rivals store N x P gradients and multiply them in float64, or take singular values in float32,
as is usual; one multiplies in float32 and sums in float64, as ours does. `vmap` runs with plain
attention, which it can batch; the others use what the model uses. Opacus and ours meet on a model
of the same sizes that Opacus can differentiate (`untied.py`). One thread on the CPU; N = 200
samples of T tokens, a next-token loss.
"""

import copy
import dataclasses
import time
from collections.abc import Callable

import pytest
import torch

from bench.interleave import finished, interleave
from bench.peers import gradient_peers
from bench.stored_gradients import by_loop, by_vmap, gram, next_token, singular_values
from bench.untied import UntiedGPT
from geomfast.estimators.gradients import backend, gradient_gram
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES

FULL = [("nano", length) for length in (4, 16, 32, 48, 128)] + [
    (scale, length) for scale in ("micro", "small") for length in (4, 32)
]
# The first ones are what `gpu.py` runs first: both sides of the rule, and a larger model.
FULL_CUDA = [("nano", 8), ("nano", 64), ("micro", 8), ("small", 8), ("nano", 128), ("micro", 32)]
TINY = [("nano", 4)]
ROUNDS = 5
BUDGET = 6.0  # seconds of one contender and size
BUDGET_CUDA = 1.0
LONGEST = 60.0  # seconds of one call
LONGEST_CUDA = 2.0
STORAGE = 3e9  # bytes of gradients on the CPU; a third of what is free on a GPU
LARGEST_SVD_CUDA = 1_000_000  # parameters
CHECKED = 64  # samples whose inner products are compared with those of float64 gradients


@dataclasses.dataclass
class Contender:
    """One way to the Gram matrix, or to its spectrum.

    Attributes:
        model: whose gradients.
        function: of the tokens.
        copies: of N x P float32 numbers that it holds at once.
        gram: whether it returns the matrix.
    """

    model: torch.nn.Module
    function: Callable[[torch.Tensor], torch.Tensor]
    copies: int = 0
    gram: bool = True


def contenders(model: torch.nn.Module, untied: torch.nn.Module) -> dict[str, Contender]:
    """Ours and its rivals by name."""

    def ours(model: torch.nn.Module, check: bool) -> Contender:
        return Contender(
            model, lambda tokens: gradient_gram(model, next_token, tokens, check=check)
        )

    found = {
        "geomfast": ours(model, True),
        "geomfast unchecked": ours(model, False),
        "vmap(grad), float64 gram": Contender(model, lambda x: gram(by_vmap(model, x)), 1),
        "vmap(grad), float32 gram": Contender(
            model, lambda x: gram(by_vmap(model, x), torch.float32), 1
        ),
        # The gradients by parameter, side by side, and LAPACK's own copy.
        "vmap(grad), svdvals": Contender(
            model, lambda x: singular_values(by_vmap(model, x)), 3, gram=False
        ),
        "loop, float64 gram": Contender(model, lambda x: gram(by_loop(model, x)), 1),
    }
    for name, gradients in gradient_peers(untied, next_token).items():
        found["geomfast, untied"] = ours(untied, True)
        found["geomfast unchecked, untied"] = ours(untied, False)
        found[f"{name}, float64 gram, untied"] = Contender(
            untied, lambda x, gradients=gradients: gram(gradients(x)), 1
        )
    return found


RATIOS = {
    "over vmap + gram": ("vmap(grad), float64 gram", "geomfast"),
    "over vmap + float32 gram": ("vmap(grad), float32 gram", "geomfast"),
    "over vmap + svdvals": ("vmap(grad), svdvals", "geomfast"),
    "over the loop": ("loop, float64 gram", "geomfast"),
    "over Opacus + gram": ("opacus, float64 gram, untied", "geomfast, untied"),
    "unchecked over vmap + gram": ("vmap(grad), float64 gram", "geomfast unchecked"),
    "unchecked over Opacus + gram": ("opacus, float64 gram, untied", "geomfast unchecked, untied"),
}


def too_much(contender: Contender, tokens: torch.Tensor) -> str:
    """Why a rival does not take part at this size; "" if it does."""
    if not contender.copies:
        return ""
    size = sum(p.numel() for p in contender.model.parameters())
    if not contender.gram and tokens.is_cuda and size > LARGEST_SVD_CUDA:
        return "would need workspaces beyond cuSOLVER's 32-bit sizes"
    needed = 4 * contender.copies * len(tokens) * size
    if needed > storage(tokens):
        return f"stores {needed / 1e9:.1f} GB"
    contender.function(tokens[:2])  # what is imported at first use
    tenth = tokens[: max(2, len(tokens) // 10)]
    call = finished(lambda: contender.function(tenth), tenth.device.type)
    start = time.perf_counter()
    call()
    seconds = (time.perf_counter() - start) * len(tokens) / len(tenth)
    longest = LONGEST_CUDA if tokens.is_cuda else LONGEST
    return f"takes {seconds:.0f} s or more" if seconds > longest else ""


def storage(tokens: torch.Tensor) -> float:
    return torch.cuda.mem_get_info()[0] / 3 if tokens.is_cuda else STORAGE


def exact_gram(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Of as many samples as are checked and fit, in float64 from the first forward pass on."""
    size = sum(p.numel() for p in model.parameters())
    fit = int(storage(tokens) // (8 * size))
    return gram(by_loop(copy.deepcopy(model).double(), tokens[: min(CHECKED, fit)]))


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_gradient_gram(benchmark, results, full, device, restore_threads, index):
    sizes = (FULL_CUDA if device == "cuda" else FULL) if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    torch.set_num_threads(1)
    (name, length), samples = sizes[index], 200 if full else 8
    scale = dataclasses.replace(SCALES[name], context=max(SCALES[name].context, length))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, scale.vocabulary, (samples, length), generator=generator).to(device)
    model, untied = GPT(scale, 0).to(device), UntiedGPT(scale, 0).to(device)
    all_of_them = contenders(model, untied)
    reasons = {who: too_much(contender, tokens) for who, contender in all_of_them.items()}
    taking_part = {who: all_of_them[who] for who, reason in reasons.items() if not reason}
    left_out = [f"{who} {reason}" for who, reason in reasons.items() if reason]

    exact = {id(m): exact_gram(m, tokens) for m in (model, untied)}
    errors = {}
    for who, contender in taking_part.items():
        if contender.gram:
            expected = exact[id(contender.model)]
            difference = contender.function(tokens)[: len(expected), : len(expected)] - expected
            errors[who] = (difference.abs().max() / expected.abs().max()).item()
    # A rival that is wrong would be no rival: its error counts as much as ours.
    assert max(errors.values()) <= 1e-5, errors

    calls = {
        who: finished(lambda c=contender: c.function(tokens), device)
        for who, contender in taking_part.items()
    }
    budget = BUDGET_CUDA if device == "cuda" else BUDGET
    seconds = interleave(calls, rounds=ROUNDS if full else 2, budget=budget)
    where = "" if device == "cpu" else f" on {device}"
    results.add(
        f"gradient gram{where} {samples} x T={length}, {name}",
        seconds,
        {ratio: pair for ratio, pair in RATIOS.items() if set(pair) <= set(seconds)},
        errors,
        backend=backend(model.tokens.weight),
        **({"left out": "; ".join(left_out)} if left_out else {}),
    )
    benchmark.pedantic(calls["geomfast"], rounds=1)
