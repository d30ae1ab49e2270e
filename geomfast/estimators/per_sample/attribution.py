"""Which gradients belong to which sample: one watched pass, checked by a second backward pass."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from geomfast.estimators.batches import Batches, count, index_batch, some_of, tensors_of
from geomfast.estimators.calls import Losses, measurable, require_repeatable
from geomfast.estimators.checks import (
    FEW,
    LossFunction,
    check_sample_independence,
    checked_losses,
    require_equal_losses,
    require_independent,
    require_same_alone,
    unused_error,
)
from geomfast.estimators.entries import select_cut
from geomfast.estimators.graph import reached, uses_in_graph
from geomfast.estimators.per_sample.watch import Use, Watch
from geomfast.estimators.stopping import check_stop
from geomfast.kernels import gradient_gram as kernel
from geomfast.kernels.gradient_gram import Factors

Measured = TypeVar("Measured")

# Scaled by powers of two, the gradients of a sample that depends on no other keep every bit, but
# kernels that add in no fixed order may round the last ones differently.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
_SAME_16_BITS = 3e-2


#: Of a parameter not all of whose entries count, how many of the first do, or which.
Cut = Mapping[str, int | Tensor]


def attribute(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    params: Iterable[str] | int | None,
    check: bool,
    measure: Callable[[str, list[Factors]], Measured],
    scale: float = 1.0,
) -> dict[str, Measured]:
    """Hands the factors of every chosen parameter's gradients over, one parameter at a time.

    Args:
        model, loss_fn, batch, params, check: as in `geomfast.gradient_gram`.
        measure: (name, factors of all its uses) -> whatever is wanted of them. Called while the
            backward pass goes on; what it does not keep is freed before the next parameter.
        scale: a power of two that all gradients are multiplied by.

    Returns:
        What `measure` returned, by parameter in the order of the model.
    """
    with measurable(model, loss_fn, Batches([batch])) as (model, losses, (batch,)):
        check_sample_independence(model)
        parameters, cut = select_cut(model, params)
        samples = count(batch)
        some = next(m for m in range(min(samples, FEW), samples + 1) if samples % m == 0)
        apart = check and some < samples
        wrong, alone = set(), {}
        if apart:
            wrong, alone = _misattributed(model, losses, batch, parameters, cut, some)
        with _attribution(model, losses, batch, parameters, cut) as found:
            if losses.drew:
                require_repeatable(losses, model, batch)
            if apart:
                require_equal_losses(alone, found.losses)
                require_same_alone(losses, model, batch, found.losses, briefly=True)
            elif check:
                require_independent(losses, model, batch, found.losses, briefly=True)
            return found.measured(measure, wrong, verify=check and not apart, scale=scale)


@contextlib.contextmanager
def _attribution(
    model: nn.Module,
    losses: Losses,
    batch: Any,
    parameters: dict[str, Tensor],
    cut: Cut,
) -> Iterator[Attribution]:
    try:
        found = Attribution(model, losses, batch, parameters, cut, may_expand=True)
    except _ExpandedInVain:
        found = Attribution(model, losses, batch, parameters, cut, may_expand=False)
    try:
        yield found
    finally:
        found.forget()


def _misattributed(
    model: nn.Module,
    losses: Losses,
    batch: Any,
    parameters: dict[str, Tensor],
    cut: Cut,
    some: int,
) -> tuple[set[str], dict[int, Tensor]]:
    """Names of parameters with gradients of other samples than those they arrive at.

    And the losses, by number, of the samples that it looked at without the others. Those are some:
    their number divides N, and whatever else has a first dimension that N divides is mistaken for
    samples here as it will be there.
    """
    which, part = some_of(batch, some)
    with _attribution(model, losses, part, parameters, cut) as found:
        alone = dict(zip(which.tolist(), found.losses.detach(), strict=True))
        return found.misattributed(), alone


class _ExpandedInVain(Exception):
    """The model cannot take a table's rows once per sample."""


