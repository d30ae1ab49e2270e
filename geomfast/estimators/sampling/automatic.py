"""A step size, a momentum and a localization for one model, found by a ladder of short chains."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geomfast.estimators.arguments import check_number, check_whole
from geomfast.estimators.batches import Batches, batches_of, count, parts
from geomfast.estimators.checks import LossFunction, select_parameters
from geomfast.estimators.hessian import NotConverged, hessian_top_eigenvalues
from geomfast.estimators.llc import LLC, AllChainsDiverged, llc
from geomfast.estimators.sampling.extrapolation import Limit, Point, extrapolate
from geomfast.estimators.sampling.rules import (
    MOMENTUM,
    NEAR,
    max_energy_curvature,
    norm_localization,
    usual_nbeta,
)

#: Samples of which the curvature at the weights is taken.
CURVATURE_SAMPLES = 256
#: Samples of which it is taken for a step at a given localization, and tries of a step.
STEP_SAMPLES, STEP_TRIES = 64, 4
#: From one rung of the ladder to the next, the localization is divided by this.
RUNG = 4.0
_RUNGS = 20
#: Where localization takes more than the first, a brief look is enough; where it takes more than
#: the second, two rungs are taken at once.
_STRONG, _DECIDES = 0.6, 1.5
#: A plateau is looked for at a localization so many times weaker, and is none where that still
#: takes more than such a share.
FAR, STILL_TAKES = RUNG**3, 0.01
#: Largest effect of localization at which the ladder may end, however well it is extrapolated.
LARGEST_EFFECT = 0.1
#: How well the limit is known where the ladder may end, in errors of a rung.
KNOWN = 1.25
#: Relative error from which a coefficient without localization is not known.
UNKNOWN = 0.25
#: Share of the mean by which halving the step size may change it, or minibatches raise it.
STEP_SHARE = 0.03
_HALVINGS = 12
# Chains of a model so small that more cost little: as many as share so many floating-point
# operations of a forward pass, within these bounds.
_SHARED_WORK, _LEAST_CHAINS, _MOST_CHAINS = 1e7, 4, 128


@dataclass(frozen=True)
class Rung:
    """Chains at one localization, with the largest step size that changes nothing.

    Attributes:
        lr, momentum, localization: the setting; of a rung where localization decides, as far as a
            brief look tells.
        estimate: of :func:`geomfast.llc`.
        steps: of every chain that the rung cost, all tries together.
        brief: whether it was only looked at, and does not count for the extrapolation.
    """

    lr: float
    momentum: float
    localization: float
    estimate: LLC
    steps: int
    brief: bool

    @property
    def point(self) -> Point:
        found = self.estimate
        return Point(
            self.localization,
            found.mean,
            found.stderr,
            found.localization_effect,
            found.localization_effect_stderr,
        )


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


class _Spent(Exception):
    """No steps, or no seconds, are left."""


@dataclass
class _Ladder:
    """Tries settings, and counts what they cost."""

    model: nn.Module
    loss_fn: LossFunction
    batches: Batches
    options: dict[str, Any]
    max_steps: int
    max_seconds: float
    progress: Callable[[str], None]
    spent: int = 0
    begin: float = field(default_factory=time.monotonic)

    def sampled(self, lr: float, localization: float, error: float | None) -> LLC | None:
        """An estimate; None where a chain diverged."""
        momentum, burn_in = _momentum(lr, localization), _burn_in(lr, localization)
        draws = max(100, burn_in)
        left = self.max_steps - self.spent - burn_in
        seconds = self.max_seconds - (time.monotonic() - self.begin)
        if left < draws or seconds <= 0:
            raise _Spent
        goal = {} if error is None else {"relative_stderr": error, "max_draws": left}
        if goal and seconds < math.inf:
            goal["max_seconds"] = seconds
        self.progress(f"localization {localization:.3g}, lr {lr:.3g}")
        try:
            found = llc(
                self.model, self.loss_fn, self.batches, lr=lr, localization=localization,
                momentum=momentum, burn_in=burn_in, draws=draws, **goal, **self.options,
            )  # fmt: skip
        except AllChainsDiverged:
            self.spent += burn_in  # about: where they did is not told
            return None
        self.spent += found.loss_trace.shape[1]
        return None if found.diverged.any() else found

    def rung(self, stiff: float, localization: float, error: float | None) -> tuple[Rung, float]:
        """The largest step size that changes nothing, and the stiffness that it stands for.

        Args:
            stiff: curvature that the energy has, apart from localization, as far as it is known.
            localization: of the rung.
            error: to draw to, as a share; None for a brief look.
        """
        before, lr = self.spent, 1.0 / (stiff + localization)
        # Twice the error is a quarter of the draws, and tells a step bias that matters.
        coarse = error and 2.0 * error
        larger = self.sampled(lr, localization, coarse)
        for _ in range(_HALVINGS):
            smaller = self.sampled(lr / 2.0, localization, coarse)
            if larger and smaller and _same(larger, smaller) and not _heated(larger):
                break
            lr, larger = lr / 2.0, smaller
        else:
            raise ValueError(
                f"no step size was found at localization = {localization:.3g}: halving it "
                "continues to change the coefficient; give lr and localization"
            )
        found, momentum = larger, _momentum(lr, localization)
        if error is not None:
            with contextlib.suppress(_Spent):
                found = self.sampled(lr, localization, error) or larger
        cost = self.spent - before
        return Rung(lr, momentum, localization, found, cost, error is None), 1.0 / lr - localization

    def beyond(
        self, rungs: list[Rung], norm: float, limit: Limit, error: float
    ) -> tuple[bool, str]:
        """Whether a far weaker localization gives no other limit, as far as can be looked.

        A loss may have directions that count only far below a plateau of the others, as linear
        networks of several layers do.

        Args:
            rungs: so far.
            norm: |w0|.
            limit: what they say.
            error: to draw to, as a share.
        """
        last = rungs[-1]
        # Where all directions spread that localization holds, chains leave the weights below this.
        spread = (_reach(last.estimate) / (NEAR * norm)) ** 2 if norm else 0.0
        weaker = last.localization * max(1.0 / FAR, spread)
        if weaker > 0.5 * last.localization:
            return True, "chains leave the weights below it"
        try:
            found = self.sampled(last.lr, weaker, error)
        except _Spent:
            return True, f"{self.bound} did not suffice to look further"
        if found is None:
            return False, ""
        far = Rung(last.lr, _momentum(last.lr, weaker), weaker, found, 0, brief=False)
        further = _limit([*rungs, far])
        same = further.known(2.0 * error, LARGEST_EFFECT) and further.agrees(limit, 2.0 * error)
        # Down there nothing is left for localization to take.
        left, uncertain = found.localization_effect, found.localization_effect_stderr
        same = same and not left - 2.0 * uncertain > STILL_TAKES
        return same, f"a localization {last.localization / weaker:.0f} times weaker gives the same"

    @property
    def bound(self) -> str:
        """What ends it, in words."""
        seconds = f" or max_seconds = {self.max_seconds:g}" if self.max_seconds < math.inf else ""
        return f"max_steps = {self.max_steps:,}{seconds}"


@dataclass(frozen=True)
class Steps:
    """A step size for one localization.

    Attributes:
        lr: one over the largest curvature of the chains' energy.
        localization, nbeta: of it.
        curvature: largest of the loss.
    """

    lr: float
    localization: float
    nbeta: float
    curvature: float


def steps_for(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    localization: float | Literal["norm"],
    curvature: float | None,
    own: Mapping[str, Any],
) -> Steps:
    """A step size from the curvature of a few samples.

    Args:
        model, loss_fn, batches, localization, curvature: as in :func:`geomfast.llc`.
        own: its other arguments.
    """
    parameters, _ = select_parameters(model, own["params"])
    if localization == "norm":
        squares = sum(p.detach().double().square().sum().item() for p in parameters.values())
        size = sum(p.numel() for p in parameters.values())
        localization = norm_localization(size, math.sqrt(squares))
    nbeta = own["nbeta"]
    if nbeta is None:
        nbeta = usual_nbeta(max(sum(count(batch, least=1) for batch in batches), 2))
    if curvature is None:
        few = {"samples": STEP_SAMPLES, "tol": 0.2, "most": 8}
        at_once = own["at_once"] or own["batch_size"]
        curvature = top_curvature(model, loss_fn, batches, own["params"], at_once=at_once, **few)
    most = max_energy_curvature(localization, nbeta, curvature)
    if not most > 0:
        raise ValueError(
            "lr = 'auto' finds no step: the loss has no curvature at the weights, and localization "
            "is 0; give lr, or leave localization out"
        )
    return Steps(1.0 / most, localization, nbeta, curvature)


def stepped(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    steps: Steps,
    momentum: float | None,
    own: Mapping[str, Any],
) -> LLC:
    """The coefficient, with a smaller step where chains diverge or finite steps add too much."""
    arguments = {
        **own,
        "nbeta": steps.nbeta,
        "localization": steps.localization,
        "momentum": MOMENTUM if momentum is None else momentum,
        "curvature": steps.curvature,
    }
    lr = steps.lr
    for left in reversed(range(STEP_TRIES)):
        try:
            found = llc(model, loss_fn, batches, lr=lr, **arguments)
            if not left or not (found.diverged.any() or "step too large" in found.verdict):
                return found
        except AllChainsDiverged:
            if not left:
                raise
        lr /= 2.0
    raise AssertionError("the last try returns or raises")


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
    parameters, _ = select_parameters(model, params)
    norm = math.sqrt(sum(p.detach().double().square().sum().item() for p in parameters.values()))
    curvature = top_curvature(model, loss_fn, batches, params)
    if chains is None:
        chains = _chains(model, loss_fn, batches, batch_size)
    options = {"nbeta": nbeta, "batch_size": batch_size, "params": params, "chains": chains}
    options["seed"] = seed
    ladder = _Ladder(model, loss_fn, batches, options, max_steps, max_seconds, progress)
    rungs, reason = _climb(ladder, max(nbeta * curvature, 0.0), nbeta, norm, error)
    if not rungs:
        raise ValueError(f"no setting was found: {reason[0].lower()}{reason[1:]}")
    best = rungs[-1]
    limit = _limit(rungs)
    value, uncertain = limit.value, limit.error
    if not uncertain <= UNKNOWN * abs(value):
        value = uncertain = math.nan
    return LLCSettings(
        best.lr, best.momentum, best.localization, nbeta, batch_size, chains,
        _burn_in(best.lr, best.localization), value, uncertain, reason, tuple(rungs), curvature,
    )  # fmt: skip


def _climb(
    ladder: _Ladder, stiff: float, nbeta: float, norm: float, error: float
) -> tuple[list[Rung], str]:
    """The rungs, down to the last that is worth taking, and why it is the last."""
    # Of a loss that is flat at the weights nothing is known but its size.
    localization = stiff or nbeta
    rungs: list[Rung] = []
    brief, limit, grown = True, Limit(), 1.0
    for _ in range(_RUNGS):
        try:
            # Where chains go further they may meet steeper places: half as much more as last time.
            begin = math.sqrt(grown) * stiff
            rung, stiff = ladder.rung(begin, localization, None if brief else error)
            grown = min(stiff / begin, RUNG**2) if begin > 0 else 1.0
        except _Spent:
            return rungs, f"{ladder.bound} did not suffice for another rung."
        found = rung.estimate
        if found.mean < -2.0 * found.stderr:
            if not rungs:
                raise ValueError(
                    "the model is still training: chains find a lower loss than its own even at "
                    f"localization = {localization:.3g}, as strong as its largest curvature"
                )
            return rungs, "Below this localization chains find a lower loss than the model's."
        if norm and rungs and _reach(found) > NEAR * norm:
            share = f"by over {NEAR:.0%} of |w0|"
            return rungs, f"Below this localization chains leave the weights {share}."
        effect, uncertain = _effect(rungs, rung)
        # Of a brief look that sees nothing yet, NaN, localization decides all.
        strong = math.isnan(effect) or effect - uncertain > _STRONG
        if brief and not strong:
            brief = False
            continue
        rungs.append(rung)
        before, limit = limit, _limit(rungs)
        doubt = limit.error / abs(limit.value) if limit.value else math.nan
        if limit.known(KNOWN * error, LARGEST_EFFECT) and limit.agrees(before, 2.0 * error):
            agrees, looked = ladder.beyond(rungs, norm, limit, error)
            if agrees:
                return rungs, f"What localization takes is known to {doubt:.1%}; {looked}."
        brief = strong
        localization /= RUNG if effect <= _DECIDES else RUNG**2
    return rungs, f"The ladder has {_RUNGS} rungs."


def _reach(found: LLC) -> float:
    """Root mean square of |w - w0| at the end."""
    return found.distance[:, -1].square().mean().sqrt().item()


def _limit(rungs: list[Rung]) -> Limit:
    return extrapolate([rung.point for rung in rungs if not rung.brief])


def _effect(rungs: list[Rung], rung: Rung) -> tuple[float, float]:
    """What localization takes at a rung, which is not one of the rungs yet."""
    limit = extrapolate([*(rung.point for rung in rungs[-1:]), rung.point])
    return limit.effect, limit.effect_error


def _momentum(lr: float, localization: float) -> float:
    """Of critical damping in the slowest directions, which localization alone holds."""
    return math.exp(-2.0 * math.sqrt(lr * localization))


def _burn_in(lr: float, localization: float) -> int:
    """Steps in which the slowest directions forget where they began, about 5 of their times."""
    return 20 + math.ceil(5.0 / math.sqrt(lr * localization))


def _same(a: LLC, b: LLC) -> bool:
    """Whether two coefficients differ by no more than their errors, or a few per cent."""
    allowed = max(2.0 * math.hypot(a.stderr, b.stderr), STEP_SHARE * abs(b.mean))
    return abs(a.mean - b.mean) <= allowed


def _heated(found: LLC) -> bool:
    return found.step_bias > max(STEP_SHARE * abs(found.mean), found.stderr)


def _chains(
    model: nn.Module, loss_fn: LossFunction, batches: Batches, batch_size: int | None
) -> int:
    _, batch = next(parts(next(iter(batches)), batch_size))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss_fn(model, batch)
    fitting = int(_SHARED_WORK / max(counter.get_total_flops(), 1))
    return max(_LEAST_CHAINS, min(_MOST_CHAINS, fitting))


def listed(params: Iterable[str] | None) -> Iterable[str] | None:
    """To be gone through more than once."""
    return params if params is None or isinstance(params, str) else list(params)


def top_curvature(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    params: Iterable[str] | None,
    *,
    samples: int = CURVATURE_SAMPLES,
    tol: float = 0.05,
    most: int = 20,
    at_once: int | None = None,
) -> float:
    """The largest eigenvalue of the Hessian of the first samples, to about `tol`.

    Args:
        model, loss_fn, batches, params: as in :func:`geomfast.llc`.
        samples: how many.
        tol: relative.
        most: iterations.
        at_once: samples that go through the model together; None for a batch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        found = hessian_top_eigenvalues(
            model,
            loss_fn,
            Batches(_few(batches, samples, at_once)),
            tol=tol,
            max_iterations=most,
            params=params,
        )
    return found.values[0].item()


def _few(batches: Batches, left: int, at_once: int | None) -> Iterator[Any]:
    for batch in batches:
        if left > 0:
            _, first = next(parts(batch, left))
            left -= count(first, least=1)
            yield from (part for _, part in parts(first, at_once))
