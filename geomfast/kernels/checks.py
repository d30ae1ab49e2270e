"""Checks of input that several kernels share."""

import torch


def all_finite(x: torch.Tensor) -> bool:
    """Whether x has no NaN and no infinity; one pass, no temporary of its size."""
    if x.numel() == 0:
        return True
    low, high = torch.aminmax(x)  # NaN propagates through both
    return bool(torch.isfinite(low) & torch.isfinite(high))


def not_finite_error(x: torch.Tensor, argument: str = "x") -> ValueError:
    """The error that names the first entry of x that is NaN or infinite."""
    return bad_entry_error(x, ~torch.isfinite(x), argument, "finite")


def bad_entry_error(x: torch.Tensor, bad: torch.Tensor, argument: str, wanted: str) -> ValueError:
    """The error that names the first entry of x for which the mask `bad` holds."""
    index = tuple(bad.nonzero()[0].tolist())
    return ValueError(
        f"{argument} of shape {tuple(x.shape)} must be {wanted}: "
        f"{argument}[{', '.join(map(str, index))}] is {x[index].item()}"
    )


def check_fits(
    name: str, x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raises ValueError unless x has this shape and type, is on the device and contiguous."""
    check_like(name, x, shape, dtype, device)
    if not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous")


def check_like(
    name: str, x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """As `check_fits`, whatever the strides."""
    if x.shape != shape or x.dtype != dtype or x.device != device:
        raise ValueError(
            f"{name} must be {tuple(shape)} {dtype} on {device}, not "
            f"{tuple(x.shape)} {x.dtype} on {x.device}"
        )
