"""Other libraries that compute the same; each takes part where it is installed."""

import importlib
import importlib.util
from collections.abc import Callable

import torch


def spectra_peers() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Name -> function (B, N, d) float32 -> (B, min(N, d)) singular values, one thread.

    SciPy brings its own OpenBLAS with its own threads, which only threadpoolctl can limit: without
    that package its time would not be that of one thread, and it does not take part.
    """
    peers: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    if importlib.util.find_spec("threadpoolctl"):
        limits = importlib.import_module("threadpoolctl").threadpool_limits
        svdvals = importlib.import_module("scipy.linalg").svdvals

        def scipy_svdvals(x: torch.Tensor) -> torch.Tensor:
            with limits(1):
                values = [svdvals(matrix, check_finite=False) for matrix in x.numpy()]
            return torch.stack([torch.from_numpy(v) for v in values])

        peers["scipy svdvals float32"] = scipy_svdvals
    return peers
