"""Figures of populations: nothing is cut off or overlaps, and they show what was planted."""

import numpy as np
import pytest

from geomfast.analysis.population import from_records
from geomfast.report.population.data import Population
from geomfast.report.population.figures import FIGURES
from geomfast.report.population.tables import key_lines
from tests.analysis.populations import LADDER, population_records, table, two_groups
from tests.report.looks import cut_off, overlapping, texts


@pytest.fixture(scope="module")
def population():
    generator = np.random.default_rng(0)
    scores = {scale: two_groups(24, p, generator) for scale, p in LADDER.items()}
    scores["2x16"][3] = np.nan
    records = population_records(scores, signal=2.0).dropna(subset="value")
    found = from_records(records)
    return Population("COUNT", 16, found[found["length"] == 16], 0.2, records, 8)


def drawn(name, population):
    (picture,) = (picture for picture in FIGURES if picture.name == name)
    return picture.draw(population)


def said(figure):
    return " | ".join(words for words, _ in texts(figure))


@pytest.mark.parametrize("picture", FIGURES, ids=lambda picture: picture.name)
def test_every_figure_says_of_whom_it_is(picture, population):
    figure = picture.draw(population)
    assert cut_off(figure) == [] and overlapping(figure) == []
    assert "COUNT, length 16; 5 scales, 119 finished members, 1 unfinished" in said(figure)


@pytest.mark.parametrize("picture", FIGURES, ids=lambda picture: picture.name)
def test_long_names_and_many_scales(picture):
    generator = np.random.default_rng(1)
    names = [f"pythia-{size}m" for size in (14, 31, 70, 160, 410, 1000, 1400, 6900)]
    scores = {n: two_groups(12, i / 7, generator).tolist() for i, n in enumerate(names)}
    figure = picture.draw(Population("", 0, table(scores), 0.2))
    if figure is not None:
        assert cut_off(figure) == [] and overlapping(figure) == []
    assert (figure is None) == (picture.name == "early-geometry")


@pytest.mark.parametrize("picture", FIGURES, ids=lambda picture: picture.name)
def test_populations_of_which_there_is_little_to_show(picture):
    scores = {"a": [np.nan] * 3, "b": [0.5] * 12, "c": [0.1, 0.9], "d": [0.5] * 12}
    figure = picture.draw(Population("", 0, table(scores), 0.2))
    if figure is not None:
        assert cut_off(figure) == [] and overlapping(figure) == []
    assert picture.draw(Population("", 0, table({"a": [np.nan]}), 0.2)) is None


def test_the_distributions_name_the_scales_with_two_groups(population):
    words = said(drawn("distributions", population))
    assert words.count("more than one mode") == population.summary["bimodal"].sum() > 0
    assert "n = 23 (1 unfinished)" in words


def test_the_peak_is_the_bar_of_another_colour(population):
    axes = drawn("unlocking", population).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    colours = [bar.get_facecolor() for bar in axes.patches]
    (odd,) = (i for i, colour in enumerate(colours) if colours.count(colour) == 1)
    assert heights[odd] == max(heights) == pytest.approx(population.unlocking.w2)


def test_a_larger_scale_that_does_worse_unlocks_nothing():
    generator = np.random.default_rng(0)
    scores = {"1x8": generator.beta(20, 2, 30).tolist(), "1x16": generator.beta(2, 20, 30).tolist()}
    population = Population("COUNT", 16, table(scores), 0.2)
    words = said(drawn("unlocking", population))
    assert "Where it is lost" in words and "(scores fall)" in words and "unlocks" not in words
    assert ("Lost at", "1x16") in [line[:2] for line in key_lines(population)]


def test_early_geometry_has_a_panel_for_each_scale_with_both_outcomes(population):
    figure = drawn("early-geometry", population)
    panels = [axes.get_title(loc="left") for axes in figure.axes]
    assert panels == ["2x16: 7 succeed, 16 fail", "2x32: 14 succeed, 10 fail"]
    assert "furthest early: 0.0" in said(figure)
