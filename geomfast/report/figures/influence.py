"""Influence of training samples on queries as a sorted matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomfast.report.axes import row_axis
from geomfast.report.extras import need
from geomfast.report.style import canvas, head, styled

if TYPE_CHECKING:
    from geomfast.estimators.influence import Influence

#: Rows or columns above which their names are not written.
_NAMED = 60


@styled
def influence_figure(
    found: Influence,
    path: str | os.PathLike[str] | None = None,
    *,
    queries: Sequence[str] = (),
    samples: Sequence[str] = (),
) -> Any:
    """Correlations of queries with training samples, rows and columns that are alike beside each
    other (average linkage); what is within two standard errors of zero is left white.

    Args:
        found: of :func:`geomfast.influence`, not by tokens.
        path: of a file to write, PNG or SVG by its ending; None to write none.
        queries, samples: names of the rows and columns; their numbers where there are none.

    Returns:
        A matplotlib figure.

    Raises:
        TypeError: found is no result of it.
        ValueError: another number of names than rows or columns; correlations of tokens; none
            that is finite.
        MissingExtra: matplotlib is not installed.
    """
    if not hasattr(found, "correlation_stderr"):
        raise TypeError(f"found must be what geomfast.influence gives, not {type(found).__name__}")
    values = found.correlation.cpu().numpy()
    errors = found.correlation_stderr.cpu().numpy()
    if values.ndim != 2:
        raise ValueError(f"found has correlations of shape {values.shape}; ask without tokens=True")
    if not np.isfinite(values).any():
        raise ValueError("found has no correlation that is finite")
    named = []
    for side, names, count in zip(
        ("queries", "samples"), (queries, samples), values.shape, strict=True
    ):
        if len(names) not in (0, count):
            raise ValueError(f"{side} has {len(names)} names for {count} of them")
        named.append([*names] or [str(number) for number in range(count)])
    rows, columns = _order(values), _order(values.T)
    shown = np.where(abs(values) > 2.0 * errors, values, np.nan)[np.ix_(rows, columns)]
    figure, grid = canvas(
        min(13.0, max(7.0, 0.16 * len(columns) + 4.0)),
        min(12.0, max(4.0, 0.16 * len(rows) + 2.6)),
        left=1.4, right=1.3, top=1.1, bottom=1.1,
    )  # fmt: skip
    axes = grid[0, 0]
    image = axes.imshow(shown, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    row_axis(axes, [named[0][i] for i in rows] if len(rows) <= _NAMED else [])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    few = len(columns) <= _NAMED
    axes.set_xticks(
        range(len(columns)) if few else [],
        [named[1][i] for i in columns] if few else [],
        rotation=90,
    )
    axes.tick_params(length=0)
    axes.set(xlabel="training sample", ylabel="query")
    width, height = figure.get_size_inches()
    bar = figure.colorbar(
        image, cax=figure.add_axes((1 - 1.1 / width, 1.1 / height, 0.15 / width, 1 - 2.2 / height))
    )
    bar.outline.set_visible(False)
    bar.set_label("correlation of losses over draws")
    told = np.isfinite(shown).mean()
    text = (
        f"{len(rows)} queries, {len(columns)} training samples, sorted by likeness; white: within "
        f"two standard errors of zero ({1 - told:.0%}); chains: {found.verdict}"
    )
    head(figure, "Which samples answer together", text, 1.4)
    if path is not None:
        figure.savefig(Path(path), dpi=150)
    return figure


def _order(values: np.ndarray) -> np.ndarray:
    """Numbers of the rows in the order of a tree that joins those that are alike."""
    if len(values) < 3:
        return np.arange(len(values))
    hierarchy = need("scipy.cluster.hierarchy")
    tree = hierarchy.linkage(np.nan_to_num(values), "average", optimal_ordering=len(values) <= 500)
    return hierarchy.leaves_list(tree)
