"""Bayesian influence functions: how the loss on one sample answers to the weight of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from geomfast.estimators.arguments import check_flag, kind
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.llc import LLC, llc
from geomfast.estimators.sampling.covariance import batching, covariance, verdict
from geomfast.estimators.sampling.kept import SampledLosses
from geomfast.estimators.sampling.observe import DATA

#: Name of the queries among what is observed.
QUERIES = "queries"


@dataclass(frozen=True)
class Influence:
    """Influences of Q queries and N training samples, each (Q, N) float64, or (Q, T, N) of tokens.

    Attributes:
        covariance: of the two losses over the draws, positive where they rise and fall together;
            in units of the loss squared.
        covariance_stderr: Monte Carlo standard error, of batch means within all chains, widened for
            few batches; NaN where there are fewer than three.
        correlation, correlation_stderr: the same of Pearson's correlation; NaN for a loss that is
            the same at all draws.
        nbeta: of the chains.
        samples: n of their data.
        rhat, ess: the worst of the losses' series that were looked at, of both data sets.
        verdict: in words: converged, usable, or what is wrong; that of the chains' coefficient
            where it says that their draws are wrong.
        losses: that it was computed from.
        run: the chains' own estimate; None where only losses were given.
    """

    covariance: Tensor
    covariance_stderr: Tensor
    correlation: Tensor
    correlation_stderr: Tensor
    nbeta: float
    samples: int
    rhat: float
    ess: float
    verdict: str
    losses: SampledLosses
    run: LLC | None = None

    @property
    def influence(self) -> Tensor:
        """-(nbeta / n) covariance: what the query's mean loss gains where the weight of a training
        sample, 1 in the sum of losses, grows by 1, to first order. Negative where more of the
        sample would lower the query's loss."""
        return -self.nbeta / self.samples * self.covariance

    @property
    def influence_stderr(self) -> Tensor:
        """Standard error of `influence`."""
        return self.nbeta / self.samples * self.covariance_stderr


def influence(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    queries: Any = None,
    tokens: bool = False,
    **sampling: Any,
) -> Influence:
    r"""Bayesian influence functions of a model, from one run of chains.

    Kreer et al. (2025), "Bayesian influence functions for Hessian-free data attribution", with the
    localized posterior exp(-nbeta L(w) - localization/2 |w - w0|^2) in place of the posterior. The
    derivative of a query's mean loss by the weight of training sample i is
    -(nbeta / n) Cov(l_query, l_i) (`Influence.influence`); the papers normalize it to the
    correlation. No Hessian is inverted, so that degenerate directions are no obstacle.

    Some ten matrices (Q, N) of float64 are in memory, and the losses of all draws.

    The error of a correlation is about one over the root of effective draws: a few thousand are
    needed to see correlations of a few hundredths. Finite plain steps, and minibatches, widen the
    draws; steps with momentum (`momentum=0.0`) and all of the data do not where the loss is
    quadratic.

    Args:
        model: any module.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        data: the training samples, as in `geomfast.llc`, whose chains sample from them.
        queries: other data, or (loss_fn, data), whose losses answer; its loss_fn may return (Q, T),
            one loss a token. None for the training samples themselves.
        tokens: whether the losses of the queries' tokens are told apart.
        sampling: arguments of `geomfast.llc`: lr, nbeta, localization, momentum, chains, draws,
            seed, params, keep_losses and others.

    Returns:
        `covariance`, `correlation`, `influence` and their errors, each (Q, N): see `Influence`.

    Raises:
        TypeError, ValueError: as `geomfast.llc`.

    Example:
        found = gf.influence(model, loss_fn, train, queries=test, lr=1e-4, draws=1000)
        found.influence.argmin(1)  # the training sample that lowers each query's loss most
    """
    check_flag(tokens=tokens)
    if "observe" in sampling:
        raise TypeError("observe is no argument of influence: queries is what is observed")
    sampling["keep_losses"] = sampling.get("keep_losses") or True
    observe = None if queries is None else {QUERIES: queries}
    run = llc(model, loss_fn, data, observe=observe, **sampling)
    assert run.losses is not None
    of = DATA if queries is None else QUERIES
    return _influence(run.losses, of, DATA, tokens, run)


def influence_from_losses(
    losses: SampledLosses, *, queries: str = DATA, data: str = DATA, tokens: bool = False
) -> Influence:
    """Bayesian influence functions from kept losses: see `geomfast.influence`.

    Args:
        losses: of a run with `keep_losses`, or read by `geomfast.load_losses`.
        queries: name of the data set whose losses answer.
        data: name of the data set of training samples. `Influence.influence` is by the weight of
            those that the chains sample from, "data".
        tokens: whether losses of the queries' tokens are told apart, where they are kept.

    Raises:
        TypeError: losses are none.
        ValueError: no such data set; all chains have diverged.
    """
    if not isinstance(losses, SampledLosses):
        raise TypeError(
            "losses must be SampledLosses, of geomfast.llc(..., keep_losses=True).losses or "
            f"geomfast.load_losses, not {kind(losses)}"
        )
    check_flag(tokens=tokens)
    return _influence(losses, queries, data, tokens, None)


def _influence(
    losses: SampledLosses, queries: str, data: str, tokens: bool, run: LLC | None
) -> Influence:
    train = losses.stayed(data)
    asked = train if queries == data and not tokens else losses.stayed(queries, tokens=tokens)
    how = batching(*([train] if asked is train else [asked, train]))
    found = covariance(asked.flatten(2), train, how)
    shape = (*asked.shape[2:], train.shape[2])
    said = verdict(how.worst, "" if run is None else run.verdict)
    return Influence(
        covariance=found.covariance.view(shape),
        covariance_stderr=found.covariance_stderr.view(shape),
        correlation=found.correlation.view(shape),
        correlation_stderr=found.correlation_stderr.view(shape),
        nbeta=losses.nbeta,
        samples=losses.samples,
        rhat=how.worst.rhat,
        ess=how.worst.ess,
        verdict=said,
        losses=losses,
        run=run,
    )
