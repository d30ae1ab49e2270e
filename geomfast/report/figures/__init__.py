"""All figures of the report, in the order of the page.

A figure of a run is a function of its records and of its rows of
:func:`geomfast.analysis.cells`; a figure of the whole sweep is one of
:class:`geomfast.report.data.ReportData`; one of two sweeps takes both and the scale of either.
Each returns a matplotlib ``Figure``, or None where there is nothing to draw, and touches nothing
of pyplot's global state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from geomfast.analysis.others import others, value_columns
from geomfast.report.figures.behaviour import BY_SIZE, behaviour_figure
from geomfast.report.figures.both import collapse_of_both, events_of_both
from geomfast.report.figures.by_step import by_step
from geomfast.report.figures.collapse import collapse_grid, collapse_headline
from geomfast.report.figures.leads import hierarchy, lead_forest
from geomfast.report.figures.limits import limits
from geomfast.report.figures.maps import layer_map, probe_map, tracked_map
from geomfast.report.figures.measures import gradient_ranks, hessian_figure, llc_figure
from geomfast.report.figures.order import order_of_layers, top_down_figure
from geomfast.report.figures.other_measures import other_figure
from geomfast.report.figures.probes import probe_before_behaviour
from geomfast.report.figures.scales import collapse_by_scale, events_by_scale
from geomfast.report.figures.shares import wall_shares
from geomfast.report.figures.timeline import timeline
from geomfast.report.names import slugs


class Picture(NamedTuple):
    """What the report knows of a figure beside how it looks.

    Attributes:
        name: of its files.
        heading: on the page.
        draw: the function.
        measures: those it shows, whose settings its caption tells.
    """

    name: str
    heading: str
    draw: Callable[..., Any]
    measures: tuple[str, ...]


_EVENTS = ("rankme", "accuracy")
_GRADIENTS = ("fisher_rank", "gradient_covariance_rank")
_PROBES = ("probe_accuracy", "accuracy")
_CHOICES = ("accuracy", BY_SIZE, "answer_logprob")
_BY_STEP = ("rankme", "loss", *_GRADIENTS, "hessian_top", "hessian_trace", "llc")
_ALL = (*_EVENTS, *_GRADIENTS, "hessian_top", "llc")


def _of_others() -> Iterator[Picture]:
    """The figures of a run of measures that have none of their own."""
    specs = {f"measure-{spec.name}": spec for spec in others()}
    for name, file_name in slugs(specs).items():
        draw = functools.partial(other_figure, specs[name])
        yield Picture(file_name, specs[name].label, draw, value_columns(specs[name]))


#: Figures of a run.
FIGURES = (
    Picture("collapse", "Collapse and recovery in one picture", collapse_headline, _EVENTS),
    Picture("collapse-grid", "Every task-level", collapse_grid, _EVENTS),
    Picture("timeline", "Timeline", timeline, (*_EVENTS, "answer_logprob")),
    Picture("behaviour", "Behaviour on probe sets", behaviour_figure, _CHOICES),
    Picture("layers", "Layer by step", layer_map, ("rankme",)),
    Picture("top-down", "Order of the layers", top_down_figure, ("rankme",)),
    Picture("gradient-ranks", "Rank of the gradients", gradient_ranks, _GRADIENTS),
    Picture("hessian", "Curvature of the loss", hessian_figure, ("hessian_top", "hessian_trace")),
    Picture("llc", "Local learning coefficient", llc_figure, ("llc",)),
    Picture("probes", "Linear probes, layer by step", probe_map, _PROBES),
    *_of_others(),
)

#: Figures of all runs together.
OVERVIEW = (
    Picture("by-scale", "Collapse at every scale", collapse_by_scale, _EVENTS),
    Picture("events", "Floors and emergence at every scale", events_by_scale, _EVENTS),
    Picture("order", "Order of the layers", order_of_layers, ("rankme",)),
    Picture("lead-lag", "What comes first", lead_forest, _ALL),
    Picture("precursors", "Precursor rates", hierarchy, _ALL),
    Picture("prediction", "Limits of prediction", limits, _EVENTS),
    Picture("probe-first", "Probes before behaviour", probe_before_behaviour, _PROBES),
    Picture("wall-time", "Where the time went", wall_shares, ()),
)

#: Figures of a run that a tracker recorded, and of all its runs together.
TRACKED = (
    Picture("by-step", "What was measured", by_step, _BY_STEP),
    Picture("layers", "Layer by step", tracked_map, ("rankme",)),
    Picture("llc", "Local learning coefficient", llc_figure, ("llc",)),
)
TRACKED_OVERVIEW = tuple(picture for picture in OVERVIEW if picture.name == "wall-time")

#: Figures of two sweeps, of one scale of each.
COMPARED = (
    Picture("collapse", "Collapse of both", collapse_of_both, _EVENTS),
    Picture("events", "Floors and emergence of both", events_of_both, _EVENTS),
)
