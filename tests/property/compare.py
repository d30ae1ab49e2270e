"""What geomfast makes of one draw against the float64 reference."""

from __future__ import annotations

import collections
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from geomfast.estimators.curvature.prepared import checked_products
from geomfast.estimators.gradients import gradient_gram
from geomfast.estimators.hessian import hessian_trace
from tests.property.draws import Draw, drawn
from tests.property.references import Reference, mode_and_state, same_state
from tests.property.unfit import Coupled, Random

# Of the largest entry.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
# A gradient that vanishes up to rounding has no digits: entries of its Gram matrix count in units
# of this share of the largest one of all parameters at least.
_SMALLEST_SHARE = 1e-6
# Samples whose products are all taken one by one.
_FEW = 8
# Of differences of gradients, in float64, with the step that they are taken with.
_DIFFERENCES = 1e-6
# A loss moves by this share of the largest at least where coupling or randomness is to be noticed.
_NOTICEABLE = 1e-2
# What a refusal says, at least.
_SIGNS = {"random": "random|dropout|drops", "coupled": "other samples|on the others"}


@dataclass
class Outcome:
    """Attributes:
    passed: measures whose values agree, or that are refused as they have to be.
    faults: (kind, measure, message) of all others. Kinds: "value", "refused though right",
        "refused for another reason", "crash", "accepted", "changed".
    """

    draw: Draw
    passed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[tuple[str, str, str]] = field(default_factory=list)

    def said(self) -> str:
        faults = "; ".join(
            f"{kind} in {measure}: {message}" for kind, measure, message in self.faults
        )
        return f"seed {self.draw.seed}: {faults}\n    {self.draw.what}"


