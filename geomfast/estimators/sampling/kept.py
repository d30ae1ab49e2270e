"""Losses of single samples at every kept draw, in memory or read from a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from geomfast.estimators.arguments import check_flag, check_number, kind
from geomfast.estimators.sampling.observe import DATA, Observable, sample_means


@dataclass(frozen=True)
class Rows:
    """Losses of some chains at some draws.

    Attributes:
        chains, draws: (R,) int64, of each row.
        losses: (R, N) or (R, N, T).
    """

    chains: Tensor
    draws: Tensor
    losses: Tensor


class Source(Protocol):
    """Where kept losses are read from."""

    def rows(self, name: str) -> Iterator[Rows]:
        """All rows of a data set, some at a time."""
        ...


class InMemory:
    """A sink, and the source of what was written to it."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Rows]] = {}

    def begin(self, observables: list[Observable]) -> None:
        """As `geomfast.estimators.sampling.observe.Sink`."""
        self._rows = {one.name: [] for one in observables}

    def write(self, name: str, first_chain: int, draw: int, values: Tensor) -> None:
        """As `geomfast.estimators.sampling.observe.Sink`."""
        chains = torch.arange(first_chain, first_chain + len(values), device="cpu")
        self._rows[name].append(Rows(chains, torch.full_like(chains, draw), values))

    def rows(self, name: str) -> Iterator[Rows]:
        """As `Source`."""
        yield from self._rows[name]

    def fill(self, name: str, losses: Tensor) -> None:
        """Takes (C, D, ...) losses, in place of any that were written."""
        chains = torch.arange(len(losses), device="cpu")
        self._rows[name] = [
            Rows(chains, torch.full_like(chains, draw), losses[:, draw])
            for draw in range(losses.shape[1])
        ]


