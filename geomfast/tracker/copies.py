"""A copy of a model to measure, so that the model itself and its training are left alone."""

from __future__ import annotations

import copy
import logging
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geomfast.estimators.copies import PLAIN, copied
from geomfast.estimators.guard import State
from geomfast.measures.model.evaluation import bring, enter
from geomfast.testbed.training.checkpoints import weights_hash

logger = logging.getLogger("geomfast")
#: What runs beside a module's own forward and backward.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: Where torch's own hooks are from that make a weight of others before every forward pass.
_REPARAMETRIZATIONS = (
    "torch.nn.utils.weight_norm",
    "torch.nn.utils.spectral_norm",
    "torch.nn.utils.prune",
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of what compiles it or trains it on several devices.

    Raises:
        ValueError: its parameters are spread over processes, so that no process has the model.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    for name, parameter in model.named_parameters():
        # DTensor: fully sharded and tensor parallel; ds_id: what ZeRO-3 has taken away.
        if hasattr(parameter, "placements") or hasattr(parameter, "ds_id"):
            raise ValueError(
                f"parameter {name} is sharded over processes: a tracker needs the whole model in "
                "one; measure its checkpoints instead (geomfast measure)"
            )
    return model


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Computation within the context leaves global state unchanged.

    Random numbers of torch, NumPy and Python are drawn as if it had not been; gradients are on and
    automatic casts off, whatever they are outside.

    Args:
        device: where it is computed.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class EvaluationCopy:
    """A model's copy in evaluation mode, made once and brought up to date when it is measured.

    It has no hooks of the model's, as what they keep or count belongs to training, but for those of
    torch that make weights (weight_norm and spectral_norm of old, pruning).  On a CUDA device it is
    worked with in a stream of its own, beside what training has left to do there.

    Args:
        model: the one that is trained, unwrapped.
        device: where the copy is kept and measured; None for where the model is.

    Raises:
        ValueError: the model has no parameters or cannot be copied.
        RuntimeError: a module's own `eval` failed.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None):
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError(f"{type(model).__name__} has no parameters to measure")
        self.live = model
        self.device = first.device if device is None else torch.device(device)
        with torch.inference_mode(False):
            self.module = _without_hooks(model)
            self.module.to(self.device)
            self._made = State(self.module)
            enter(self.module)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within the context, work uses the copy's own stream, which waits for queued training."""
        if self._stream is None:
            yield
            return
        training = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(training)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            training.wait_stream(self._stream)

    @torch.no_grad()
    def refresh(self) -> str:
        """Takes over weights, buffers, attributes and what is trainable as they are now.

        The copy is in the model's own modes meanwhile, module by module: adapters fold their
        weights for evaluation, and what is folded must not be overwritten as if it were not. What
        running the copy has left on its modules is gone afterwards.

        Returns:
            Hash of the weights, as
            :func:`geomfast.testbed.training.checkpoints.weights_hash` has it.

        Raises:
            ValueError: the model has other modules or parameters than when the copy was made.
            RuntimeError: a module's own `train` or `eval` failed.
        """
        self._require_alike()
        modes = [module.training for module in self.live.modules()]
        bring(self.module, modes)
        self._made.restore()
        for mine, theirs, mode in zip(
            self.module.modules(), self.live.modules(), modes, strict=True
        ):
            self._take_over(mine, theirs)
            mine.training = mode
        theirs = dict(self.live.named_parameters())
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(theirs[name].requires_grad)
            parameter.data.copy_(theirs[name])
        weights = weights_hash(self.module)
        enter(self.module)
        return weights

    def _take_over(self, mine: nn.Module, theirs: nn.Module) -> None:
        """Buffers, and what is plain among a module's attributes."""
        for name, buffer in theirs._buffers.items():
            own = mine._buffers.get(name)
            if buffer is None:
                mine._buffers[name] = None
            elif own is None or own.shape != buffer.shape or own.dtype != buffer.dtype:
                mine._buffers[name] = self._own(buffer)  # a cache that has grown, say
            else:
                own.copy_(buffer)
        for name, value in theirs.__dict__.items():
            if isinstance(value, Tensor) and value.is_leaf:
                mine.__dict__[name] = self._own(value).requires_grad_(value.requires_grad)
            elif isinstance(value, PLAIN):
                mine.__dict__[name] = value

    def _own(self, x: Tensor) -> Tensor:
        return x.detach().clone().to(self.device)

    def _require_alike(self) -> None:
        """Raises ValueError where the model is not made as the copy is."""
        for what in ("named_modules", "named_parameters"):
            ours, theirs = (dict(getattr(x, what)()) for x in (self.module, self.live))
            for name in sorted(ours.keys() | theirs.keys()):
                mine, other = ours.get(name), theirs.get(name)
                alike = type(mine) is type(other) and (
                    not isinstance(mine, Tensor) or mine.shape == getattr(other, "shape", None)
                )
                if not alike:
                    raise ValueError(f"the model has changed since the tracker was made: {name}")


def _without_hooks(model: nn.Module) -> nn.Module:
    """A copy without hooks, and of tensors that belong to a graph their values alone.

    Raises:
        ValueError: something of the model cannot be copied.
    """
    left_out: list[str] = []
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        for kind in _HOOKS:
            hooks = getattr(module, kind)
            kept = OrderedDict((key, hook) for key, hook in hooks.items() if _makes_weights(hook))
            left_out += [name or type(model).__name__] * (len(hooks) - len(kept))
            memo[id(hooks)] = copy.deepcopy(kept)
    try:
        made = copied(model, memo)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} cannot be copied: {error}") from error
    if left_out:
        logger.warning(
            "%d hooks of the model do not run on the copy measured (of %s): what they change of "
            "inputs or outputs is not in the values",
            len(left_out),
            ", ".join(dict.fromkeys(left_out)),
        )
    return made


def _makes_weights(hook: Any) -> bool:
    """Whether a hook is one of torch's own that compute a weight before every forward pass."""
    return type(hook).__module__.startswith(_REPARAMETRIZATIONS)
