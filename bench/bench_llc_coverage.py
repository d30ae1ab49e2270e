"""How often the 95% interval of a coefficient sampled to a stated error holds the true one.

Real chains of `gf.llc(..., relative_stderr=...)`, 200 seeds of each closed form: where drawing
stops depends on the draws, which could make the interval too narrow. Truths are those of the
posterior with its localization: quadratics in closed form, a sum of powers by quadrature. Steps are
found automatically, so that what they add counts as an error too. An interval is the mean +- 1.96
standard errors; a coverage of 200 seeds is itself known to 1.5%.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from scipy.integrate import quad
from torch import Tensor, nn

from geomfast.estimators.llc import llc
from tests.estimators.sampling.cases import Polynomial, Quadratic, output, silence

SEEDS = 200
#: Relative standard errors that are asked for.
GOALS = (0.1, 0.05)
_NBETA, _LOCALIZATION = 100.0, 5.0


def _quadratic(h: Tensor) -> tuple[nn.Module, Tensor, float]:
    a = _NBETA * h.double() + _LOCALIZATION
    return Quadratic(h), silence(h), 0.5 * float((_NBETA * h.double() / a).sum())


def _powers(degree: int, size: int) -> tuple[nn.Module, Tensor, float]:
    def density(w: float) -> float:
        return math.exp(-_NBETA * abs(w) ** degree - 0.5 * _LOCALIZATION * w * w)

    whole = quad(density, 0, 3)[0]
    mean = quad(lambda w: _NBETA * abs(w) ** degree * density(w), 0, 3)[0] / whole
    model = Polynomial(lambda w: w.abs().pow(degree).sum(), size)
    return model, torch.zeros(4, 1), size * mean


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor, float]]] = {
    "20 directions, 0.2 to 1": lambda: _quadratic(torch.linspace(0.2, 1.0, 20)),
    "20 directions, 0.01 to 1": lambda: _quadratic(torch.logspace(-2, 0, 20)),
    "ten w^4": lambda: _powers(4, 10),
}


def bench_llc_coverage(benchmark, results, full, restore_threads):
    torch.set_num_threads(1)
    seconds, notes = {}, {}
    for name, case in CASES.items():
        model, data, exact = case()
        for goal in GOALS if full else GOALS[:1]:
            begin = time.perf_counter()
            inside, away, drawn = 0, [], []
            seeds = SEEDS if full else 4
            for seed in range(seeds):
                found = llc(
                    model, output, data, nbeta=_NBETA, localization=_LOCALIZATION,
                    relative_stderr=goal, seed=seed,
                )  # fmt: skip
                z = (found.mean - exact) / found.stderr
                inside += abs(z) <= 1.96
                away.append(z)
                drawn.append(found.loss_trace.shape[1])
            which = f"{name}, to {goal:.0%}"
            seconds[which] = (time.perf_counter() - begin) / seeds
            z = torch.tensor(away, dtype=torch.float64)
            notes[which] = (
                f"{inside} of {seeds} intervals hold {exact:.4g}: {inside / seeds:.1%}; errors in "
                f"units of the stated one: mean {z.mean():+.2f}, deviation {z.std():.2f}; "
                f"{sum(drawn) / seeds:.0f} steps a chain"
            )
            print(f"  {which:<36} {notes[which]}", flush=True)
    results.add("coverage of the learning coefficient's interval", seconds, {}, {}, **notes)
    benchmark.pedantic(lambda: None, rounds=1)
