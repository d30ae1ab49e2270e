"""Losses on other data, and of single samples and tokens, at the kept draws of chains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_loss, kind
from geomfast.estimators.batches import Batches, batches_of, count
from geomfast.estimators.calls import Losses, require_sound
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.sampling.chains import ChainGroup
from geomfast.estimators.sampling.gradients import ChainLosses
from geomfast.estimators.sampling.initial import all_parts

#: Name of the data that the chains sample from, among what is observed.
DATA = "data"


@dataclass(frozen=True)
class Observable:
    """Losses that are evaluated at every kept draw.

    Attributes:
        name: of the data.
        loss_fn: `loss_fn(model, batch) -> (N,)`, or (N, T) with one loss a token.
        batches: of the data.
        initial: (N,) or (N, T) float64, at the model's own weights. NaN where a place holds no
            token, such as padding; there all draws' losses are left out.
        dtype: of the losses, float32 or float64.
    """

    name: str
    loss_fn: LossFunction
    batches: Batches
    initial: Tensor
    dtype: torch.dtype


class Sink(Protocol):
    """Where single losses are kept."""

    def begin(self, observables: list[Observable]) -> None:
        """What is written from here on replaces what was written before."""
        ...

    def write(self, name: str, first_chain: int, draw: int, values: Tensor) -> None:
        """Losses (chains, N) or (chains, N, T), on the CPU, of one draw of neighbouring chains."""
        ...


class Observer:
    """Evaluates observables at every kept draw of groups of chains.

    Args:
        observables: by name; no two have the same.
        parameters: by name, those that are sampled.
        model: that is sampled.
        burn_in: steps of each chain before its first kept draw.
        at_once: samples of a chain that go through the model together; None for a batch.
        sink: of single losses; None where only means are asked for.
    """

    def __init__(
        self,
        observables: list[Observable],
        parameters: Mapping[str, Tensor],
        model: nn.Module,
        burn_in: int,
        at_once: int | None,
        sink: Sink | None,
    ):
        self.observables, self.parameters, self.model = observables, parameters, model
        self.burn_in, self.at_once, self.sink = burn_in, at_once, sink
        self.begin()

    def begin(self) -> None:
        """Forgets all draws."""
        self._means: dict[str, list[tuple[int, int, Tensor]]] = {
            one.name: [] for one in self.observables
        }
        # Groups that have been run are let go of, with their weights.
        self._calls: WeakKeyDictionary[ChainGroup, dict[str, ChainLosses]] = WeakKeyDictionary()
        if self.sink is not None:
            self.sink.begin(self.observables)

    def before(self, group: ChainGroup) -> None:
        """Takes the losses at a group's weights, where they are a kept draw."""
        if group.taken < self.burn_in:
            return
        for one in self.observables:
            if not _seen(one, group):
                self._take(one, group, self._values(one, group))

    def after(self, group: ChainGroup) -> None:
        """Takes those losses of a kept draw that the step has computed itself."""
        if group.taken < self.burn_in:
            return
        for one in self.observables:
            if _seen(one, group):
                assert group.seen is not None
                self._take(one, group, group.seen.cpu().clone())

    def _take(self, one: Observable, group: ChainGroup, values: Tensor) -> None:
        if values.shape[1:] != one.initial.shape:
            raise ValueError(
                f"observe: losses of {one.name!r} have shape {tuple(values.shape[1:])} at a draw, "
                f"and had {tuple(one.initial.shape)} at the model's own weights"
            )
        draw = group.taken - self.burn_in
        values[~group.active.cpu()] = torch.nan
        means = sample_means(values, one.initial).mean(1)
        self._means[one.name].append((group.first_chain, draw, means))
        if self.sink is not None:
            self.sink.write(one.name, group.first_chain, draw, values.to(one.dtype))

    def means(self, name: str, chains: int, draws: int) -> Tensor:
        """(C, D) float64: the mean loss of each kept draw; NaN where a chain has diverged."""
        found = torch.full((chains, draws), torch.nan, dtype=torch.float64, device="cpu")
        for first, draw, means in self._means[name]:
            found[first : first + len(means), draw] = means
        return found

    def _values(self, one: Observable, group: ChainGroup) -> Tensor:
        """(C, N) or (C, N, T), on the CPU."""
        calls = self._calls.setdefault(group, {})
        if one.name not in calls:
            weights = group.state.weights
            calls[one.name] = ChainLosses(self.model, one.loss_fn, self.parameters, weights)
        call = calls[one.name]
        with torch.no_grad():
            found = [call.values(part, True) for _, _, part in all_parts(one.batches, self.at_once)]
        return torch.cat(found, 1).cpu()


