"""Learning coefficients that are known, found without a setting of our own.

Quadratics (a half of the curved directions, whatever their spread and however many are flat), sums
of ten powers (ten over the degree), products of two weights' powers (of multiplicity 2 where the
powers are equal, which is approached with the logarithm of n only), reduced-rank regressions
(Aoyagi and Watanabe 2005) and a linear network of four layers (Aoyagi 2024), by
`geomfast.calibrate_llc` at its defaults. Errors are relative; notes have the coefficient with its
stated error and how many of them it lies away.
"""

from __future__ import annotations

import math
import time

import torch
from torch import nn

from geomfast.estimators.sampling.automatic import calibrate_llc
from tests.estimators.sampling.cases import (
    Polynomial,
    Product,
    Quadratic,
    deep_linear,
    output,
    silence,
)

_POINT = torch.zeros(4, 1)
#: As if of so many samples: n / log n; linear networks need more for their flattest directions.
_NBETA, _NBETA_OF_NETWORKS = 1e3, 1e6


def known() -> dict[str, tuple[nn.Module, torch.Tensor, float, float]]:
    """Name -> model, data, nbeta and coefficient."""
    spectra = {
        "400 directions, 0.2 to 1": torch.linspace(0.2, 1.0, 400),
        "400 directions, 0.01 to 10": torch.logspace(-2, 1, 400),
        "300 directions and 300 flat": torch.cat([torch.zeros(300), torch.linspace(0.3, 1.0, 300)]),
    }
    found: dict[str, tuple[nn.Module, torch.Tensor, float, float]] = {}
    for name, h in spectra.items():
        found[name] = (Quadratic(h), silence(h), _NBETA, int((h > 0).sum()) / 2)
    for degree in (4, 6, 8):
        power = Polynomial(lambda w, k=degree: w.abs().pow(k).sum(), 10)
        found[f"ten w^{degree}"] = (power, _POINT, _NBETA, 10 / degree)
    for a, b, exact in ((2, 0, 0.5), (2, 2, 0.5), (2, 4, 0.25)):
        product = Polynomial(lambda w, a=a, b=b: w[0].abs() ** a * w[1].abs() ** b, 2)
        found[f"x^{a} y^{b}"] = (product, _POINT, _NBETA, exact)
    for widths, rank in (((5, 3, 5), 0), ((5, 5, 5), 1), ((5, 5, 5), 2), ((5, 5, 5), 3)):
        model = Product(widths, rank)
        exact = deep_linear(widths, rank)
        found[f"{widths}, rank {rank}"] = (model, torch.zeros(1), _NBETA_OF_NETWORKS, exact)
    widths = (4, 4, 4, 4)
    model, exact = Product(widths, 2), deep_linear(widths, 2)
    found[f"{widths}, rank 2"] = (model, torch.zeros(1), _NBETA_OF_NETWORKS, exact)
    return found


def bench_llc_known(benchmark, results, full, restore_threads):
    torch.set_num_threads(1)
    seconds, errors, notes = {}, {}, {}
    for name, (model, data, nbeta, exact) in list(known().items())[: None if full else 1]:
        begin = time.perf_counter()
        tiny = {} if full else {"error": 0.2, "chains": 4}
        settings = calibrate_llc(model, output, data, nbeta=nbeta, **tiny)
        seconds[name] = time.perf_counter() - begin
        if not math.isnan(settings.coefficient):
            errors[name] = abs(settings.coefficient / exact - 1.0)
        away = (settings.coefficient - exact) / settings.stderr
        notes[name] = (
            f"{settings.coefficient:.4g} +- {settings.stderr:.2g} of {exact:g}, {away:+.1f} errors "
            f"away, {settings.chains} chains; {settings.reason}"
        )
    results.add("known learning coefficients", seconds, {}, errors, **notes)
    print("\n".join(f"  {who:<28} {note}" for who, note in notes.items()))
    benchmark.pedantic(lambda: None, rounds=1)
