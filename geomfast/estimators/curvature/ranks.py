"""Products with the Hessian of a mean over samples that are shared over processes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """The processes of a group, each with samples of its own and the same parameters.

    Every method is called by all of them.

    Args:
        group: a process group of torch.distributed.

    Raises:
        TypeError: it is none.
        RuntimeError: torch.distributed is not available.
    """

    def __init__(self, group: Any):
        if not dist.is_available():
            raise RuntimeError("process_group is given, but this torch has no torch.distributed")
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                "process_group must be a torch.distributed.ProcessGroup (that of all processes is "
                f"torch.distributed.group.WORLD), not {type(group).__name__}"
            )
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def gathered(self, x: Any) -> list[Any]:
        """What each rank gives, by rank: small objects."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, x, self.group)
        return found

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        dist.all_reduce(x, group=self.group)
        return x

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Inside, no rank communicates; where one raises, all do, and none waits for it forever.

        Raises:
            RuntimeError: another rank has raised; with its number and message.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self._raise(error, self.gathered(_said(error)))

    def require_same_vector(self, v: Tensor, check: Callable[[], None]) -> None:
        """Raises where a rank gives another vector, or fails a check of its own, on all ranks.

        Args:
            v: (P,) float64; told from others by the sum of its bits.
            check: raises, without communicating.

        Raises:
            ValueError: another vector.
            RuntimeError: another rank's check has raised; with its number and message.
        """
        error: Exception | None = None
        try:
            check()
        except Exception as raised:
            error = raised
        bits = v.contiguous().view(torch.int64).sum(dtype=torch.int64).item()
        every = self.gathered((bits, _said(error)))
        self._raise(error, [said for _, said in every])
        if others := [rank for rank, (one, _) in enumerate(every) if one != every[0][0]]:
            raise ValueError(f"v of rank {others[0]} is another one than that of rank 0")

    @staticmethod
    def _raise(error: Exception | None, said: list[str | None]) -> None:
        if error is not None:
            raise error
        if failed := [f"rank {rank}: {text}" for rank, text in enumerate(said) if text is not None]:
            raise RuntimeError("; ".join(failed))

    def require_same_model(self, model: nn.Module, told: Any) -> None:
        """Raises ValueError where ranks have other parameters, buffers or settings.

        Args:
            model: whose.
            told: settings that have to agree.
        """
        digest = hashlib.sha256(repr(told).encode())
        for name, x in model.state_dict().items():
            digest.update(name.encode())
            if isinstance(x, Tensor):
                plain = x.detach().cpu().contiguous().reshape(-1)
                digest.update(repr((x.dtype, tuple(x.shape))).encode())
                digest.update(plain.view(torch.uint8).numpy().tobytes())
        every = self.gathered(digest.hexdigest())
        if others := [rank for rank, one in enumerate(every) if one != every[0]]:
            raise ValueError(
                f"process_group: rank {others[0]} has another model (its parameters, its buffers, "
                "or params and matrix) than rank 0"
            )


def _said(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"
