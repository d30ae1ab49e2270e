"""Backend "reference": every gradient stored whole, in float64."""

from torch import Tensor

from geomfast.kernels.gradient_gram.factors import Factors, block


def gram(uses: list[Factors], centered: bool) -> Tensor:
    """(N, N) float64 Gram matrix of the per-sample gradients of one parameter."""
    exact = [
        Factors(use.left.double() if not use.one_hot else use.left, use.right.double(), use.rows)
        for use in uses
    ]
    gradients = block(exact, 0, uses[0].rows)
    if centered:
        gradients = gradients - gradients.mean(0)
    return gradients @ gradients.mT
