"""Backend "cpu": the C++ kernel of csrc/, threads over blocks of parameters.

`GEOMFAST_ISA` picks the instruction set, as for the spectra; the result has the same bits on each.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from geomfast.kernels.backends import native_module
from geomfast.kernels.sgld.dynamics import LangevinState


def step(state: LangevinState, step: int | Tensor) -> Tensor:
    """As `geomfast.kernels.sgld.sgld_step`, of float32 on the CPU."""
    chains, size = state.weights.shape
    statistics = torch.empty((chains, 4), dtype=torch.float64, device="cpu")
    native_module("_cpu").sgld_step(
        weights=state.weights.data_ptr(),
        gradients=state.gradients.data_ptr(),
        center=state.center.data_ptr(),
        previous=_address(state.previous),
        velocity=_address(state.velocity),
        active=_address(state.active),
        chains=chains,
        size=size,
        first_chain=state.first_chain,
        seed=state.seed,
        step=int(step),
        **{"keep": 0.0, **state.dynamics.factors},
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


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
