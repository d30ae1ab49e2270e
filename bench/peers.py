"""Other libraries that compute the same; each takes part where it is installed."""

import copy
import importlib
import importlib.util
import warnings
from collections.abc import Callable

import torch


def spectra_peers(device: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Name -> function (B, N, d) float32 on the device -> (B, min(N, d)) singular values.

    SciPy (CPU) brings its own OpenBLAS with its own threads, which only threadpoolctl can limit:
    without that package its time would not be that of one thread, and it does not take part. CuPy
    (CUDA) has cuSOLVER's batched eigenvalues, which torch lacks before 2.12.
    """
    peers: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    if device == "cpu" and importlib.util.find_spec("threadpoolctl"):
        limits = importlib.import_module("threadpoolctl").threadpool_limits
        svdvals = importlib.import_module("scipy.linalg").svdvals

        def scipy_svdvals(x: torch.Tensor) -> torch.Tensor:
            with limits(1):
                values = [svdvals(matrix, check_finite=False) for matrix in x.numpy()]
            return torch.stack([torch.from_numpy(v) for v in values])

        peers["scipy svdvals float32"] = scipy_svdvals
    if device == "cuda" and importlib.util.find_spec("cupy"):
        cupy = importlib.import_module("cupy")

        def cupy_gram(x: torch.Tensor) -> torch.Tensor:
            y = cupy.from_dlpack(x).astype(cupy.float64)
            other = y.transpose(0, 2, 1)
            gram = y @ other if x.shape[1] <= x.shape[2] else other @ y
            values = cupy.sqrt(cupy.maximum(cupy.linalg.eigvalsh(gram), 0.0))
            return torch.from_dlpack(values)

        peers["cupy gram float64 batched"] = cupy_gram
    return peers


# Opacus hooks every module; an embedding's input, token ids, has no gradient, which torch remarks.
_NO_INPUT_GRADIENTS = "Full backward hook is firing when gradients are computed with respect to"


def gradient_peers(
    model: torch.nn.Module, loss_fn: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
) -> dict[str, Callable[[torch.Tensor], list[torch.Tensor]]]:
    """Name -> function of a batch: the (N, ...) gradients of every parameter of the model.

    Opacus hooks a copy, so that nobody else runs its hooks; it forgets the gradients of each batch
    before the next, as its users must.
    """
    if not importlib.util.find_spec("opacus"):
        return {}
    module = importlib.import_module("opacus").GradSampleModule
    hooked = module(copy.deepcopy(model), loss_reduction="sum")

    def opacus(tokens: torch.Tensor) -> list[torch.Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_NO_INPUT_GRADIENTS)
            loss_fn(hooked, tokens).sum().backward()
        gradients = [parameter.grad_sample for parameter in hooked.parameters()]
        hooked.zero_grad(set_to_none=True)
        return gradients

    return {"opacus": opacus}