def _seen(one: Observable, group: ChainGroup) -> bool:
    """Whether a step of the chains computes these losses anyway."""
    return one.name == DATA and group.seen is not None


def sample_means(values: Tensor, initial: Tensor) -> Tensor:
    """(..., N) float64: a sample's loss, of (..., N) or the mean over tokens of (..., N, T).

    Args:
        values: losses.
        initial: (N,) or (N, T) at the model's own weights, NaN where there is no token.
    """
    values = values.double()
    if initial.dim() == 1:
        return values
    tokens = ~initial.isnan()
    return torch.where(tokens, values, 0.0).sum(-1) / tokens.sum(-1)


def observables_of(
    observe: Mapping[str, Any] | None,
    losses: Losses,
    model: nn.Module,
    data: Batches | None,
    at_once: int | None,
) -> list[Observable]:
    """What the argument `observe` of `geomfast.llc` asks for.

    Args:
        observe: name -> data, or name -> (loss_fn, data).
        losses: of the chains.
        model: that is sampled.
        data: of the chains, where it is to be observed too.
        at_once: samples that go through the model together.

    Raises:
        TypeError, ValueError: with the name of the data.
    """
    given = _given(observe)
    asked: list[tuple[str, LossFunction, Batches]] = []
    if data is not None:
        asked.append((DATA, losses, data))
    for name, (loss_fn, batches) in given.items():
        own, prepared = losses.beside(loss_fn, batches)
        asked.append((name, own, prepared))
    return [_observable(name, fn, batches, losses, model, at_once) for name, fn, batches in asked]


def _given(observe: Mapping[str, Any] | None) -> dict[str, tuple[LossFunction | None, Batches]]:
    if observe is None:
        return {}
    found: dict[str, tuple[LossFunction | None, Batches]] = {}
    for name, value in observe.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"observe: a name must be text, not {kind(name)}")
        if name == DATA:
            raise ValueError(f"observe: {DATA!r} is the name of the chains' own data")
        loss_fn = None
        if isinstance(value, tuple) and len(value) == 2 and callable(value[0]):
            loss_fn, value = value
            check_loss(loss_fn)
        try:
            found[name] = (loss_fn, batches_of(value))
            for batch in found[name][1]:
                count(batch, least=1)
        except (TypeError, ValueError) as error:
            raise type(error)(f"observe: {name!r}: {error}") from error
    return found


def _observable(
    name: str,
    loss_fn: LossFunction,
    batches: Batches,
    losses: Losses,
    model: nn.Module,
    at_once: int | None,
) -> Observable:
    found, of = [], f"observe: losses of {name!r}"
    with torch.no_grad():
        for _, _, part in all_parts(batches, at_once):
            found.append(_checked(loss_fn(model, part), count(part, least=1), of))
        if len({x.shape[1:] for x in found}) > 1:
            shapes = sorted({tuple(x.shape[1:]) for x in found})
            raise ValueError(f"{of} have as many tokens a sample as {shapes}: pad to one length")
        initial = torch.cat(found).double().cpu()
        bad = initial.isinf() if initial.dim() == 2 else ~initial.isfinite()
        if initial.dim() == 2:
            bad |= initial.isnan().all(1, keepdim=True)
        if bad.any():
            sample = int(bad.nonzero()[0, 0])
            raise ValueError(f"{of}: that of sample {sample} is not finite at the model's weights")
        if loss_fn is not losses:  # those of the chains are checked there
            first = next(part for _, _, part in all_parts(batches, at_once))

            def reduced(model: nn.Module, batch: Any) -> Tensor:
                each = loss_fn(model, batch)
                return each if each.dim() == 1 else each.nanmean(1)

            checked, _ = losses.beside(reduced, Batches([first]))
            require_sound(checked, model, first, checked(model, first))
    dtype = torch.float64 if found[0].dtype == torch.float64 else torch.float32
    return Observable(name, loss_fn, batches, initial, dtype)


def _checked(values: Any, samples: int, of: str) -> Tensor:
    """Losses (N,) or (N, T)."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        what = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{of} must be a floating-point tensor, not {what}")
    if values.dim() not in (1, 2) or values.shape[0] != samples or not values.numel():
        raise ValueError(
            f"{of} must have shape ({samples},), or ({samples}, tokens), not {tuple(values.shape)}"
        )
    return values