class Attribution:
    """The losses of a batch, and what gradients are made of: all at once, or one by one."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batch: Any,
        parameters: dict[str, Tensor],
        cut: Cut,
        *,
        may_expand: bool,
    ):
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.parameters, self.cut = parameters, cut
        self.samples = count(batch)
        self.watch = Watch(parameters, tensors_of(batch), self.samples, may_expand)
        try:
            with self.watch:
                losses = loss_fn(model, batch)
            self.losses = checked_losses(losses, self.samples)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if self.watch.expanded:
                raise _ExpandedInVain from error
            raise
        if self.watch.doubtful:
            with torch.no_grad():
                plain = loss_fn(model, batch)
            if not torch.allclose(plain, self.losses.detach(), rtol=1e-3, atol=1e-5):
                raise _ExpandedInVain

    def misattributed(self) -> set[str]:
        """Names of parameters with gradients that are not of the sample they arrive at.

        The graph is used up.
        """
        ends, _ = self._reached()
        if not ends:
            return set()
        probe = self._weighed(ends, set(self.parameters), 1.0)
        wrong: set[str] = set()

        def compare(use: Use, gradient: Tensor) -> None:
            if not probe.agrees(use, gradient):
                wrong.add(use.name)

        self._pass(self.losses.sum(), ends, compare)
        return wrong

    def measured(
        self,
        measure: Callable[[str, list[Factors]], Measured],
        wrong: set[str],
        *,
        verify: bool,
        scale: float,
    ) -> dict[str, Measured]:
        """What `measure` makes of every chosen parameter; the graph is used up.

        Args:
            measure: as in `attribute`.
            wrong: names of parameters whose gradients have to be taken one by one.
            verify: make sure of all gradients that they arrive at their samples, by a backward pass
                more; otherwise only where it does not follow from the operations.
            scale: of the gradients.
        """
        ends, uses = self._reached()
        apart = self._apart(uses) | wrong
        results: dict[str, Measured] = {}
        waiting = collections.Counter(use.name for use in uses)
        arrived: dict[str, list[Factors]] = {}
        doubtful = {use.name for use in uses if verify or not use.followed} - apart
        probe = self._weighed(ends, doubtful, scale) if ends and doubtful else None

        def factorise(use: Use, gradient: Tensor) -> None:
            if probe is not None and use.name in doubtful and not probe.agrees(use, gradient):
                apart.add(use.name)
            if use.name in apart:
                arrived.pop(use.name, None)
                return
            exact = torch.promote_types(self.parameters[use.name].dtype, torch.float32)
            arrived.setdefault(use.name, []).append(use.rule(gradient.to(exact)))
            waiting[use.name] -= 1
            if waiting[use.name] == 0:  # all that add up are there
                results[use.name] = self._finished(use.name, arrived.pop(use.name), measure)

        if ends:
            self._pass(scale * self.losses.sum(), ends, factorise)
        for name, factors in self._one_by_one(sorted(apart), scale).items():
            results[name] = self._finished(name, factors, measure)
        return {name: results[name] for name in self.parameters}

    def _weighed(self, ends: list[GradientEdge], names: set[str], scale: float) -> Probe:
        """A probe that has seen these parameters' gradients of weighed losses."""
        probe = Probe(self.samples, self.losses)

        def note(use: Use, gradient: Tensor) -> None:
            if use.name in names:
                probe.note(use, gradient)

        self._pass(scale * (self.losses @ probe.weights), ends, note, retain_graph=True)
        return probe

    def _pass(
        self,
        total: Tensor,
        ends: list[GradientEdge],
        wanted_by: Callable[[Use, Tensor], None],
        *,
        retain_graph: bool = False,
    ) -> None:
        """A backward pass as far as the uses that come first, handing over what passes by."""
        uses = {use.key: use for use in self.watch.uses}

        def take(key: int, gradient: Tensor) -> None:
            if key in uses:  # not one that was taken back
                wanted_by(uses[key], gradient)

        self.watch.arrivals.wanted_by = take
        try:
            torch.autograd.grad(total, ends, retain_graph=retain_graph)
        finally:
            self.watch.arrivals.wanted_by = None

    def _reached(self) -> tuple[list[GradientEdge], list[Use]]:
        """The uses that reach the losses, and where a backward pass has passed by all of them."""
        found, first = reached(self.losses, {use.edge.node for use in self.watch.uses})
        uses = [use for use in self.watch.uses if use.edge.node in found]
        return [use.edge for use in uses if use.edge.node in first], uses

    def forget(self) -> None:
        """Lets go of the graph, so that its memory is free at once."""
        self.watch.forget()
        del self.losses

    def _finished(
        self,
        name: str,
        factors: list[Factors],
        measure: Callable[[str, list[Factors]], Measured],
    ) -> Measured:
        check_stop()
        at = self.cut.get(name)
        if isinstance(at, int):
            factors = kernel.first_entries(factors, at)
        elif at is not None:
            factors = kernel.some_entries(factors, at)
        return measure(name, factors)

    def _apart(self, uses: list[Use]) -> set[str]:
        """Names of parameters that have a use without factors, noticed or not."""
        apart = self.watch.unhandled | self.watch.changed_inputs()
        known: dict[str, set[int]] = {}
        for use in uses:
            # All uses of one transposed view are one use of the parameter to autograd.
            known.setdefault(use.name, set()).add(id(use if use.view is None else use.view))
        every = uses_in_graph(self.losses, self.parameters)
        if unused := [name for name, all_uses in every.items() if all_uses == 0]:
            raise unused_error(unused)
        for name, all_uses in every.items():
            if all_uses != len(known.get(name, ())):
                apart.add(name)
        return apart

    def _one_by_one(self, names: list[str], scale: float) -> dict[str, list[Factors]]:
        """Every sample's gradients of these parameters, from a batch of its own."""
        if not names:
            return {}
        chosen = [self.parameters[name] for name in names]
        rows: list[list[Tensor]] = []
        for i in range(self.samples):
            check_stop()
            alone = index_batch(self.batch, torch.tensor([i], device="cpu"))
            loss = checked_losses(self.loss_fn(self.model, alone), 1, False)
            require_equal_losses({i: loss[0]}, self.losses)
            gradients = [None] * len(chosen)
            if loss.requires_grad:
                gradients = torch.autograd.grad(scale * loss[0], chosen, allow_unused=True)
            # What a sample does not use has no part in its gradient.
            rows.append(
                [
                    torch.zeros_like(p) if gradient is None else gradient
                    for p, gradient in zip(chosen, gradients, strict=True)
                ]
            )
        stacked = zip(*rows, strict=True)
        return {
            name: [kernel.whole(torch.stack(gradients))]
            for name, gradients in zip(names, stacked, strict=True)
        }


