"""Figure of a grid of sampler settings for the local learning coefficient: traces and results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geomfast.report.axes import log_ticks, tick_label
from geomfast.report.colours import BLACK, BLUE, DASHED, GREY, LINES, RED_TEXT, SOFT
from geomfast.report.extras import need
from geomfast.report.style import canvas, handle, head, styled

#: Steps of a trace are averaged to about as many points.
_POINTS = 50
#: Coefficients that differ by more than this are on a logarithmic axis.
_WIDE = 30.0


@styled
def calibration_figure(found: dict[str, Any]) -> Any:
    """A panel for each setting, and below the coefficient, step bias and acceptance by lr.

    Args:
        found: ``trials`` (``lr``, ``localization``, ``trace`` (C, T) in units of the coefficient or
            None, ``mean``, ``stderr``, ``step_bias``, ``acceptance``, ``verdict``, ``converged``,
            ``recommended``), ``burn_in``, ``reason`` and the ``name`` of model and samples.
    """
    trials = found["trials"]
    lrs = sorted({trial["lr"] for trial in trials})
    pulls = sorted({trial["localization"] for trial in trials})
    columns = max(len(lrs), 3)
    width, tall = max(1.75 * columns + 1.2, 9.0), 1.35
    height = tall * len(pulls) + 4.5
    figure, grid = canvas(
        width, height, len(pulls), len(lrs), left=0.95, right=0.25, top=1.15,
        bottom=3.35, wspace=0.12, hspace=0.16, sharey="row", sharex=True,
    )  # fmt: skip
    for axes, pull in zip(grid, pulls, strict=True):
        row = [trial for trial in trials if trial["localization"] == pull]
        for index, trial in enumerate(row):
            _trace(axes[index], trial, found["burn_in"])
        _limits(axes[0], row)
        axes[0].set_ylabel(f"localization\n{pull:g}")
    for axes, lr in zip(grid[0], lrs, strict=True):
        axes.set_title(f"lr {tick_label(lr)}", loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("step of a chain")
    for axes in grid.flat:
        axes.spines["right"].set_visible(True)
    _below(figure, trials, pulls)
    text = f"{found['name']}; nbeta (loss - loss at the weights) along each chain, grey: burn-in"
    best = "recommended: framed" if found["recommended"] else "none is recommended"
    title, more = "Settings for the local learning coefficient", f"blue: converged; {best}"
    head(figure, title, text, 0.95, more=more)
    return figure


@styled
def ladder_figure(found: dict[str, Any]) -> Any:
    """Coefficients by localization, and what is known of the one without.

    Args:
        found: ``rungs`` (``localization``, ``mean``, ``stderr``), ``coefficient`` and ``stderr``
            without localization (NaN where not known), ``reason`` and the ``name`` of model and
            samples.
    """
    figure, grid = canvas(8.0, 5.2, left=0.95, right=0.35, top=1.15, bottom=0.75)
    axes = grid[0, 0]
    pulls = np.array([rung["localization"] for rung in found["rungs"]])
    means = np.array([rung["mean"] for rung in found["rungs"]])
    errors = np.array([rung["stderr"] for rung in found["rungs"]])
    axes.errorbar(pulls, means, yerr=2.0 * errors, color=BLUE, marker="o", capsize=3)
    value, error = found["coefficient"], found["stderr"]
    if not math.isnan(value):
        axes.axhline(value, color=BLACK, linestyle=DASHED)
        axes.axhspan(value - 2.0 * error, value + 2.0 * error, color=SOFT, alpha=0.4)
    axes.set_xscale("log")
    if means.min() > 0 and means.max() > _WIDE * means.min():
        axes.set_yscale("log")
        log_ticks(axes.yaxis, between=True)
    log_ticks(axes.xaxis)
    axes.invert_xaxis()
    axes.set_xlabel("localization, weaker to the right")
    axes.set_ylabel("learning coefficient")
    known = "dashed: without localization" if not math.isnan(value) else "a lower bound"
    text = f"{found['name']}; bars: two standard errors"
    head(figure, "Learning coefficient by localization", text, 0.95, more=known)
    return figure


def _trace(axes: Any, trial: dict[str, Any], burn_in: int) -> None:
    axes.tick_params(labelsize=7)
    words = str(trial["verdict"]).partition(":")[0]
    colour = BLUE if trial["converged"] else GREY
    place = {"xycoords": "axes fraction", "va": "top", "fontsize": 7.5}
    if trial["trace"] is None:
        axes.annotate(words, (0.06, 0.9), color=RED_TEXT, **place)
        return
    trace = np.asarray(trial["trace"], dtype=float)
    every = max(1, trace.shape[1] // _POINTS)
    whole = trace.shape[1] // every * every
    smooth = trace[:, :whole].reshape(len(trace), -1, every).mean(-1)
    at = np.arange(0, whole, every) + every / 2
    axes.axvspan(0, burn_in, color="#eef0f2", linewidth=0)
    axes.axhline(0, color="#c4c9cf", linewidth=0.6)
    for chain in smooth:
        axes.plot(at, chain, color=colour, linewidth=0.8, alpha=0.75)
    axes.set_xlim(0, trace.shape[1])
    text = words if trial["converged"] else f"{words}\n{trial['mean']:.3g}"
    if trial["converged"]:
        text = f"{trial['mean']:.3g} ± {trial['stderr']:.1g}"
    axes.annotate(text, (0.06, 0.94), color=BLUE if trial["converged"] else RED_TEXT, **place)
    if trial["recommended"]:
        for spine in axes.spines.values():
            spine.set(visible=True, color=BLACK, linewidth=2.0)


def _limits(axes: Any, row: list[dict[str, Any]]) -> None:
    """From the traces that stay: one that runs away would flatten all others of its row."""
    tops = [np.nanpercentile(t["trace"], 99) for t in row if t["trace"] is not None]
    lows = [np.nanpercentile(t["trace"], 1) for t in row if t["trace"] is not None]
    if tops:
        top, low = 2.0 * float(np.median(tops)), min(1.2 * float(np.median(lows)), 0.0)
        # Room above for the text.
        axes.set_ylim(low - 0.05 * top, min(top, 1.1 * max(tops)) * 1.35)


def _below(figure: Any, trials: list[dict[str, Any]], pulls: list[float]) -> None:
    width, height = figure.get_size_inches()
    gap = 0.75
    share = (width - 1.2 - 2 * gap) / 3
    labels = {
        "mean": "coefficient",
        "step_bias": "bias of finite steps on a quadratic / coefficient",
        "acceptance": "acceptance",
    }
    for index, (name, label) in enumerate(labels.items()):
        left = (0.95 + index * (share + gap)) / width
        axes = figure.add_axes((left, 0.95 / height, share / width, 1.45 / height))
        for line, pull in enumerate(pulls):
            row = [t for t in trials if t["localization"] == pull and not math.isnan(t["mean"])]
            _by_lr(axes, name, row, LINES[line % len(LINES)])
        axes.set_xscale("log")
        axes.set_xticks(*_lr_ticks(trials), minor=False)
        axes.minorticks_off()
        axes.set_xlabel("lr")
        axes.set_title(label, loc="left")
        axes.spines["right"].set_visible(False)
        _scale(axes, name)
    handles = [
        handle(f"localization {pull:g}", color=LINES[line % len(LINES)])
        for line, pull in enumerate(pulls)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(pulls), 6), frameon=False)
    text = "filled: converged, hollow: not"
    figure.text(0.95 / width, 0.36 / height, text, fontsize=8, color=SOFT)


def _by_lr(axes: Any, name: str, row: list[dict[str, Any]], colour: str) -> None:
    """One number of the trials of one localization."""
    lr, value = np.array([t["lr"] for t in row]), np.array([t[name] for t in row])
    if name == "step_bias":
        value = value / np.abs([t["mean"] for t in row])
    axes.plot(lr, value, color=colour, linewidth=1.2)
    good = np.array([bool(t["converged"]) for t in row], dtype=bool)
    axes.plot(lr[good], value[good], "o", color=colour, markersize=4.5)
    axes.plot(lr[~good], value[~good], "o", color=colour, markersize=4.5, markerfacecolor="white")
    if name == "mean":
        error = np.array([t["stderr"] for t in row])
        axes.fill_between(lr, value - error, value + error, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Any, name: str) -> None:
    ticker = need("matplotlib.ticker")
    if name == "mean":
        drawn = np.concatenate([np.asarray(line.get_ydata()) for line in axes.get_lines()])
        low, high = (drawn.min(), drawn.max()) if drawn.size else (1.0, 1.0)
        if 0 < low <= high < 10 * low:
            return  # a logarithmic axis might have no tick between them
        if low > 0:
            axes.set_yscale("log", subs=[3])
        else:
            axes.set_yscale("symlog", linthresh=0.1, subs=[3])
        log_ticks(axes.yaxis, between=True)
    elif name == "step_bias":
        axes.set_yscale("log")
        axes.set_ylim(0.01, 1)
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.axhline(0.1, color=GREY, linewidth=0.8, linestyle=DASHED)
    else:
        axes.set_ylim(0, 1)


def _lr_ticks(trials: list[dict[str, Any]]) -> tuple[list[float], list[str]]:
    """All lr, or only those that begin with 1 where that leaves enough."""
    lrs = sorted({trial["lr"] for trial in trials})
    ones = [lr for lr in lrs if f"{lr:e}".startswith("1")]
    ticks = ones if len(lrs) > 4 and len(ones) > 1 else lrs
    return ticks, [tick_label(tick) for tick in ticks]
