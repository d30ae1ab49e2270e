"""A copy of a model to measure, so that the model itself and its training are left alone."""

from __future__ import annotations

import copy
import logging
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

logger = logging.getLogger("geomfast")
#: What runs beside a module's own forward and backward.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
def aside(device: torch.device) -> Iterator[None]:
    """What is computed inside leaves no trace outside of it.

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

    It has no hooks of the model's: what they keep or count belongs to training.  On a CUDA device
    it is worked with in a stream of its own, beside what training has left to do there.

    Args:
        model: the one that is trained, unwrapped.
        device: where the copy is kept and measured; None for where the model is.

    Raises:
        ValueError: the model has no parameters or cannot be copied.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None):
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError(f"{type(model).__name__} has no parameters to measure")
        self.live = model
        self.device = first.device if device is None else torch.device(device)
        left_out = 0
        memo = {}
        for module in model.modules():
            for kind in _HOOKS:
                hooks = getattr(module, kind)
                left_out += len(hooks)
                memo[id(hooks)] = OrderedDict()
        try:
            self.module = copy.deepcopy(model, memo).to(self.device).eval()
        except Exception as error:
            raise ValueError(f"{type(model).__name__} cannot be copied: {error}") from error
        if left_out:
            logger.warning("%d hooks of the model do not run on the copy measured", left_out)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, work goes to the copy's own stream, which waits for what training has queued."""
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
    def refresh(self) -> None:
        """Takes over the weights, buffers and what is trainable as they are now.

        Raises:
            ValueError: the model has other parameters or buffers than when the copy was made.
        """
        ours, theirs = _tensors(self.module), _tensors(self.live)
        if ours.keys() != theirs.keys():
            name = sorted(ours.keys() ^ theirs.keys())[0]
            raise ValueError(f"the model has changed since the tracker was made: {name}")
        for name, mine in ours.items():
            if isinstance(mine, nn.Parameter):
                mine.requires_grad_(theirs[name].requires_grad)
            elif mine.shape != theirs[name].shape:  # a cache that has grown
                owner, _, leaf = name.rpartition(".")
                fresh = theirs[name].detach().clone().to(self.device)
                self.module.get_submodule(owner)._buffers[leaf] = fresh
                continue
            mine.copy_(theirs[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
