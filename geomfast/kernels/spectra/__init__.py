"""Singular values of batches of matrices."""

from geomfast.kernels.spectra.op import backend_for, singular_values

__all__ = ["backend_for", "singular_values"]
