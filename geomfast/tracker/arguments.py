"""Arguments of a tracker, checked before training begins."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.measures import measures as known_measures
from geomfast.measures import spec_of
from geomfast.measures.checks import whole
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.spec import OF_ACTIVATIONS
from geomfast.records import FINAL, block
from geomfast.records.part import LONGEST_TEXT

#: Of torch's own losses, which take a model's outputs and not the model.
_OF_TORCH = ("torch.nn.functional", "torch.nn.modules.loss")
_LOSS = "loss_fn(model, batch) -> (N,), one loss per sample"


def check_model(model: Any) -> None:
    """Raises TypeError for what is no module, ValueError for one without its shapes yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {_kind(model)}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name} has no shape yet: run the model once on a batch before it is tracked"
            )
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device, without values: load the model first")


def check_loss(loss_fn: Any) -> None:
    """Raises TypeError for what cannot be a loss of a model and a batch."""
    if loss_fn is None:
        return
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function, {_LOSS}, not {_kind(loss_fn)}")
    home = getattr(loss_fn, "__module__", None)
    if home in _OF_TORCH or type(loss_fn).__module__ in _OF_TORCH:
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise TypeError(
            f"loss_fn must be {_LOSS}; {name} takes outputs and targets. Write, say, def "
            "loss_fn(model, batch): x, y = batch; return "
            'torch.nn.functional.cross_entropy(model(x), y, reduction="none")'
        )


def check_settings(
    options: Any, settings: Mapping[str, Any], names: Sequence[str], **common: Any
) -> ModelSettings:
    """Settings for taking measures.

    Args:
        options: of :func:`geomfast.measures.model.options.Options`, in place of the others.
        settings: of measures, by their names.
        names: of the measures.
        common: other fields of ModelSettings.

    Raises:
        TypeError, ValueError: an argument that a tracker has not; settings of a measure that is not
            taken; a setting that cannot be right; both options and others.
    """
    if unknown := [name for name in settings if name not in known_measures()]:
        hint = "; every= and max_overhead= set how often" if unknown[0] == "cadence" else ""
        raise TypeError(
            f"Tracker has no argument {unknown[0]!r}, and there is no such measure{hint}; "
            f"there are: {', '.join(known_measures())}"
        )
    if unused := [name for name in settings if name not in names]:
        raise ValueError(f"settings of {unused[0]}, which is not among measures {[*names]}")
    asked = ModelSettings.asked(settings, **common)
    if options is None:
        return asked
    if not isinstance(options, ModelSettings):
        raise TypeError(
            f"options is {_kind(options)}: give settings to the tracker itself, as samples=64 and "
            'llc={"lr": 1e-5}'
        )
    if asked != ModelSettings():
        raise TypeError("options= says how measures are taken; give the other settings in it")
    return options


def check_layers(layers: Any) -> list[str] | None:
    """Names of layers as a list; one may stand for itself.

    Raises:
        TypeError, ValueError: something other than names; none, or one twice.
    """
    if layers is None:
        return None
    names = [layers] if isinstance(layers, str) else list(layers)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(
            f"layers must be names of modules, as model.named_modules() has them, not "
            f"{_kind(wrong[0])}"
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"layers must name modules, each once, not {names}")
    return names


def check_needs(names: Sequence[str], loss_fn: Any, data: Any, states: Any) -> None:
    """Raises ValueError where a measure lacks its loss or its samples."""
    if not names:
        raise ValueError("measures names none")
    without = [name for name in names if spec_of(name).need not in OF_ACTIVATIONS]
    if without and loss_fn is None:
        raise ValueError(
            f"{without[0]} needs loss_fn: {_LOSS}; geomfast.losses.next_token is one for "
            "language models"
        )
    if data is None and (loss_fn is not None or states is None):
        raise ValueError("data must be given: one batch of samples, or an iterable of batches")


