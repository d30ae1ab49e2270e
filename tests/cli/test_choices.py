"""Option values: what exists is listed when something does not."""

import click
import pytest

from geomfast.cli.choices import CadenceOf, Finite, Levels, ListOf, Seeds

TASKS = ListOf("task", ["COPY", "REV", "MOD"])


def test_names_come_back_in_table_order_whatever_their_case() -> None:
    assert TASKS.convert("mod, COPY", None, None) == ("COPY", "MOD")
    assert TASKS.convert("all", None, None) == ("COPY", "REV", "MOD")


@pytest.mark.parametrize("text", ["XYZ", "COPY,", ""])
def test_an_unknown_name_lists_those_there_are(text: str) -> None:
    with pytest.raises(click.BadParameter, match="there are: COPY, REV, MOD"):
        TASKS.convert(text, None, None)


def test_levels() -> None:
    assert Levels([1, 2, 3]).convert("3,1", None, None) == (1, 3)
    with pytest.raises(click.BadParameter, match="no level '4'; there are: 1, 2, 3"):
        Levels([1, 2, 3]).convert("4", None, None)


def test_seeds() -> None:
    assert Seeds().convert("0..3,7,2", None, None) == (0, 1, 2, 3, 7)
    for text in ("a", "3..1", "-1", "1.5", ""):
        with pytest.raises(click.BadParameter):
            Seeds().convert(text, None, None)


def test_cadence() -> None:
    cadence = CadenceOf(["llc", "rankme"])
    found = cadence.convert("llc=8, RankMe=all", None, None)
    assert found == {"llc": 8, "rankme": None}
    with pytest.raises(click.BadParameter, match="no measure 'loss'; there are: llc, rankme"):
        cadence.convert("llc=8,loss=3", None, None)
    for text in ("llc", "llc=", "llc=1", "llc=0", "llc=-3", "llc=2.5", "llc=some"):
        with pytest.raises(click.BadParameter, match=f"'{text}' is not MEASURE=N"):
            cadence.convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "0"])
def test_numbers_are_finite(text: str) -> None:
    rate = Finite(0, min_open=True)
    assert rate.convert("2e-5", None, None) == 2e-5
    with pytest.raises(click.BadParameter):
        rate.convert(text, None, None)


def test_words_for_several_stand_beside_names() -> None:
    kind = ListOf("measure", ("rankme", "cka", "llc"), {"one-pass": ("rankme", "cka")})
    assert kind.convert("one-pass", None, None) == ("rankme", "cka")
    assert kind.convert("llc, One-Pass", None, None) == ("rankme", "cka", "llc")
    assert kind.convert("cka,all", None, None) == ("rankme", "cka", "llc")
    with pytest.raises(click.BadParameter, match="there are: rankme, cka, llc, all, one-pass"):
        kind.convert("one-passes", None, None)