def compared(seed: int) -> Outcome:
    """All measures of a seed's draw."""
    draw = drawn(seed)
    outcome = Outcome(draw)
    before = mode_and_state(draw.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if draw.nature == "right":
            _compare_right(draw, outcome)
        else:
            _compare_unfit(draw, outcome)
    for what, value in mode_and_state(draw.model).items():
        if not same_state(before[what], value):
            outcome.faults.append(("changed", "model", what))
    return outcome


def _compare_right(draw: Draw, outcome: Outcome) -> None:
    exact = Reference(draw)
    together = exact.losses_together()
    assert close(together, exact.losses, 1e-8), f"the draw is not what it says: {draw.what}"
    # Parameters that no sample uses are named and left out on request.
    reached, tolerance = exact.reached(), TOLERANCE[exact_type(draw)]
    unused = [name for name in exact.parameters if name not in reached]
    if unused:
        sign = "parameters? (.*) (does|do) not reach the loss"
        for measure, call in (("gram", gram), ("hessian", product)):
            if measure == "gram" and draw.samples == 1:
                continue
            said = _refusal(outcome, measure, lambda call=call: call(draw), sign)
            if said and set(said[1].split(", ")) != set(unused):
                _fault(outcome, "value", measure, f"{said[1]} named, unused are {unused}")
        exact.leave_out(unused)
    params = [f"!{name}" for name in unused] or None
    if draw.samples == 1:
        _refusal(outcome, "gram", lambda: gram(draw), "N = 1")
    else:
        grams = _value(outcome, "gram", lambda: gram(draw, params))
        if grams is not None:
            _compare_grams(outcome, grams, exact, tolerance)
    if not draw.curved or not exact.parameters:
        return
    found = _value(outcome, "hessian", lambda: product(draw, params))
    if found is not None:
        _compare_products(outcome, found, exact, direction(len(found), draw.seed), tolerance)
    if draw.seed % 8 == 0 and draw.trusted and draw.samples <= _FEW:
        _compare_trace(outcome, exact, tolerance)


def direction(size: int, seed: int) -> Tensor:
    """Of unit length."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(size, generator=generator, dtype=torch.float64)
    return v / v.norm()


def product(draw: Draw, params: list[str] | None = None) -> Tensor:
    """H v along `direction`, as every measure of the Hessian computes it."""
    with checked_products(draw.model, draw.loss_fn, draw.batch, params, "hessian") as products:
        v = direction(products.dimension, draw.seed)
        return products(v.to(products.like.dtype)).double()


def gram(draw: Draw, params: list[str] | None = None) -> dict[str, Tensor]:
    """Its sum over parameters, as "", and with an odd seed those of single parameters as well."""
    layers = draw.seed % 2 == 1
    found = gradient_gram(draw.model, draw.loss_fn, draw.batch, params=params, per_layer=layers)
    return {"": torch.stack(list(found.values())).sum(0), **found} if layers else {"": found}


def exact_type(draw: Draw) -> torch.dtype:
    return next(draw.model.parameters()).dtype


def _compare_grams(
    outcome: Outcome, found: dict[str, Tensor], exact: Reference, tolerance: float
) -> None:
    right = exact.grams()
    total = torch.stack(list(right.values())).sum(0)
    right[""] = total
    least = _SMALLEST_SHARE * float(total.abs().max())
    wrong = {n: error(found[n], right[n], least) for n in found}
    wrong = {n: e for n, e in wrong.items() if not e <= tolerance}
    if wrong and tolerance > 1e-6:
        # In float32 what torch's own gradients, one by one, get wrong is not held against it.
        plain = Reference(outcome.draw, widen=False).grams()
        plain[""] = torch.stack(list(plain.values())).sum(0)
        wrong = {n: e for n, e in wrong.items() if not e <= 10 * error(plain[n], right[n], least)}
    if wrong:
        name, by = max(wrong.items(), key=lambda item: item[1])
        _fault(
            outcome, "value", "gram", f"{name or 'the sum'} is off by {by:.2g} of the largest entry"
        )
    else:
        outcome.passed.append("gram")


def _compare_products(
    outcome: Outcome, found: Tensor, exact: Reference, v: Tensor, tolerance: float
) -> None:
    gradient = torch.cat([g.mean(0) for g in exact.gradients.values()])
    # Rounding in a gradient is rounding in a product, however small that is.
    least = max(1e-4 * float(gradient.abs().max()), 1e-12)
    draw = outcome.draw
    # For many samples, differences are less work than as many double backward passes.
    differences = draw.smooth and (not draw.trusted or draw.samples > _FEW or draw.seed % 8 == 1)
    if draw.trusted and (draw.samples <= _FEW or not draw.smooth):
        right = exact.product_one_by_one(v)
        by = error(found, right, least)
        if not by <= tolerance and tolerance > 1e-6:
            plain = Reference(draw, widen=False).product_one_by_one(v.float())
            tolerance = max(tolerance, 10 * error(plain.double(), right, least))
        if not by <= tolerance:
            return _fault(outcome, "value", "hessian", f"off by {by:.2g} from one-by-one products")
    if differences:
        right = exact.product_by_differences(v)
        by, allowed = error(found, right, least), max(tolerance, _DIFFERENCES)
        if not by <= allowed:
            finer = exact.product_by_differences(v, 2.5e-4)
            by, allowed = error(found, finer, least), allowed + 10 * error(finer, right, least)
        if not by <= allowed:
            return _fault(outcome, "value", "hessian", f"off by {by:.2g} from differences")
    outcome.passed.append("hessian")


def _compare_trace(outcome: Outcome, exact: Reference, tolerance: float) -> None:
    """Of the smallest parameter's block: exact where a product is spent on every entry."""
    draw = outcome.draw
    some = [name for name, p in exact.parameters.items() if 0 < p.numel() <= 4]
    if not some:
        return
    name = some[0]
    found = _value(
        outcome,
        "trace",
        lambda: hessian_trace(draw.model, draw.loss_fn, draw.batch, params=[name]).mean,
    )
    if found is None:
        return
    right, scale = exact.trace(name)
    gradient = torch.cat([g.mean(0) for g in exact.gradients.values()])
    least = max(1e-3 * float(gradient.abs().max()), 1e-12)
    by = abs(found - right) / max(scale, least)
    if by > tolerance:
        return _fault(outcome, "value", "trace", f"of {name} is off by {by:.2g}")
    outcome.passed.append("trace")


def error(found: Tensor, right: Tensor, least: float) -> float:
    return float((found - right).abs().max()) / max(float(right.abs().max()), least, 1e-300)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def _value(outcome: Outcome, measure: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ValueError as error:
        if measure == "hessian" and "_embedding_bag_backward" in str(error):
            outcome.refused.append(f"{measure}: torch has no second derivative of an EmbeddingBag")
        else:
            _fault(outcome, "refused though right", measure, str(error))
    except Exception as error:
        _fault(outcome, "crash", measure, f"{type(error).__name__}: {error}")
    return None


def _refusal(
    outcome: Outcome, measure: str, call: Callable[[], Any], sign: str
) -> re.Match[str] | None:
    """`call` has to be refused by a message that `sign` is found in; returns what was found."""
    try:
        call()
    except ValueError as error:
        found = re.search(sign, str(error))
        if found:
            outcome.refused.append(f"{measure}: {shortened(str(error))}")
            return found
        message = f"{_unfit(outcome.draw)}: {error}"
        _fault(outcome, "refused for another reason", measure, message)
    except Exception as error:
        _fault(outcome, "crash", measure, f"{type(error).__name__}: {error}")
    else:
        message = f"{outcome.draw.nature}: {_unfit(outcome.draw)}"
        _fault(outcome, "accepted", measure, message)
    return None


def _unfit(draw: Draw) -> str:
    parts = [p for p in draw.model.modules() if isinstance(p, (Coupled, Random))]
    return ", ".join(part.what for part in parts)


def _compare_unfit(draw: Draw, outcome: Outcome) -> None:
    if not _noticeable(draw):
        outcome.refused.append("not noticeable")
        return
    sign = f"{_SIGNS[draw.nature]}|not reach the loss"
    if draw.samples > 1:
        _refusal(outcome, "gram", lambda: gram(draw), sign)
    if draw.samples > 1 or draw.nature == "random":
        _refusal(outcome, "hessian", lambda: product(draw), sign)


def _noticeable(draw: Draw) -> bool:
    """Whether the losses of this draw do depend on chance, or on the other samples."""
    if draw.nature == "coupled" and draw.samples == 1:
        return False
    again = drawn(draw.seed)
    model = again.model.double()
    batch = tree_map(lambda x: x.double() if x.is_floating_point() else x, again.batch)
    single = [tree_map(lambda x, i=i: x[i : i + 1], batch) for i in range(draw.samples)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        one = again.loss_fn(model, batch)
        if draw.nature == "random":
            other = again.loss_fn(model, batch)
        else:
            try:
                other = torch.cat([again.loss_fn(model, alone) for alone in single])
            except ValueError:  # of torch: batch statistics of one value
                return True
    return float((one - other).abs().max()) >= _NOTICEABLE * float(one.abs().max())


def _fault(outcome: Outcome, kind: str, measure: str, message: str) -> None:
    outcome.faults.append((kind, measure, shortened(message)))


def shortened(message: str) -> str:
    return " ".join(message.split())[:300]


def classes(messages: list[str]) -> collections.Counter[str]:
    """How often each message came, whatever its numbers and names of parameters."""
    unnamed = [
        re.sub(r"parameters? .* not reach", "parameters ... do not reach", m) for m in messages
    ]
    unnamed = [re.sub(r"leave it out.*", "leave it out", m) for m in unnamed]
    return collections.Counter(re.sub(r"[0-9][0-9.e+-]*", "#", m) for m in unnamed)
