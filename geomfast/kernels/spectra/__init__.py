"""Singular values of batches of matrices."""

from geomfast.kernels.spectra.op import backend_for, check, singular_values

__all__ = ["backend_for", "check", "singular_values"]
