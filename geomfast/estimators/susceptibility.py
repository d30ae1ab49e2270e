"""Susceptibilities: how a component of a model answers to a shift of the data distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_flag, check_whole, kind
from geomfast.estimators.batches import batches_of
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.llc import LLC, llc
from geomfast.estimators.sampling.covariance import Batching, batched, batching, verdict
from geomfast.estimators.sampling.keeping import check_keeping
from geomfast.estimators.sampling.kept import SampledLosses
from geomfast.estimators.sampling.steps import listed
from geomfast.files import inside, plain_name

#: Name of the chains of all parameters among `Susceptibility.runs`.
FULL = "full"
_REFERENCES = ("full", "component")


@dataclass(frozen=True)
class Susceptibility:
    """Susceptibilities of K components to data sets, in units of the loss squared.

    Attributes:
        components: their names, in the order of all rows.
        values: data set -> (K, N) float64, to each of its samples; (K, N, T) to each of its tokens.
        stderr: the same, Monte Carlo standard errors, widened for few batches of draws.
        mean: data set -> (K,), to a shift towards the data set as a whole: the mean over samples.
        mean_stderr: its standard error.
        nbeta: of the chains; d E[phi] / dh = nbeta times a susceptibility.
        reference: over which draws the mean of loss differences is taken: "full" or "component".
        verdicts: component -> in words: converged, usable, or what is wrong.
        runs: component -> the estimate of its chains, and "full" of those of all parameters; empty
            where only losses were given.
    """

    components: tuple[str, ...]
    values: Mapping[str, Tensor]
    stderr: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]
    mean_stderr: Mapping[str, Tensor]
    nbeta: float
    reference: str
    verdicts: Mapping[str, str]
    runs: Mapping[str, LLC] = field(default_factory=dict)


def susceptibility(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    components: Mapping[str, Iterable[str] | str],
    observe: Mapping[str, Any] | None = None,
    reference: str = "full",
    tokens: bool = False,
    seed: int = 0,
    keep_losses: str | Path | None = None,
    **sampling: Any,
) -> Susceptibility:
    r"""Susceptibilities of components to samples, tokens and data sets.

    Baker, Wang, Hoogland and Murfet (2025), "Structural inference: interpreting small language
    models with susceptibilities". For a component C whose parameters are moved while all others
    stay, phi = L(w) - L(w0) over the data, and a probe loss l with dL = l - L,

        chi = -( E_C[phi dL] - E_C[phi] E[dL] ),

    E_C over chains of the component's parameters and E over chains of all parameters (reference
    "full", as in the paper), or of the component's again ("component", when chi is
    -Cov_C(phi, dL)). It is 1 / nbeta times the derivative of E[phi] by h where the data
    distribution goes from q to q + h (q' - q), and holds no factor nbeta. It is negative where the
    loss on the probe, less that over data, is large in those draws whose loss over data is.

    Args:
        model: any module.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        data: of q, as in `geomfast.llc`, whose chains sample from it.
        components: name -> names of parameters with shell wildcards, or heads of attention
            ("blocks.0 head 1"), as `params` of `geomfast.llc`.
        observe: probes: name -> data, or name -> (loss_fn, data), whose loss_fn may return (N, T).
            The samples of data are probes too, named "data".
        reference: "full" or "component".
        tokens: whether losses of tokens are told apart, where a probe has them.
        seed: of the chains; those of every component have noise of their own.
        keep_losses: path of a new folder for the losses of all draws, one folder a component within
            it (`geomfast.load_losses`); None to have them in memory.
        sampling: arguments of `geomfast.llc`: lr, nbeta, localization, momentum, chains, draws and
            others, the same for all components. An automatic lr, found for each of them, needs a
            localization that is a number, so that all chains have the same.

    Returns:
        `values`, `stderr`, `mean` and more: see `Susceptibility`.

    Raises:
        TypeError, ValueError: as `geomfast.llc`; components are none, or a reference is unknown.
        geomfast.files.FileError: keep_losses holds something, or a component's name is no name of a
            folder.

    Example:
        found = gf.susceptibility(
            model, loss_fn, data, components={"mlp 0": "blocks.0.mlp*", "mlp 1": "blocks.1.mlp*"},
            observe={"code": code}, lr=1e-4, nbeta=30.0, localization=300.0,
        )
        found.mean["code"]  # one value for each component
    """
    _check(components, reference)
    check_flag(tokens=tokens)
    check_whole(0, most=(1 << 64) - 1, seed=seed)
    if "params" in sampling:
        raise TypeError("params is no argument of susceptibility: components are")
    _require_one_localization(sampling)
    folder = None if keep_losses is None else _folder(keep_losses, components)
    batches = batches_of(data)
    probes = None if observe is None else {name: _reusable(x) for name, x in observe.items()}
    asked: dict[str, Any] = {name: listed(patterns) for name, patterns in components.items()}
    if reference == FULL:
        asked[FULL] = None
    runs: dict[str, LLC] = {}
    for number, (name, patterns) in enumerate(asked.items()):
        try:
            runs[name] = llc(
                model, loss_fn, batches, params=patterns, observe=probes, seed=_seed(seed, number),
                keep_losses=True if folder is None else inside(folder, name), **sampling,
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise type(error)(f"component {name!r}: {error}") from error
    losses = {name: _losses(run) for name, run in runs.items()}
    return _susceptibility(
        {name: losses[name] for name in components}, losses.get(FULL), tokens, runs
    )


def susceptibility_from_losses(
    components: Mapping[str, SampledLosses],
    full: SampledLosses | None = None,
    *,
    tokens: bool = False,
) -> Susceptibility:
    """Susceptibilities from kept losses: see `geomfast.susceptibility`.

    Args:
        components: name -> losses of chains of that component's parameters, of the same data sets.
        full: of chains of all parameters; None for the reference "component".
        tokens: whether losses of tokens are told apart, where they are kept.

    Raises:
        TypeError: losses are none.
        ValueError: data sets, nbeta or localization differ; losses at the model's own weights are
            not known.
    """
    if not isinstance(components, Mapping) or not components:
        raise TypeError(f"components must map names to SampledLosses, not be {kind(components)}")
    every = {**components} if full is None else {**components, FULL: full}
    for name, losses in every.items():
        if not isinstance(losses, SampledLosses):
            raise TypeError(f"losses of {name!r} must be SampledLosses, not {kind(losses)}")
    check_flag(tokens=tokens)
    return _susceptibility(components, full, tokens, {})


def _check(components: Any, reference: Any) -> None:
    if not isinstance(components, Mapping) or not components:
        raise TypeError(
            "components must map names to patterns of parameters' names, not be "
            f"{kind(components)}{' (empty)' if isinstance(components, Mapping) else ''}"
        )
    for name in components:
        if not isinstance(name, str) or not name:
            raise TypeError(f"components: a name must be text, not {kind(name)}")
    if reference not in _REFERENCES:
        raise ValueError(f"reference must be 'full' or 'component', not {kind(reference)}")
    if FULL in components and reference == FULL:
        raise ValueError(f"components: {FULL!r} is the name of all parameters")


def _require_one_localization(sampling: Mapping[str, Any]) -> None:
    """Raises where components would get chains of different localizations, which have no
    susceptibility to one reference."""
    given, lr = sampling.get("localization"), sampling.get("lr", "auto")
    if isinstance(given, str) or (given is None and isinstance(lr, str)):
        raise ValueError(
            "localization must be a number, the same for the chains of all components, not "
            f"{kind(given)}"
        )


def _folder(path: Any, components: Mapping[str, Any]) -> Path:
    if isinstance(path, bool):
        raise TypeError(f"keep_losses must be a path, not {path}")
    check_keeping(None, path)
    for name in components:
        plain_name(name, "component")
    return Path(path)


def _reusable(probe: Any) -> Any:
    """A probe whose data can be gone through once for each component."""
    if isinstance(probe, tuple) and len(probe) == 2 and callable(probe[0]):
        return probe[0], batches_of(probe[1])
    return batches_of(probe)


def _seed(seed: int, number: int) -> int:
    """Of a component's chains: entries of the same number would have the same noise."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _losses(run: LLC) -> SampledLosses:
    assert run.losses is not None
    return run.losses


def _susceptibility(
    components: Mapping[str, SampledLosses],
    full: SampledLosses | None,
    tokens: bool,
    runs: Mapping[str, LLC],
) -> Susceptibility:
    every = [*components.values(), *([] if full is None else [full])]
    first = every[0]
    for losses in every[1:]:
        if {n: s[2:] for n, s in losses.shapes.items()} != {
            n: s[2:] for n, s in first.shapes.items()
        }:
            raise ValueError("losses of components must be of the same data sets")
        if losses.nbeta != first.nbeta:
            raise ValueError(f"nbeta must be the same, not {first.nbeta:g} and {losses.nbeta:g}")
        known = [first.localization, losses.localization]
        if not any(map(math.isnan, known)) and not math.isclose(*known):
            raise ValueError(f"localization must be the same, not {known[0]:g} and {known[1]:g}")
    found: dict[str, dict[str, list[Tensor]]] = {
        what: {name: [] for name in first.names} for what in ("values", "stderr", "mean", "error")
    }
    verdicts = {}
    for name, losses in components.items():
        phi = losses.stayed().mean(2) - losses.initial_of().mean()
        worst = None
        for probe in first.names:
            one = _Probe(losses, full, probe, tokens)
            for into, value in zip(found.values(), one.answers(phi), strict=True):
                into[probe].append(value)
            worst = one.how.worst if worst is None or one.how.worst.ess < worst.ess else worst
        assert worst is not None
        verdicts[name] = verdict(worst, runs[name].verdict if name in runs else "")
    values, stderr, mean, error = (
        {name: torch.stack(rows) for name, rows in of.items()} for of in found.values()
    )
    return Susceptibility(
        components=tuple(components),
        values=values,
        stderr=stderr,
        mean=mean,
        mean_stderr=error,
        nbeta=first.nbeta,
        reference="component" if full is None else FULL,
        verdicts=verdicts,
        runs=runs,
    )


class _Probe:
    """A component's susceptibilities to one data set.

    Args:
        losses: of the component's chains.
        full: of the chains of all parameters; None for the component's own mean.
        probe: name of the data set.
        tokens: whether its tokens are told apart.
    """

    def __init__(self, losses: SampledLosses, full: SampledLosses | None, probe: str, tokens: bool):
        self.own = _differences(losses, probe, tokens)
        self.of_full = None if full is None else _differences(full, probe, tokens)
        self.how = batching(self.own, losses.stayed().mean(2))

    def answers(self, phi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """To each sample or token, (N,) or (N, T), and its error; to their mean, and its error.

        Args:
            phi: (C, D), of the component's chains.
        """
        data_set = self.own.nanmean(3) if self.own.dim() == 4 else self.own
        of_full = self.of_full
        if of_full is not None:
            of_full = of_full.nanmean(3) if of_full.dim() == 4 else of_full
            of_full = of_full.mean(2)
        return (
            *_response(phi, self.own, self.of_full, self.how),
            *_response(phi, data_set.mean(2), of_full, self.how),
        )


def _response(
    phi: Tensor, differences: Tensor, of_full: Tensor | None, how: Batching
) -> tuple[Tensor, Tensor]:
    """-(E[phi dL] - E[phi] m), m the mean of dL, with its standard error.

    Where m is of other chains, draws of phi (dL - m) are averaged, and the error of m adds
    E[phi] of it. Where it is of the same, deviations from both means are.

    Args:
        phi: (C, D).
        differences: (C, D, ...), dL.
        of_full: (C', D', ...), of the other chains.
        how: batches of both.
    """
    draws = phi.numel()
    lead = (...,) + (None,) * (differences.dim() - 2)
    if of_full is None:
        products = (phi - phi.mean())[lead] * (differences - differences.mean((0, 1)))
        return -products.mean((0, 1)), _error(products, how, draws)
    center = of_full.mean((0, 1))
    products = phi[lead] * (differences - center)
    own = _error(products, how, draws)
    other = batching(of_full)
    away = _error(of_full, other, of_full.shape[0] * of_full.shape[1])
    return -products.mean((0, 1)), (own.square() + (phi.mean() * away).square()).sqrt()


def _error(x: Tensor, how: Batching, draws: int) -> Tensor:
    """Standard error of the mean of (C, D, ...) draws."""
    return how.stderr(batched(x, how.length).mean(1), draws)


def _differences(losses: SampledLosses, probe: str, tokens: bool) -> Tensor:
    """(C, D, N) or (C, D, N, T): losses of a probe less the mean loss over data."""
    found = losses.stayed(probe, tokens=tokens)
    mean = losses.stayed().mean(2)
    return found - mean[(...,) + (None,) * (found.dim() - 2)]