@dataclass(frozen=True)
class SampledLosses:
    """Losses of every sample at the kept draws of chains: one run, from which much can be computed.

    Made by `geomfast.llc(..., keep_losses=...)`, or read by `geomfast.load_losses`.

    Attributes:
        shapes: name -> (chains C, draws D, samples N), or (C, D, N, T) with losses of tokens.
            "data" is what the chains sample from; the others are what was observed.
        initial: name -> (N,) or (N, T) float64, losses at the model's own weights; NaN where a
            place holds no token.
        diverged: (C,) bool.
        nbeta: of the chains.
        samples: n of the chains' data.
        localization: of the chains.
        source: of the losses.
    """

    shapes: Mapping[str, tuple[int, ...]]
    initial: Mapping[str, Tensor]
    diverged: Tensor
    nbeta: float
    samples: int
    localization: float
    source: Source

    @classmethod
    def of(
        cls,
        losses: Mapping[str, Tensor],
        *,
        nbeta: float,
        samples: int | None = None,
        initial: Mapping[str, Tensor] | None = None,
        localization: float = math.nan,
    ) -> SampledLosses:
        """Losses that something else has sampled.

        Args:
            losses: name -> (C, D, N) or (C, D, N, T), "data" among them; C and D are the same.
            nbeta: of the chains.
            samples: n of their data; None for N of "data".
            initial: name -> (N,) or (N, T), at the weights that the chains began from. What needs
                one that is not there is refused.
            localization: of the chains.

        Returns:
            Chains with a NaN in their losses are taken for diverged; (C, D, N, T) has no places
            without tokens unless `initial` is NaN there.

        Raises:
            TypeError, ValueError: losses are not what they must be.
        """
        check_number(nbeta=nbeta, localization=localization)
        if not isinstance(losses, Mapping):
            raise TypeError(f"losses must map names to tensors, not be {kind(losses)}")
        for name, x in losses.items():
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise TypeError(f"losses of {name!r} must be a floating-point tensor")
        if DATA not in losses:
            raise ValueError(f"losses must have {DATA!r}, what chains sample from: {list(losses)}")
        shapes = {name: tuple(x.shape) for name, x in losses.items()}
        if any(len(s) not in (3, 4) or 0 in s for s in shapes.values()):
            raise ValueError(f"losses must be (C, D, N) or (C, D, N, T), not {shapes}")
        if len({shape[:2] for shape in shapes.values()}) != 1:
            raise ValueError(f"losses must be of the same chains C and draws D, not {shapes}")
        source, first = InMemory(), {}
        diverged = torch.zeros(shapes[DATA][0], dtype=torch.bool, device="cpu")
        for name, x in losses.items():
            x = x.detach().cpu()
            source.fill(name, x)
            there = None if initial is None else initial.get(name)
            if there is None:
                # Not known; NaN would say that no place holds a token.
                there = torch.full(shapes[name][2:], math.inf, device="cpu")
            elif there.shape != shapes[name][2:]:
                raise ValueError(
                    f"initial losses of {name!r} must be {shapes[name][2:]}, not "
                    f"{tuple(there.shape)}"
                )
            first[name] = there.detach().double().cpu()
            diverged |= x[:, :, ~first[name].isnan()].isnan().flatten(1).any(1)
        if samples is None:
            samples = shapes[DATA][2]
        return cls(shapes, first, diverged, float(nbeta), samples, float(localization), source)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the data sets."""
        return tuple(self.shapes)

    def read(self, name: str = DATA, *, tokens: bool = False) -> Tensor:
        """Losses of one data set.

        Args:
            name: of the data set.
            tokens: whether losses of single tokens are returned where there are any; otherwise a
                sample's loss is their mean, and no more than that is in memory.

        Returns:
            (C, D, N) float64, or (C, D, N, T) with tokens; NaN in the draws of a chain from where
            it has diverged.

        Raises:
            ValueError: no such data set.
        """
        self.require(name)
        check_flag(tokens=tokens)
        shape, initial = self.shapes[name], self.initial[name]
        shape = shape if tokens else shape[:3]
        found = torch.full(shape, torch.nan, dtype=torch.float64, device="cpu")
        for rows in self.source.rows(name):
            losses = rows.losses.double() if tokens else sample_means(rows.losses, initial)
            found[rows.chains, rows.draws] = losses
        return found

    def stayed(self, name: str = DATA, *, tokens: bool = False) -> Tensor:
        """As `read`, of the chains that have not diverged, whose losses are all finite.

        Raises:
            ValueError: no such data set; no chain is left; a single draw; a loss is not finite.
        """
        losses = self.read(name, tokens=tokens)[~self.diverged]
        real = torch.ones(losses.shape[2:], dtype=torch.bool, device="cpu")
        if tokens and self.initial[name].dim() == 2:
            real = ~self.initial[name].isnan()
        bad = ~losses[:, :, real].isfinite().flatten(1).all(1)
        if bad.any():
            chain = int((~self.diverged).nonzero()[int(bad.nonzero()[0])])
            raise ValueError(
                f"losses of {name!r} at the draws of chain {chain} are not finite, though the "
                "chain has not diverged: lower lr, or raise localization"
            )
        if losses.shape[0] == 0:
            raise ValueError(f"all {len(self.diverged)} chains have diverged: lower lr")
        if losses.shape[0] * losses.shape[1] < 2:
            raise ValueError("losses of a single draw have no covariance: more draws")
        return losses

    def initial_of(self, name: str = DATA) -> Tensor:
        """(N,) float64: the samples' losses at the model's own weights.

        Raises:
            ValueError: no such data set; they are not known.
        """
        self.require(name)
        found = sample_means(self.initial[name], self.initial[name])
        if not found.isfinite().all():
            raise ValueError(f"the losses of {name!r} at the model's own weights are not known")
        return found

    def require(self, name: str) -> None:
        """Raises ValueError where there is no data set of this name."""
        if not isinstance(name, str) or name not in self.shapes:
            raise ValueError(f"no losses are kept of {kind(name)}: there are {list(self.shapes)}")
