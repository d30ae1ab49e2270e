"""A step size, a momentum and a localization for one model, found by a ladder of short chains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geomfast.estimators.arguments import check_number, check_whole
from geomfast.estimators.batches import Batches, batches_of, count, parts
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.entries import select_entries
from geomfast.estimators.llc import LLC, llc
from geomfast.estimators.sampling.chains import size_and_norm
from geomfast.estimators.sampling.ladder import Ladder, Rung, climb, limit_of
from geomfast.estimators.sampling.rules import burn_in_steps, usual_nbeta
from geomfast.estimators.sampling.steps import listed, stepped, steps_for, top_curvature

#: Relative error that chains are run for with settings of a ladder, unless another is asked for.
LADDER_STDERR = 0.03
#: Relative error from which a coefficient without localization is not known.
UNKNOWN = 0.25
# Chains of a model so small that more cost little: as many as share so many floating-point
# operations of a forward pass, within these bounds.
_SHARED_WORK, _LEAST_CHAINS, _MOST_CHAINS = 1e7, 4, 128


@dataclass(frozen=True)
class LLCSettings:
    """Settings of :func:`geomfast.llc` for one model, and what they rest on.

    Attributes:
        lr, momentum, localization, nbeta, batch_size, chains, burn_in: the settings.
        coefficient, stderr: without localization, extrapolated from the rungs; NaN where the rungs
            do not tell: coefficients are lower bounds then.
        reason: why the ladder ended here, in one sentence.
        rungs: from the strongest localization to the weakest.
        curvature: largest eigenvalue of the Hessian at the weights.
    """

    lr: float
    momentum: float
    localization: float
    nbeta: float
    batch_size: int | None
    chains: int
    burn_in: int
    coefficient: float
    stderr: float
    reason: str
    rungs: tuple[Rung, ...]
    curvature: float

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of :func:`geomfast.llc`."""
        names = ("lr", "momentum", "localization", "nbeta", "batch_size", "chains", "burn_in")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        lines = ["localization        lr  momentum  coefficient   error  localization takes"]
        for rung in self.rungs:
            found = rung.estimate
            lines.append(
                f"{rung.localization:12.4g} {rung.lr:9.3g} {rung.momentum:9.2f} {found.mean:12.4g} "
                f"{found.stderr:7.2g} {found.localization_effect:9.1%} "
                f"± {found.localization_effect_stderr:.1%}"
            )
        return "\n".join([*lines, self.conclusion])

    @property
    def conclusion(self) -> str:
        """What the ladder says, in two sentences."""
        least = self.rungs[-1].estimate.mean
        if math.isnan(self.coefficient):
            return f"Bound by localization: at least {least:.3g}. {self.reason}"
        return f"Without localization {self.coefficient:.3g} ± {self.stderr:.2g}. {self.reason}"


def calibrate_llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    nbeta: float | None = None,
    batch_size: int | None = None,
    params: Iterable[str] | None = None,
    chains: int | None = None,
    error: float = 0.02,
    max_steps: int = 40_000,
    max_seconds: float = math.inf,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> LLCSettings:
    """Settings with which `geomfast.llc` is stable, unbiased and as little localized as possible.

    A ladder of localizations, from one as strong as the largest curvature down: on every rung the
    largest step size whose half gives the same coefficient, and to which the noise of minibatches
    adds little; momentum is that of critical damping in the directions that localization alone
    holds, exp(-2 sqrt(lr localization)). It ends where the coefficient without localization, as
    extrapolated from the rungs, is known to 1.25 times `error`; where chains leave the weights by
    half of their norm, or find a lower loss than the model's; or where `max_steps` or `max_seconds`
    do not suffice for another rung.

    Args:
        model, loss_fn, data, nbeta, batch_size, params, seed: as in `geomfast.llc`.
        chains: of every run; None for 4, or up to 128 of a small model, to which they cost little.
        error: standard error to which every coefficient is drawn, as a share of it.
        max_steps: of every chain, all runs together.
        max_seconds: after which no run is begun; settings then depend on the machine.
        progress: told what is tried.

    Returns:
        `LLCSettings`: call `geomfast.llc(model, loss_fn, data, **found.options)`; `print(found)`
        shows the ladder.

    Raises:
        TypeError, ValueError: as `geomfast.llc`; no setting was found.
    """
    check_number(error=error)
    if not 0 < error < 1:
        raise ValueError(f"error must be between 0 and 1, not {error}")
    check_whole(1, max_steps=max_steps)
    check_number(max_seconds=max_seconds)
    if not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, not {max_seconds}")
    batches = batches_of(data)
    params = listed(params)
    if nbeta is None:
        nbeta = usual_nbeta(max(sum(count(batch, least=1) for batch in batches), 2))
    parameters = select_entries(model, params)
    _, norm = size_and_norm(parameters)
    curvature = top_curvature(model, loss_fn, batches, params)
    if chains is None:
        chains = _chains(model, loss_fn, batches, batch_size)
    options = {"nbeta": nbeta, "batch_size": batch_size, "params": params, "chains": chains}
    options["seed"] = seed
    ladder = Ladder(model, loss_fn, batches, options, max_steps, max_seconds, progress)
    rungs, reason = climb(ladder, max(nbeta * curvature, 0.0), nbeta, norm, error)
    if not rungs:
        raise ValueError(f"no setting was found: {reason[0].lower()}{reason[1:]}")
    best = rungs[-1]
    limit = limit_of(rungs)
    value, uncertain = limit.value, limit.error
    if not uncertain <= UNKNOWN * abs(value):
        value = uncertain = math.nan
    return LLCSettings(
        best.lr, best.momentum, best.localization, nbeta, batch_size, chains,
        burn_in_steps(best.lr, best.localization), value, uncertain, reason, tuple(rungs),
        curvature,
    )  # fmt: skip


def _chains(
    model: nn.Module, loss_fn: LossFunction, batches: Batches, batch_size: int | None
) -> int:
    _, batch = next(parts(next(iter(batches)), batch_size))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss_fn(model, batch)
    fitting = int(_SHARED_WORK / max(counter.get_total_flops(), 1))
    return max(_LEAST_CHAINS, min(_MOST_CHAINS, fitting))


def automatic_llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    lr: str,
    localization: float | Literal["norm"] | None,
    momentum: float | None,
    curvature: float | None,
    own: dict[str, Any],
) -> LLC:
    """With a step size that is looked for first, and without a localization with that too.

    Args:
        lr: must be "auto".
        own: the other arguments of `llc`.
    """
    if lr != "auto":
        raise ValueError(f"lr must be a number or 'auto', not {lr!r}")
    batches = batches_of(data)
    own["params"] = listed(own["params"])
    if localization is not None:
        steps = steps_for(model, loss_fn, batches, localization, curvature, own)
        return stepped(model, loss_fn, batches, steps, momentum, own)
    for name, value in {"momentum": momentum, "curvature": curvature}.items():
        if value is not None:
            raise ValueError(f"lr = 'auto' finds {name} too: leave it out, or give localization")
    search = {name: own[name] for name in ("nbeta", "batch_size", "params", "seed")}
    found = calibrate_llc(model, loss_fn, batches, **search)
    if own["stderr"] is None and own["relative_stderr"] is None:
        own["relative_stderr"] = LADDER_STDERR
    longer = {"burn_in": max(own["burn_in"] or 0, found.burn_in), "chains": found.chains}
    one = llc(model, loss_fn, batches, **own | found.options | longer)
    return replace(
        one,
        limit=found.coefficient,
        limit_stderr=found.stderr,
        verdict=f"{one.verdict}. {found.conclusion}",
    )
