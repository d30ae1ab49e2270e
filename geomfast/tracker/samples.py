"""The samples that a tracker measures on: drawn once, and the same ones every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geomfast.estimators.batches import (
    Batches,
    batches_of,
    count,
    generators_restored,
    index_batch,
    mapped,
    tensors_of,
)
from geomfast.tracker.arguments import check_names

#: What a set of samples is called that is the only one.
ONLY = "probe"
#: A batch is a nest of these.
_NESTS = (tuple, list, Mapping)
_NO_DATA = (Tensor, np.ndarray, str, bytes)


class SampleSets(dict[str, Any]):
    """Sets of samples by name, for what as a plain mapping would be one batch.

    ``SampleSets(train=x_train, test=x_test)``, with one batch or an iterable of batches each.
    """


def sample_sets(data: Any, name: str, most: int | None, device: torch.device) -> dict[str, Batches]:
    """The sets of samples that `data` is, by name.

    A mapping is one of sets where all of its keys are texts and each of its values is data by
    itself: a nest that holds tensors, or an iterable other than a nest.

    Args:
        data: as :func:`samples_of` takes it, or a mapping of such data; None for none.
        name: of a single set.
        most, device: as :func:`samples_of` takes them, of every set.

    Raises:
        TypeError, ValueError: as :func:`samples_of`; a set whose name cannot be that of a task; a
            name beside sets that have their own; a mapping of tensors and of iterables, of which it
            is not clear what it is.
    """
    if data is None:
        return {name: Batches()}
    found = {}
    for key, one in _sets(data, name).items():
        try:
            found[key] = samples_of(one, most, device)
        except (TypeError, ValueError) as error:
            if one is data:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"data[{key!r}]: {error}") from error
    return found


def described(sets: Mapping[str, Batches]) -> tuple[dict[str, str], dict[str, Any]]:
    """Hashes of sets of samples by name, and what settings say of them all."""
    hashes = {name: data_hash(batches) for name, batches in sets.items()}
    numbers = {
        name: sum(count(batch, least=1) for batch in batches) for name, batches in sets.items()
    }
    if len(sets) > 1:
        return hashes, {"name": ", ".join(sorted(sets)), "data": hashes, "samples": numbers}
    ((name, samples),) = numbers.items()
    return hashes, {"name": name, "data": hashes[name], "samples": samples}


def _sets(data: Any, name: str) -> dict[str, Any]:
    sets = isinstance(data, SampleSets)
    if isinstance(data, Mapping) and not sets and all(isinstance(key, str) for key in data):
        kinds = {key: _is_data(value) for key, value in data.items()}
        tensors = [key for key, value in data.items() if isinstance(value, Tensor)]
        loaders = [k for k, v in data.items() if kinds[k] and not isinstance(v, _NESTS)]
        if tensors and loaders:
            raise ValueError(
                f"data[{tensors[0]!r}] is a tensor, as in a batch, and data[{loaders[0]!r}] gives "
                "batches, as a set of samples: gf.SampleSets(data) makes each a set"
            )
        sets = bool(data) and not tensors and all(kinds.values())
    if not sets:
        return {name: data}
    if name != ONLY:
        raise ValueError(f"name={name!r} is of a single set of samples; data names its sets itself")
    if not data:
        raise ValueError("data holds no set of samples")
    check_names(**{f"the set {key!r} of data": key for key in data})
    return dict(data)


def _is_data(value: Any) -> bool:
    """Whether a value of a mapping is data, or a dataset that only lacks its loader."""
    if isinstance(value, _NESTS):
        return bool(tensors_of(value))
    several = isinstance(value, Iterable) or hasattr(value, "__getitem__")
    return several and not isinstance(value, _NO_DATA)


def samples_of(data: Any, most: int | None, device: torch.device) -> Batches:
    """The batches of `data`, as far as its first `most` samples.

    Args:
        data: one batch (a tensor, tuple or mapping, or a list of tensors with one first dimension,
            as a DataLoader gives), or an iterable of batches, of which no more are drawn than are
            needed. A DataLoader's generator is as it was afterwards.
        most: None for all.
        device: where the batches go.

    Raises:
        TypeError: it is neither of the two.
        ValueError: fewer than two samples, a batch whose tensors do not agree on them, or batches
            of which one is made otherwise than the first.
    """
    if isinstance(data, (Tensor, tuple, Mapping)) or (
        isinstance(data, list) and data and batches_of(data)[0] is data
    ):
        data = [data]
    elif isinstance(data, str) or not isinstance(data, Iterable):
        dataset = hasattr(data, "__getitem__") and hasattr(data, "__len__")
        hint = ": a DataLoader makes batches of it" if dataset and not isinstance(data, str) else ""
        raise TypeError(f"data must be a batch or an iterable of batches, not {data!r}{hint}")
    kept = Batches()
    samples = 0
    with generators_restored(data):
        for batch in data:
            # What a tokenizer gives is a mapping, but no dictionary that torch looks into.
            batch = dict(batch) if isinstance(batch, Mapping) else batch
            has = _samples(batch)
            if most is not None and samples + has > most:
                batch, has = (
                    index_batch(batch, torch.arange(most - samples, device="cpu")),
                    most - samples,
                )
            # Cloned, for a loader may use its memory again.
            kept.append(mapped(lambda x: x.detach().clone().to(device), batch))
            samples += has
            if samples == most:
                break
    if samples < 2:
        raise ValueError(f"data has {samples} samples; 2 or more are needed")
    _check_alike(kept)
    return kept


def data_hash(batches: Iterable[Any]) -> str:
    """16 hexadecimal digits that name all tensors of some batches."""
    digest = hashlib.sha256()
    for tensor in (one for batch in batches for one in tensors_of(batch)):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _samples(batch: Any) -> int:
    """Number of samples in a batch of `data`."""
    tensors = tensors_of(batch)
    if not tensors:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in tree_leaves(batch)})) or "nothing"
        raise ValueError(
            f"a batch of data holds no tensor, but {kinds}: use torch.as_tensor, "
            "or for the rows of a data set a DataLoader, with the collate_fn that training uses"
        )
    try:
        return count(batch, least=1)
    except ValueError as error:
        single = any(x.dim() == 0 for x in tensors)
        hint = "; a DataLoader puts single samples together" if single else ""
        raise ValueError(f"data: {error}{hint}") from error


def _check_alike(batches: list[Any]) -> None:
    """Raises ValueError where batches differ in more than the sizes of their tensors."""
    made = [[(x.dtype, x.dim()) for x in tensors_of(batch)] for batch in batches]
    for batch, other in zip(batches, made, strict=True):
        if other != made[0]:
            one, two = (_shapes(b) for b in (batches[0], batch))
            raise ValueError(
                f"the batches of data are not alike: one has the shapes {one}, another {two}; a "
                "list holds batches, and inputs with their targets are one as a tuple: data=(x, y)"
            )


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in tensors_of(batch)]
