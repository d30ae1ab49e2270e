"""The report of a sweep at several learning rates."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from geomfast.cli.main import main
from geomfast.report import build
from geomfast.report.data import read
from geomfast.report.figures.rates import floors_figure
from tests.analysis.synthetic import write
from tests.analysis.test_rates import join, run, two_rates
from tests.report.looks import cut_off, overlapping, texts


@pytest.fixture
def out(tmp_path, only):
    only("rates", "by-scale")
    return write(tmp_path / "out", two_rates())


def test_each_rate_has_its_claims_and_the_rest_is_about_the_best(out):
    result = build(out)
    shown = {row["run"] for row in result["cells"]}
    assert shown == {
        f"joint-{name}-seed{seed}" for name in ("nano-lr0.001", "micro-lr0.0003") for seed in (0, 1)
    }
    assert list(result["rates"]["claims"]) == ["best", "lr0.0003", "lr0.001"]
    assert result["rates"]["claims"]["best"] == result["claims"]
    assert "nano lr0.001, micro lr0.0003" in result["rates"]["text"]
    assert (out / "figures" / "rates.svg").exists()
    tables = out / "tables"
    assert len(pd.read_csv(tables / "rates.csv")) == 4
    assert set(pd.read_csv(tables / "claims_by_rate.csv")["rate"]) == {
        "best",
        "lr0.0003",
        "lr0.001",
    }
    page = (out / "report.html").read_text()
    assert 'id="rates"' in page and page.count("lr0.0003") > 2


def test_another_rate_is_shown_where_it_is_asked_for(out):
    result = json.loads(invoke(out, "--rate", "lr0.0003", "--json").output)
    assert {row["run"].split("-")[2] for row in result["cells"]} == {"lr0.0003"}
    assert result["rates"]["shown"] == "lr0.0003"
    refused = invoke(out, "--rate", "lr7")
    assert refused.exit_code == 1
    assert "no runs at 'lr7'; there are: best, lr0.0003, lr0.001" in refused.output


def test_the_figure_is_readable(out):
    figure = floors_figure(read(out))
    assert cut_off(figure) == [] and overlapping(figure) == []
    said = " ".join(words for words, _ in texts(figure))
    assert "8 runs" in said and "0.0003" in said and "MOD-1" in said


def test_the_terminal_shows_losses_and_floors(out):
    text = invoke(out).output
    assert "lr0.001 (best)" in text and "MOD-1" in text and "geomfast report OUT --rate" in text


def test_one_rate_has_no_section(tmp_path, only):
    only("rates")
    alone = write(tmp_path / "one", two_rates()[lambda frame: frame["run"].str.contains("lr0.001")])
    result = build(alone)
    assert result["rates"] is None and not (alone / "figures" / "rates.svg").exists()
    assert 'id="rates"' not in (alone / "report.html").read_text()


def test_a_scale_without_behaviour_is_named(tmp_path, only):
    only("rates")
    frame = join(two_rates(), run("small", "lr0.0003"), run("small", "lr0.001"))
    silent = frame[(frame["scale"] != "small") | (frame["measure"] == "rankme")]
    found = read(write(tmp_path / "some", silent))
    assert found.by_rate is not None and found.by_rate.left_out == ["small"]
    assert found.scales == ["nano", "micro"]
    none = write(tmp_path / "none", silent[silent["measure"] == "rankme"])
    refused = invoke(none)
    assert refused.exit_code == 1 and "choose one by --rate: lr0.0003, lr0.001" in refused.output


def invoke(out, *more):
    return CliRunner().invoke(main, ["report", str(out), *more])
