"""TF32 for the products of a training step, and for nothing after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Within the context, CUDA rounds float32 matrix products to TF32 if ``on``, backward too.

    It is a setting of the whole process, and measures that follow have to find it as it was,
    whichever of torch's interfaces the user has set it by.
    """
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    if on:
        settings.fp32_precision = "tf32"
    try:
        yield
    finally:
        if on:
            settings.fp32_precision = before
