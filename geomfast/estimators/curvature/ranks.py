"""Products with the Hessian of a mean over samples that are shared over processes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
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
        error: BaseException | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        said = self.gathered(None if error is None else f"{type(error).__name__}: {error}")
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

    def require_same_vector(self, name: str, v: Tensor) -> None:
        """Raises ValueError where ranks give other vectors, told by the sums of their bits."""
        whole = {4: torch.int32, 8: torch.int64}[v.element_size()]
        own = v.contiguous().view(whole).sum(dtype=torch.int64).reshape(1)
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.group)
        values = torch.cat(every).tolist()
        if others := [rank for rank, one in enumerate(values) if one != values[0]]:
            raise ValueError(f"{name} of rank {others[0]} is another one than that of rank 0")
