"""Effective rank of a spectrum: exp of its entropy."""

import torch


def exp_entropy(values: torch.Tensor, eps: float) -> torch.Tensor:
    """exp of the entropy of p = values / sum + eps; 0 where all values are zero.

    Args:
        values: (..., k) float64, >= 0.
        eps: added to every p.

    Returns:
        (...) float64.
    """
    largest = values.amax(-1, keepdim=True)
    scaled = values / torch.where(largest > 0, largest, 1.0)  # so that the sum cannot overflow
    p = scaled / scaled.sum(-1, keepdim=True).clamp_min(1.0) + eps
    return torch.where(largest.squeeze(-1) > 0, torch.special.entr(p).sum(-1).exp(), 0.0)
