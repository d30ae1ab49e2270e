"""One Langevin step of all chains: signature, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.registry import Op, Placement, float32_only
from geomfast.kernels.sgld import cpu, eager, reference, triton
from geomfast.kernels.sgld.dynamics import Dynamics, RmsProp

__all__ = [
    "OP",
    "Dynamics",
    "RmsProp",
    "normals",
    "normals_on",
    "sgld_step",
    "step_on",
]

#: Modules with `step` and `normals`.
OP = Op(
    "sgld_step",
    {"triton": triton, "cpu": cpu, "torch": eager, "reference": reference},
    refusals={"triton": float32_only, "cpu": float32_only},
)


def sgld_step(
    weights: Tensor,
    gradients: Tensor,
    center: Tensor,
    dynamics: Dynamics,
    *,
    seed: int,
    step: int | Tensor,
    square_average: Tensor | None = None,
    previous: Tensor | None = None,
    active: Tensor | None = None,
    first_chain: int = 0,
) -> Tensor:
    """Moves every chain by one Langevin step, in place.

    The noise of an entry depends on seed, chain, step and the entry's index alone: neither on the
    backend, the device, the number of threads, nor on which other chains there are.

    Args:
        weights: (C, P) float32 or float64, contiguous; changed.
        gradients: (C, P), of the loss at the weights.
        center: (P,), where the localization pulls to.
        dynamics: what the step multiplies by.
        seed: of the noise, 64 bits.
        step: number of this step; a 0-dimensional int64 tensor on the weights' device is read
            there, so that a replayed CUDA graph makes new noise.
        square_average: (C, P), changed: state of the preconditioner; needed with one.
        previous: (C, P), changed: the weights before the last step, becomes those before this one.
            Without it the third number returned is zero.
        active: (C,) bool, False for chains that stay as they are; None for all.
        first_chain: index of the first row's chain.

    Returns:
        (C, 4) float64 of the weights w before the step, NaN for chains that are not active:
        |w - center|^2, |drift|^2, (w - previous) . drift and kick . drift, where the kick is the
        scaled noise, the drift the rest of the step with its sign turned.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(weights, gradients, center, dynamics, step, square_average, previous, active)
    return step_on(
        OP.backend_for(weights),
        weights,
        gradients,
        center,
        dynamics,
        seed=seed,
        step=step,
        square_average=square_average,
        previous=previous,
        active=active,
        first_chain=first_chain,
    )


def step_on(
    backend: str,
    weights: Tensor,
    gradients: Tensor,
    center: Tensor,
    dynamics: Dynamics,
    *,
    seed: int,
    step: int | Tensor,
    square_average: Tensor | None = None,
    previous: Tensor | None = None,
    active: Tensor | None = None,
    first_chain: int = 0,
) -> Tensor:
    """As `sgld_step`, by one backend, of input that is known to fit."""
    return OP[backend].step(
        weights, gradients, center, dynamics, seed, step, square_average, previous, active,
        first_chain,
    )  # fmt: skip


def normals(
    chains: int,
    size: int,
    *,
    seed: int,
    step: int,
    first_chain: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(chains, size) float32: the noise that `sgld_step` would add, before it is scaled."""
    where = torch.empty(0, device=device)
    return normals_on(OP.backend_for(where), chains, size, seed, step, first_chain, where.device)


def normals_on(
    backend: str,
    chains: int,
    size: int,
    seed: int,
    step: int,
    first_chain: int,
    device: torch.device,
) -> Tensor:
    """As `normals`, by one backend."""
    return OP[backend].normals(chains, size, seed, step, first_chain, device)


def _check(
    weights: Tensor,
    gradients: Tensor,
    center: Tensor,
    dynamics: Dynamics,
    step: int | Tensor,
    square_average: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
) -> None:
    if weights.dim() != 2 or weights.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"weights must be (C, P) float32 or float64, not {tuple(weights.shape)} {weights.dtype}"
        )
    rows, dtype = tuple(weights.shape), weights.dtype
    expected = {
        "weights": (weights, rows, dtype),
        "gradients": (gradients, rows, dtype),
        "square_average": (square_average, rows, dtype),
        "previous": (previous, rows, dtype),
        "center": (center, rows[1:], dtype),
        "active": (active, rows[:1], torch.bool),
        "step": (step, (), torch.int64),
    }
    for name, (x, shape, of) in expected.items():
        if not isinstance(x, Tensor):
            continue
        if x.shape != shape or x.dtype != of or x.device != weights.device:
            raise ValueError(
                f"{name} must be {shape} {of} on {weights.device}, not "
                f"{tuple(x.shape)} {x.dtype} on {x.device}"
            )
        if not x.is_contiguous():
            raise ValueError(f"{name} must be contiguous")
    if (dynamics.preconditioner is None) != (square_average is None):
        raise ValueError("square_average goes with a preconditioner, and only with one")


@OP.self_test({"sgld normals": 1e-6, "sgld_step": 1e-6, "sgld_step sums": 1e-5})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """Noise, and steps with a preconditioner; several groups of counters, the last not full."""
    generator = torch.Generator().manual_seed(0)
    weights, gradients, previous = place(torch.randn(3, 3, 300, generator=generator, device="cpu"))
    square_average, center = torch.zeros_like(gradients), torch.zeros_like(gradients[0])
    sums = step_on(
        backend, weights, gradients, center, Dynamics(0.1, 5.0, 1.0, RmsProp()), seed=1, step=2,
        previous=previous, square_average=square_average,
    )  # fmt: skip
    noise = normals_on(backend, *weights.shape, 1, 2, 3, weights.device)
    return {"sgld normals": noise, "sgld_step": weights, "sgld_step sums": sums}
