"""The local learning coefficient: how degenerate the loss is around the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from geomfast.estimators.sampling.rules import (
    BATCH_SIZE,
    BURN_IN,
    CHAINS,
    DRAWS,
    PILOT_DRAWS,
    RUN_ON,
)
from geomfast.measures.checks import (
    at_least,
    check,
    not_negative,
    or_none,
    or_word,
    positive,
    seed,
    share,
)
from geomfast.measures.spec import PURPLE, Column, MeasureSpec, Need

if TYPE_CHECKING:
    from torch import nn

    from geomfast.estimators.llc import LLC as Estimate


@dataclass(frozen=True)
class LLC:
    """Settings of :func:`geomfast.llc`.

    Attributes:
        lr: step size; "auto" for one over the largest curvature at each measurement.
        localization: pull to the weights; "norm" for one with which chains that nothing else holds
            stay within a quarter of the weights' norm.
        momentum: None for that of critical damping with an automatic lr, and for plain steps
            otherwise.
        chains, draws, burn_in: how many, of each, before the first draw.
        max_draws: of each chain, to which they run on where draws are too few to use their mean;
            None for four times draws.
        batch_size: of a minibatch, at most as many as there are samples; None for all.
        nbeta: None for n / log n.
        seed: of the noise.
    """

    lr: float | str = "auto"
    localization: float | str = "norm"
    momentum: float | None = None
    chains: int = CHAINS
    draws: int = DRAWS
    burn_in: int = BURN_IN
    max_draws: int | None = None
    batch_size: int | None = BATCH_SIZE
    nbeta: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            lr=or_word("auto", positive),
            localization=or_word("norm", not_negative),
            momentum=or_none(share),
            chains=at_least(1),
            draws=at_least(1),
            burn_in=at_least(0),
            max_draws=or_none(at_least(1)),
            batch_size=or_none(at_least(1)),
            nbeta=or_none(positive),
            seed=seed,
        )
        most = RUN_ON * self.draws if self.max_draws is None else self.max_draws
        if most < self.draws:
            raise ValueError(f"max_draws must be draws = {self.draws} or more, not {most}")
        object.__setattr__(self, "max_draws", most)

    @property
    def steps(self) -> int:
        """Of each chain, as a rule: with a step that is refused first, where one is sought."""
        looked_for = self.lr == "auto" and self.draws > 2 * PILOT_DRAWS
        refused = PILOT_DRAWS + self.burn_in if looked_for else 0
        return self.draws + self.burn_in + refused


def compute(
    model: nn.Module, loss_fn: Any, data: Any, settings: LLC, **how: Any
) -> Iterator[tuple[Any, ...]]:
    """The coefficient, and what says how far to believe it; NaN where all chains have diverged.

    Args:
        how: more arguments of :func:`geomfast.llc`, which do not change what is estimated.
    """
    from geomfast.estimators.sampling.calibrate import attempt

    options = asdict(settings) | how
    yield from values(attempt(model, loss_fn, data, **options), settings)


def ran_on(model: nn.Module) -> str:
    """The backend that takes the chains' steps."""
    from geomfast.estimators.sampling.calibrate import backend

    return backend(model)


def values(found: Estimate | None, settings: LLC) -> Iterator[tuple[Any, ...]]:
    """An estimate as what is recorded: name, value, standard error (NaN where none is defined).

    The first has the verdict of the estimate as well.

    Args:
        found: None where all chains have diverged.
        settings: that it was asked for by; by them alone values are there or not, so that all
            samples of a checkpoint have the same ones.
    """
    nan = math.nan
    if found is None:
        yield "llc", nan, nan, f"diverged: all {settings.chains} chains; lower lr"
    else:
        yield "llc", found.mean, found.stderr, found.verdict
    yield "llc_diverged", float(found.diverged.sum() if found else settings.chains), nan
    automatic = settings.lr == "auto"
    names = ["rhat", "ess", "step_bias"]
    if not automatic and settings.momentum is None:  # steps with momentum have none
        names.append("acceptance")
    for name in names:
        yield f"llc_{name}", getattr(found, name) if found else nan, nan
    effect = (found.localization_effect, found.localization_effect_stderr) if found else (nan, nan)
    yield "llc_localization_effect", *effect
    yield "llc_degree", *((found.degree, found.degree_stderr) if found else (nan, nan))
    yield "llc_lr", found.lr if found else nan, nan
    yield "llc_localization", found.localization if found else nan, nan
    if automatic:  # which knows the curvature
        yield "llc_localization_least", found.localization_least if found else nan, nan


MEASURES = (
    MeasureSpec(
        name="llc",
        summary="local learning coefficient of every task-level and of the mixture",
        unit="coefficient",
        settings=LLC,
        need=Need.CHAINS,
        columns=(
            Column("llc"),
            Column("llc_diverged", 0.0),
            Column("llc_rhat", 0.0),
            Column("llc_ess", 0.0),
            Column("llc_step_bias"),
            Column("llc_acceptance", 0.0, 1.0),
            Column("llc_localization_effect"),
            Column("llc_degree"),
            Column("llc_lr", 0.0),
            Column("llc_localization", 0.0),
            Column("llc_localization_least", 0.0, 1.0),
        ),
        compute=compute,
        ran_on=ran_on,
        meaning="near the weights about twice {value:.3g} parameters decide the loss",
        label="LLC",
        colour=PURPLE,
        expensive=True,
        order=80,
    ),
)