def check_sets(sets: Mapping[str, Any], states: Any) -> None:
    """Raises ValueError for activations of one's own beside several sets of samples."""
    if states is not None and len(sets) > 1:
        raise ValueError(
            f"states(model) gives the activations of one set of samples, and data has {len(sets)}: "
            "name layers=... instead, or track each set with a tracker of its own"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raises TypeError for what has no groups of parameters with a learning rate."""
    if optimizer is None:
        return
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not all("lr" in group for group in groups):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}: its "
            "param_groups tell the learning rate"
        )


def check_names(**names: str) -> None:
    """Raises ValueError for what cannot name a task or a folder."""
    for what, text in names.items():
        wrong = not isinstance(text, str) or not text.strip() or not text.isprintable()
        if wrong or "/" in text or "\\" in text or text.startswith(".") or len(text) > LONGEST_TEXT:
            raise ValueError(
                f"{what:.80} must be a name without a slash, and without a dot at its beginning, "
                f"of at most {LONGEST_TEXT} characters, not {text!r:.80}"
            )


def check_records(out: Any, seed: Any, scale: Any, states: Any, raise_failures: Any) -> None:
    """Name of a run in the records, and their folder.

    Raises:
        TypeError, ValueError: something that cannot be right; the message names the argument.
    """
    if not isinstance(out, (str, os.PathLike)) or not os.fspath(out):
        raise TypeError(f"out must be the path of a folder, not {_kind(out)}")
    if whole("seed", seed, None) >= 1 << 63 or seed < -(1 << 63):
        raise ValueError(f"seed must be a whole number of 64 bits, not {seed}")
    if scale is not None:
        check_names(scale=scale)
    if states is not None and not callable(states):
        raise TypeError(
            f"states must be a function, states(model) -> {{layer: (N, d)}}, not {_kind(states)}"
        )
    if not isinstance(raise_failures, bool):
        raise TypeError(f"raise_failures must be True or False, not {_kind(raise_failures)}")


def check_device(device: Any) -> torch.device | None:
    """The device; None for none.

    Raises:
        ValueError: torch knows none of that name, or cannot use it here.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
        return found
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device must be one of torch's, cpu or cuda:0 say: {error}") from error


def check_states(found: Any) -> Mapping[str, Tensor]:
    """Activations by layer, as ``states(model)`` gave them.

    Raises:
        TypeError: they are not (N, d) tensors by label.
        ValueError: a label that records do not know.
    """
    if not isinstance(found, Mapping) or not found:
        raise TypeError(f"states(model) must give {{layer: (N, d)}}, not {_kind(found)}")
    known = {FINAL, *(block(i + 1) for i in range(len(found)))}
    for label, x in found.items():
        if label not in known:
            ends = block(len(found)) if len(found) > 1 else block(1)
            raise ValueError(
                f"states(model) gives a layer {label!r}; records know {block(1)!r} to {ends!r}, "
                f"the first to the last, and {FINAL!r}"
            )
        if not isinstance(x, Tensor) or x.dim() != 2:
            given = tuple(x.shape) if isinstance(x, Tensor) else _kind(x)
            raise TypeError(
                f"states(model) must give tensors (N, d), and of {label!r} it is {given}"
            )
    return found


def whole_count(name: str, value: Any) -> int:
    """A step or number of tokens; integers of NumPy and torch are.

    Raises:
        ValueError: it is none, below 0, or more than records hold.
    """
    try:
        found = operator.index(value)
    except (TypeError, RuntimeError):
        found = -1
    if not 0 <= found < 1 << 63:
        raise ValueError(f"{name} must be a whole number, 0 or more, not {value!r:.80}")
    return found


def tokens_seen(tokens: Any, failed: Callable[[str, Exception], None]) -> int | None:
    """Training tokens as records hold them; None where they were not said, or are no number."""
    try:
        return None if tokens is None else whole_count("tokens", tokens)
    except ValueError as error:
        failed("tokens", error)
        return None


def called(function: Any) -> str | None:
    """Name of a function, for the settings."""
    return getattr(function, "__qualname__", type(function).__name__) if function else None


def rank() -> int:
    """Rank of this process in distributed training, even before initialisation."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def _kind(value: Any) -> str:
    """A value as messages show it: itself where that is short, else its type."""
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
