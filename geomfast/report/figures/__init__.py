"""All figures of the report, in the order of the page.

The function of a figure of one run takes its records and its rows of
:func:`geomfast.analysis.cells`; that of all runs takes :class:`geomfast.report.data.ReportData`;
that of two sweeps takes both and the scale of either.  Each returns a matplotlib ``Figure``, or
None where there is nothing to draw, without pyplot's global state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from geomfast.analysis.others import others, value_columns
from geomfast.report.figures.behaviour import BY_SIZE, behaviour_figure
from geomfast.report.figures.both import collapse_of_both, events_of_both
from geomfast.report.figures.by_step import by_step, by_step_of_both
from geomfast.report.figures.collapse import collapse_grid, collapse_headline
from geomfast.report.figures.glance import glance, layer_similarity
from geomfast.report.figures.leads import hierarchy, lead_forest
from geomfast.report.figures.limits import limits
from geomfast.report.figures.maps import layer_map, past_map, probe_map, tracked_map
from geomfast.report.figures.measures import gradient_ranks, hessian_figure, llc_figure
from geomfast.report.figures.order import order_of_layers, top_down_figure
from geomfast.report.figures.other_measures import other_figure
from geomfast.report.figures.probes import probe_before_behaviour
from geomfast.report.figures.rates import floors_figure
from geomfast.report.figures.scales import collapse_by_scale, events_by_scale
from geomfast.report.figures.shares import wall_shares
from geomfast.report.figures.timeline import timeline
from geomfast.report.names import slugs


class Picture(NamedTuple):
    """A figure of the report beside its content.

    Attributes:
        name: of its files.
        heading: on the page.
        draw: the function.
        measures: those it shows, whose settings its caption tells.
        see: what to look for, for its caption.
    """

    name: str
    heading: str
    draw: Callable[..., Any]
    measures: tuple[str, ...]
    see: str


_EVENTS = ("rankme", "accuracy")
_GRADIENTS = ("fisher_rank", "gradient_covariance_rank")
_PROBES = ("probe_accuracy", "accuracy")
_CHOICES = ("accuracy", BY_SIZE, "answer_logprob")
_BY_STEP = ("rankme", "loss", *_GRADIENTS, "hessian_top", "hessian_trace", "llc")
_ALL = (*_EVENTS, *_GRADIENTS, "hessian_top", "llc")

_COLLAPSE = (
    "RankMe (blue) falls to its floor (triangle) and rises again; see whether that comes before "
    "accuracy (orange) rises and the task-level emerges (dashed)."
)
_LLC = (
    "A rise marks a phase of learning that makes the solution more complex; values marked x are in "
    "doubt, triangles lower bounds."
)


def _of_others() -> Iterator[Picture]:
    """Figures of a run for measures that have none of their own."""
    specs = {f"measure-{spec.name}": spec for spec in others()}
    for name, file_name in slugs(specs).items():
        spec, draw = specs[name], functools.partial(other_figure, specs[name])
        see = "Its values by training step, a panel per task-level and a line per layer, if any."
        yield Picture(file_name, spec.label, draw, value_columns(spec), see)


#: Figures of a run.
FIGURES = (
    Picture(
        "collapse", "Collapse and recovery in one picture", collapse_headline, _EVENTS, _COLLAPSE
    ),
    Picture("collapse-grid", "Every task-level", collapse_grid, _EVENTS, _COLLAPSE),
    Picture(
        "timeline", "Timeline", timeline, (*_EVENTS, "answer_logprob"),
        "Each row is a task-level, the earliest to emerge on top; the floor of RankMe stands left "
        "of emergence where the collapse comes first.",
    ),
    Picture(
        "behaviour", "Behaviour on probe sets", behaviour_figure, _CHOICES,
        "A rise of accuracy above the share that guessing gives is a capability that emerges.",
    ),
    Picture(
        "layers", "Layer by step", layer_map, ("rankme",),
        "Orange is a collapse below the first value, purple a rise above it; where deeper layers "
        "turn orange first, the collapse goes top-down.",
    ),
    Picture(
        "top-down", "Order of the layers", top_down_figure, ("rankme",),
        "Lines that rise to the left mean that deeper blocks collapse first.",
    ),
    Picture(
        "gradient-ranks", "Rank of the gradients", gradient_ranks, _GRADIENTS,
        "A low rank means that the samples agree on few directions of change; dashed lines show "
        "what remains of it in the first 50,000 parameters.",
    ),
    Picture(
        "hessian", "Curvature of the loss", hessian_figure, ("hessian_top", "hessian_trace"),
        "A rise is a sharper minimum; a negative value means that the loss still falls along some "
        "direction of negative curvature.",
    ),
    Picture("llc", "Local learning coefficient", llc_figure, ("llc",), _LLC),
    Picture(
        "probes", "Linear probes, layer by step", probe_map, _PROBES,
        "High accuracy left of the dashed line: a layer has the answer before the model gives it.",
    ),
    Picture(
        "glance", "Geometry at a glance", glance, _EVENTS,
        "All panels share the axis of training steps: look for measures that turn where "
        "task-levels collapse (black marks) or emerge (red marks).",
    ),
    Picture(
        "layer-similarity", "Which layers are alike", layer_similarity, ("cka",),
        "Light blocks off the diagonal are layers that hold the same relations between samples.",
    ),
    Picture(
        "past", "The final state and its past", past_map, ("cka",),
        "A light stretch along a row: from there on the final state keeps the relations between "
        "samples that it had at that step.",
    ),
    *_of_others(),
)  # fmt: skip

#: Of a sweep at several learning rates alone.
BY_RATE = Picture(
    "rates", "Floors by learning rate", floors_figure, ("rankme",),
    "Lines that fall to the right: a higher rate collapses deeper. Compare scales at one rate, or "
    "at their best (filled).",
)  # fmt: skip

#: Figures of all runs together.
OVERVIEW = (
    Picture(
        "by-scale", "Collapse at every scale", collapse_by_scale, _EVENTS,
        "Floors at the same height at every scale are the task's own; triangles on the axis mark "
        "emergence.",
    ),
    Picture(
        "events", "Floors and emergence at every scale", events_by_scale, _EVENTS,
        "Marks of one row close together: the floor (left) or the emergence step (right) hardly "
        "depends on scale.",
    ),
    BY_RATE,
    Picture(
        "order", "Order of the layers over all runs", order_of_layers, ("rankme",),
        "A triangle marks a task and model whose collapse goes strictly from the deepest block to "
        "the first.",
    ),
    Picture(
        "lead-lag", "What comes first", lead_forest, _ALL,
        "Right of zero a measure changes before emergence, left of it afterwards.",
    ),
    Picture(
        "precursors", "Precursor rates", hierarchy, _ALL,
        "Long blue bars: the measure changes before nearly every emergence.",
    ),
    Picture(
        "prediction", "Limits of prediction", limits, _EVENTS,
        "Early RankMe predicts an order where the share of concordant pairs, with its interval, "
        "lies right of chance.",
    ),
    Picture(
        "probe-first", "Probes before behaviour", probe_before_behaviour, _PROBES,
        "A square left of the other marks: a linear probe has the answer before the model does.",
    ),
    Picture(
        "wall-time", "Where the time went", wall_shares, (),
        "The largest parts of each bar are where a cheaper cadence would save most.",
    ),
)  # fmt: skip

#: Figures of a run that a tracker recorded, of all its runs together, and of two such folders.
_BY_STEP_PICTURE = Picture(
    "by-step", "What was measured", by_step, _BY_STEP,
    "All panels share the axis of training steps: look for changes that line up.",
)  # fmt: skip
TRACKED = (
    _BY_STEP_PICTURE,
    Picture(
        "layers", "Layer by step", tracked_map, ("rankme",),
        "Orange is below a layer's first value, purple above it.",
    ),
    Picture("llc", "Local learning coefficient", llc_figure, ("llc",), _LLC),
)  # fmt: skip
TRACKED_OVERVIEW = tuple(picture for picture in OVERVIEW if picture.name == "wall-time")
TRACKED_COMPARED = (
    _BY_STEP_PICTURE._replace(
        heading="Curves of both",
        draw=by_step_of_both,
        see="Where solid and dashed lines part, the two trainings differ.",
    ),
)

#: Figures of two sweeps, of one scale of each.
COMPARED = (
    Picture(
        "collapse", "Collapse of both", collapse_of_both, _EVENTS,
        "Solid and dashed lines on top of each other: both sweeps collapse and recover alike.",
    ),
    Picture(
        "events", "Floors and emergence of both", events_of_both, _EVENTS,
        "Marks of one row apart: the floor (left) or the emergence step (right) differs.",
    ),
)  # fmt: skip
