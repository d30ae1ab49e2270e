"""The sorted matrix of influences: planted groups come together, noise is left white."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from geomfast.estimators.influence import Influence
from geomfast.report.figures.influence import influence_figure
from tests import cases
from tests.report.looks import cut_off, overlapping, texts


def planted(queries=9, samples=12):
    """Groups of three that interleave, and a group that has nothing to do with the others."""
    own, other = torch.arange(queries) % 3, torch.arange(samples) % 3
    correlation = torch.where(own[:, None] == other, 0.8, 0.0).double()
    correlation = correlation + 0.01 * cases.normal(queries, samples)
    errors = torch.full_like(correlation, 0.05)
    return Influence(
        correlation,
        errors,
        correlation,
        errors,
        1.0,
        samples,
        1.0,
        500.0,
        "converged",
        None,  # pyright: ignore[reportArgumentType]
    )


def test_groups_come_together_and_noise_is_white(tmp_path):
    names = [f"q{i % 3}" for i in range(9)]
    figure = influence_figure(planted(), tmp_path / "map.png", queries=names)
    assert cut_off(figure) == [] and overlapping(figure) == []
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (9, 12)
    there = ~np.ma.getmaskarray(np.ma.masked_invalid(shown))
    assert there.sum() == 9 * 12 / 3
    # Three blocks: every row and column changes to another group at most twice.
    assert (np.diff(there.astype(int), axis=0) != 0).sum(0).max() <= 2
    assert (np.diff(there.astype(int), axis=1) != 0).sum(1).max() <= 2
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(rows) == sorted(names) and sum(a != b for a, b in itertools.pairwise(rows)) == 2
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert "(67%)" in " ".join(words for words, _ in texts(figure))


def test_many_samples_have_no_names():
    figure = influence_figure(planted(2, 90))
    assert [*figure.axes[0].get_xticklabels()] == []
    assert len(figure.axes[0].get_yticklabels()) == 2


def test_bad_input():
    found = planted()
    with pytest.raises(TypeError, match=r"what geomfast\.influence gives, not Tensor"):
        influence_figure(found.correlation)
    with pytest.raises(ValueError, match="queries has 2 names for 9 of them"):
        influence_figure(found, queries=["a", "b"])
    tokens = replace(found, correlation=found.correlation[:, None])
    with pytest.raises(ValueError, match=r"shape \(9, 1, 12\); ask without tokens=True"):
        influence_figure(tokens)
    nothing = replace(found, correlation=torch.full((9, 12), torch.nan))
    with pytest.raises(ValueError, match="no correlation that is finite"):
        influence_figure(nothing)