class Probe:
    """Whether the gradients that arrive at sample i's rows depend on its own loss alone.

    In a first backward pass sample i's loss weighs w_i, a power of two, in a second one it weighs
    1: its own gradients differ by exactly that, those that come from sample j as well do not. Of
    every gradient only its product with a random vector is kept.

    Attributes:
        weights: (N,).
    """

    def __init__(self, samples: int, like: Tensor):
        # Rows that are not their sample's are a neighbour's most often: samples have the weight of
        # none of the next 13, or 61 where the type has the range for it.
        exponents = 7 if like.dtype in (torch.float16, torch.bfloat16) else 31
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(2 * exponents, generator=generator, device="cpu")
        different = order[torch.arange(samples, device="cpu") % (2 * exponents)]
        weights = 2.0 ** (different % exponents - exponents // 2)
        self.weights = (weights * (1 - 2 * (different // exponents))).to(like)
        self._weighed: dict[Use, Tensor] = {}

    def note(self, use: Use, gradient: Tensor) -> None:
        """In the pass with weights."""
        self._weighed[use] = self._sketch(gradient) / self.weights

    def agrees(self, use: Use, gradient: Tensor) -> bool:
        """In the pass without; what the first pass did not come by cannot be compared."""
        weighed = self._weighed.get(use)
        return weighed is not None and self._agree(weighed, self._sketch(gradient), gradient.dtype)

    def _agree(self, weighed: Tensor, sketch: Tensor, dtype: torch.dtype) -> bool:
        """Sample by sample: large gradients of some must not hide the small ones of others."""
        tolerance = _SAME.get(dtype, _SAME_16_BITS)
        rounding = 1e-3 * torch.maximum(sketch.abs(), weighed.abs()).max()
        size = torch.maximum(sketch.abs(), rounding)
        return not bool(((weighed - sketch).abs() > tolerance * size).any())

    def _sketch(self, gradient: Tensor) -> Tensor:
        """(N,) of the weights' type."""
        rows = gradient.reshape(len(self.weights), -1)
        generator = torch.Generator().manual_seed(rows.shape[1])
        vector = torch.randn(rows.shape[1], generator=generator, device="cpu").to(rows)
        return (rows @ vector).to(self.weights)
