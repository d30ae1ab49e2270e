"""Backend "cpu": the C++ kernel of csrc/, threads over rows of members.

`GEOMFAST_ISA` picks the instruction set, as for the spectra.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from geomfast.kernels.backends import native_module


def run(
    qkv: Tensor,
    offsets: Tensor,
    heads: int,
    out: Tensor,
    grad_output: Tensor | None = None,
    slopes: Tensor | None = None,
) -> None:
    """As `geomfast.kernels.row_attention.op` says, of float32 on the CPU."""
    biased = {} if slopes is None else {"slopes": slopes.data_ptr()}
    native_module("_cpu").row_attention(
        qkv=qkv.data_ptr(),
        into=0 if grad_output is None else grad_output.data_ptr(),
        offsets=offsets.data_ptr(),
        out=out.data_ptr(),
        members=len(qkv),
        rows=len(offsets) - 1,
        heads=heads,
        width=qkv.shape[2] // (3 * heads),
        threads=torch.get_num_threads(),
        isa=os.environ.get("GEOMFAST_ISA", ""),
        **biased,
    )
