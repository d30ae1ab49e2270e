"""Backend "cpu": the C++ kernel of csrc/, threads over blocks of parameters.

`GEOMFAST_ISA` picks the instruction set, as for the spectra; the result has the same bits on each.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from geomfast.kernels.backends import native_module
from geomfast.kernels.sgld.dynamics import Dynamics


def step(
    weights: Tensor,
    gradients: Tensor,
    center: Tensor,
    dynamics: Dynamics,
    seed: int,
    step: int | Tensor,
    square_average: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
    first_chain: int,
) -> Tensor:
    """As `geomfast.kernels.sgld.sgld_step`, of float32 on the CPU."""
    chains, size = weights.shape
    statistics = torch.empty((chains, 4), dtype=torch.float64, device="cpu")
    native_module("_cpu").sgld_step(
        weights=weights.data_ptr(),
        gradients=gradients.data_ptr(),
        center=center.data_ptr(),
        square_average=0 if square_average is None else square_average.data_ptr(),
        previous=0 if previous is None else previous.data_ptr(),
        active=0 if active is None else active.data_ptr(),
        chains=chains,
        size=size,
        first_chain=first_chain,
        seed=seed,
        step=int(step),
        **{"decay": 0.0, "stability": 0.0, **dynamics.factors},
        statistics=statistics.data_ptr(),
        threads=torch.get_num_threads(),
        isa=os.environ.get("GEOMFAST_ISA", ""),
    )
    return statistics


def normals(
    chains: int, size: int, seed: int, step: int, first_chain: int, device: torch.device
) -> Tensor:
    """As `geomfast.kernels.sgld.normals`."""
    out = torch.empty((chains, size), device="cpu")
    for chain, row in enumerate(out):
        native_module("_cpu").normals(
            seed=seed,
            chain=first_chain + chain,
            step=step,
            size=size,
            out=row.data_ptr(),
            isa=os.environ.get("GEOMFAST_ISA", ""),
        )
    return out
