"""Batches as loaders and tokenizers make them: which tensors they hold, and how to take samples.

A batch is any nest of tuples, lists, mappings (a tokenizer's `BatchEncoding` among them) and
whatever torch's pytrees know, with N samples along the first dimension of every tensor in it. What
is not a tensor passes through untouched.
"""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)


class Batches(list):
    """Several batches; a plain list of tensors is a single one."""


def in_drawn_order(data: Any) -> bool:
    """Whether a DataLoader draws the order of its samples, which nothing else can follow."""
    drawn = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    if not isinstance(data, DataLoader):
        return False
    samplers = (data.sampler, getattr(data.batch_sampler, "sampler", None))
    return any(isinstance(sampler, drawn) for sampler in samplers)


def warn_of_order(given: Mapping[str, Any]) -> None:
    """Warn of results with a row for every sample where a loader draws their order.

    Args:
        given: data by the name of the argument.
    """
    for name, data in given.items():
        if in_drawn_order(data):
            warnings.warn(
                f"{name}: a DataLoader that shuffles: samples are in the order in which it gave "
                "them, which is not that of its data set; shuffle=False keeps that",
                stacklevel=3,
            )


def batches_of(data: Any) -> Batches:
    """The batches of `data`.

    One batch is a tensor, a tuple, a mapping, or a list with a tensor in it whose tensors share
    their first dimension, as a DataLoader makes them ([x, y]). Everything else is iterated over.
    Random numbers of a loader's own generator and of the global ones are drawn as if it had not
    been.

    Raises:
        ValueError: there is no batch.
    """
    if isinstance(data, Batches):
        return data
    if isinstance(data, (Tensor, tuple, Mapping)) or _is_one_batch(data):
        _refuse_meta(data)
        return Batches([data])
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise ValueError(
            f"batch holds no tensor: {type(data).__name__} is neither a batch (tensors, or a "
            "tuple, list or mapping of them) nor an iterable of batches"
        )
    with generators_restored(data):
        batches = Batches(data)
    if not batches:
        raise ValueError("data holds no batch")
    return batches


def one_batch(data: Any) -> Any:
    """All samples of `data` as one batch.

    Raises:
        ValueError: as `batches_of`, or batches that cannot be joined.
    """
    batches = batches_of(data)
    try:
        return joined(batches)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"all samples have to go through the model together, but the batches of data cannot "
            f"be joined: {error}; pad them to one shape"
        ) from error


def _refuse_meta(batch: Any) -> None:
    if any(x.is_meta for x in tensors_of(batch)):
        raise ValueError("data is on the meta device, without values")


def _is_one_batch(data: Any) -> bool:
    if not isinstance(data, list) or not any(isinstance(x, Tensor) for x in data):
        return False
    return len({x.shape[:1] for x in tensors_of(data)}) == 1


@contextlib.contextmanager
def generators_restored(loader: Any) -> Iterator[None]:
    """Puts back what iterating draws: a DataLoader takes a seed and an order of its own."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = (
        *(loader, getattr(loader, "sampler", None)),
        *(batch_sampler, getattr(batch_sampler, "sampler", None)),
    )
    found = {
        id(generator): generator
        for place in places
        if isinstance(generator := getattr(place, "generator", None), torch.Generator)
    }
    states = [(generator, generator.get_state()) for generator in found.values()]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for generator, state in states:
                generator.set_state(state)


def mapped(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with function(x) in place of every tensor x, in containers of the same kind."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, (dict, UserDict)):
        # A copy keeps the class, its attributes and the keys' order.
        new = copy.copy(batch)
        for key, value in batch.items():
            new[key] = mapped(function, value)
        return new
    if isinstance(batch, Mapping):
        return {key: mapped(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        values = [mapped(function, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    if isinstance(batch, list):
        return [mapped(function, value) for value in batch]
    return tree_map_only(Tensor, function, batch)


def tensors_of(batch: Any) -> list[Tensor]:
    """The batch's tensors, in the order of `mapped`."""
    found: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        found.append(x)
        return x

    mapped(note, batch)
    return found


def with_tensors(batch: Any, tensors: list[Tensor]) -> Any:
    """The batch with these in place of `tensors_of(batch)`."""
    following = iter(tensors)
    return mapped(lambda _: next(following), batch)


def usable(batch: Any) -> Any:
    """The batch with copies of what was made in inference mode, which autograd cannot save."""
    return mapped(lambda x: x.clone() if x.is_inference() else x, batch)


def count(batch: Any, least: int = 2) -> int:
    """N, the samples of a batch.

    Raises:
        ValueError: no tensor, tensors that differ in their first dimension, or fewer than `least`.
    """
    tensors = tensors_of(batch)
    if not tensors:
        raise ValueError("batch holds no tensor")
    sizes = {x.shape[0] if x.dim() else 0 for x in tensors}
    if len(sizes) != 1:
        shapes = [tuple(x.shape) for x in tensors]
        raise ValueError(f"tensors of batch must share their first dimension N, not {shapes}")
    (samples,) = sizes
    if samples < least:
        raise ValueError(f"batch has N = {samples} samples; N >= {least} is needed")
    return samples


def index_batch(batch: Any, indices: Tensor) -> Any:
    """The samples of a batch at these indices, of any shape, which come first."""
    return mapped(lambda x: x[indices.to(x.device)], batch)


def some_of(batch: Any, at_most: int) -> tuple[Tensor, Any]:
    """A few samples, spread over the batch by a fixed seed: their numbers, ascending, and them."""
    samples = count(batch, least=1)
    which = shuffled(samples)[: min(at_most, samples)].sort().values
    return which, index_batch(batch, which)


def shuffled(samples: int) -> Tensor:
    """Numbers of so many samples in an order that a fixed seed draws, on the CPU."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(0), device="cpu")


def parts(batch: Any, size: int | None) -> Iterator[tuple[int, Any]]:
    """A batch in parts of at most so many samples, as views: the first sample's number, a part.

    Args:
        batch: any batch.
        size: None for all of it in one.
    """
    samples = count(batch, least=1)
    size = min(size or samples, samples)
    for first in range(0, samples, size):
        yield first, mapped(lambda x, s=slice(first, first + size): x[s], batch)


def joined(batches: list[Any]) -> Any:
    """One batch of all samples, in the containers of the first.

    Raises:
        ValueError, RuntimeError: the batches differ in more than their number of samples.
    """
    if len(batches) == 1:
        return batches[0]
    if any(_layout(batch) != _layout(batches[0]) for batch in batches):
        raise ValueError("they hold their tensors otherwise than the first")
    each = [tensors_of(batch) for batch in batches]
    return with_tensors(batches[0], [torch.cat(same) for same in zip(*each, strict=True)])


def _layout(batch: Any) -> Any:
    """Where a batch holds tensors."""
    if isinstance(batch, Mapping):
        return {key: _layout(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [_layout(value) for value in batch]
    return len(tensors_of(batch))
