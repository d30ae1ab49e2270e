"""The report of populations, from records and from tables, as a user and another program see it."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from geomfast.cli.report import report
from geomfast.report.population import assemble, is_population
from tests.analysis.populations import population_records, two_groups, write_population
from tests.analysis.synthetic import sweep, write


@pytest.fixture(scope="module", autouse=True)
def one_figure():
    """The figures have their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "FIGURES", assemble.FIGURES[1:2])
        yield


SETTINGS = {
    "format": "geomfast population 1",
    "settings": {"task": "count", "train_length": 8, "steps": 1000, "batch_size": 16},
    "recipes": {"1x16": {"parameters": 5_000}, "2x32": {"parameters": 30_000}},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    generator = np.random.default_rng(0)
    scores = {"2x32": two_groups(24, 0.5, generator), "1x16": two_groups(24, 0.0, generator)}
    records = population_records(scores, signal=2.0)
    lost = (records["seed"] == 5) & (records["step"] > 100) & (records["scale"] == "1x16")
    folder = tmp_path_factory.mktemp("population")
    write_population(folder, records[~lost], SETTINGS)
    return folder


@pytest.fixture(scope="module")
def reported(out):
    """What the command says of that folder, as text and as JSON."""
    return call(out), call(out, "--json")


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "evals.csv"
    rows = [f"{s},{i},{(i % 2) * 0.5 + 0.001 * i}" for s in ("70m", "160m") for i in range(12)]
    path.write_text("scale,seed,score\n" + "\n".join([*rows, "410m,0,0.7"]) + "\n")
    return path


def call(*arguments, columns=80):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(report, [str(a) for a in arguments])


def test_a_population_is_told_from_a_sweep(out, scores, tmp_path):
    assert is_population(out) and is_population(scores)
    swept = write(tmp_path / "sweep", sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4]))
    part = next((swept / "records").rglob("*.parquet"))
    assert not any(is_population(path) for path in (swept, part, tmp_path, tmp_path / "none"))
    (out / "settings.json").rename(out / "settings.away")
    assert is_population(out)  # by its tasks
    (out / "settings.away").rename(out / "settings.json")


def test_the_report_of_a_folder(out, reported):
    result = reported[0]
    assert result.exit_code == 0, result.output
    lines = result.stdout.rstrip("\n").split("\n")
    assert lines[-1] == str(out / "report.html")
    assert max(len(line) for line in lines[:-1]) <= 80
    assert "…" not in result.stdout and "\x1b" not in result.stdout
    text = " ".join(result.stdout.split())
    assert "COUNT, length 8, as in training: success from 0.2" in text
    assert "Scales with more than one mode: 1 of 2; 2x32" in text
    assert "Unfinished members, left out: 1; 1x16: seed 5" in text
    assert "Unlocks at: 2x32" in text
    assert re.search(r"Early geometry: 0\.[01]\d; AUC of RankMe at 2x32, final", text)
    # Smallest first, with the sizes that settings.json has.
    small, large = re.search(r"1x16 +5K", result.stdout), re.search(r"2x32 +30K", result.stdout)
    assert small and large and small.start() < large.start()


def test_the_page_is_one_file_and_loads_nothing(out, reported):
    assert reported[0].exit_code == 0
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "<script" not in page
    assert page.count("<figure") == 2 and "COUNT, length 16" in page
    assert "train_length 8" in page  # in captions and settings
    assert "Newcombe" in page
    assert (out / "figures" / "count-16" / "scaling.svg").exists()


def test_tables_and_json_hold_the_numbers(out, reported):
    value = json.loads(reported[1].stdout)
    assert set(value) == {"generator", "name", "notes", "settings", "populations", "paths"}
    long = value["populations"][1]
    assert long["length"] == 16 and long["unlocking"]["scale"] == "2x32"
    assert long["resolution"] == 1 / 200
    rows = {row["scale"]: row for row in long["summary"]}
    assert rows["2x32"]["success"] == 0.5 and rows["1x16"]["seeds"] == 23
    assert rows["1x16"]["given_success"] is None
    best = {row["scale"]: row for row in long["early_geometry"]}
    assert best["2x32"]["family_p"] < 0.01 and best["2x32"]["layer"] == "final"
    folder = out / "tables" / "count-16"
    assert {path.name for path in folder.iterdir()} == {
        "outcomes.csv", "summary.csv", "modes.csv", "distances.csv", "seeds.csv",
        "seeds_needed.csv", "geometry.csv", "early_geometry.csv",
    }  # fmt: skip
    table = pd.read_csv(folder / "summary.csv")
    assert table["success"].tolist() == [0.0, 0.5]
    assert json.loads((out / "report.json").read_text())["populations"] == value["populations"]


def test_the_report_of_a_table(scores):
    result = call(scores, "--success", "0.6")
    assert result.exit_code == 0, result.output
    folder = scores.with_suffix("")
    assert result.stdout.rstrip().split("\n")[-1] == str(folder / "report.html")
    text = " ".join(result.stdout.split())
    assert "scores: success from 0.6" in text and "1 seeds; statistics need 10" in text
    assert "0% (0–24)" in text
    assert (folder / "figures" / "scaling.png").exists()
    assert (folder / "tables" / "summary.csv").exists()
    page = (folder / "report.html").read_text()
    assert "Newcombe" not in page and 'id="settings"' not in page


def test_a_parquet_table_gives_the_same(scores):
    pd.read_csv(scores).to_parquet(scores.with_name("again.parquet"))
    one, two = (call(path, "--json") for path in (scores, scores.with_name("again.parquet")))
    assert json.loads(one.stdout)["populations"] == json.loads(two.stdout)["populations"]


def test_a_wrong_header_is_1_and_shows_the_right_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("model,accuracy\nx,1\n")
    result = call(path)
    assert result.exit_code == 1
    words = " ".join(result.stderr.split())
    assert "no column scale, seed, score in model,accuracy" in words
    assert "expected the header scale,seed,score" in words
    assert not (tmp_path / "a").exists()


def test_options_of_the_other_kind_of_report_are_2(out, scores, tmp_path):
    assert call(out, "--every-run").exit_code == 2
    assert call(scores, "--compare", out).exit_code == 2
    swept = write(tmp_path / "sweep", sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4]))
    result = call(swept, "--success", "0.5")
    assert result.exit_code == 2 and "for populations" in result.stderr
    assert call(tmp_path / "none.csv").exit_code == 2


def test_bases_with_different_tests_are_told():
    recipes = {"small": {"examples": [30, 6]}, "large": {"examples": [30, 17]}}
    (note,) = assemble._different_tests({"recipes": recipes})
    assert note.endswith("their context: small on 6, large on 17")
    recipes["small"]["examples"] = [3, 17]
    assert assemble._different_tests({"recipes": recipes}) == []
    assert assemble._different_tests({"recipes": {"1x8": {"parameters": 3}}}) == []
