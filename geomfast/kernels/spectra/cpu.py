"""Backend "cpu": the C++ kernel of csrc/, threads over matrices.

`GEOMFAST_ISA` picks the instruction set (avx512, avx2, portable), for tests and comparisons; the
best one that the processor runs is the default.
"""

import os

import torch

from geomfast.kernels.backends import native_module
from geomfast.kernels.checks import not_finite_error

_DTYPES = {torch.float32: 0, torch.float64: 1}
_NOT_FINITE = 1


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """(..., N, d) on the CPU -> (..., min(N, d)) float64, descending.

    Raises:
        ValueError: NaN or infinity in x; `GEOMFAST_ISA` names what the processor does not run.
        RuntimeError: the eigenvalue iteration did not converge.
    """
    if x.dtype not in _DTYPES:
        x = x.float()  # exact for the 16-bit types
    matrices = x.reshape(-1, *x.shape[-2:])
    if matrices.stride(-1) != 1 and matrices.stride(-2) == 1:
        matrices = matrices.mT  # the transpose has the same singular values
    if matrices.stride(-1) != 1:
        matrices = matrices.contiguous()
    batch, rows, columns = matrices.shape
    values = torch.empty((batch, min(rows, columns)), dtype=torch.float64, device="cpu")
    failed, status = native_module("_cpu").singular_values(
        data=matrices.data_ptr(),
        dtype=_DTYPES[matrices.dtype],
        batch=batch,
        rows=rows,
        cols=columns,
        batch_stride=matrices.stride(0),
        row_stride=matrices.stride(1),
        out=values.data_ptr(),
        threads=torch.get_num_threads(),
        isa=os.environ.get("GEOMFAST_ISA", ""),
    )
    if status == _NOT_FINITE:
        raise not_finite_error(x)
    if failed >= 0:
        raise RuntimeError(f"the eigenvalues of matrix {failed} of {batch} did not converge")
    return values.reshape(*x.shape[:-2], min(rows, columns))
