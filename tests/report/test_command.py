"""``geomfast report`` as a user and another program see it."""

import pytest
from click.testing import CliRunner

from geomfast.cli.report import report
from geomfast.report import extras
from tests.analysis.synthetic import join, read_json, sweep, write


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    frame = sweep(tasks=["MUL", "MOD"], levels=[1, 3])
    return write(tmp_path_factory.mktemp("a-rather-long-name-of-a-folder" * 3), frame)


@pytest.fixture(autouse=True)
def one_figure(only):
    """The figures have their own tests."""
    only("timeline")


def call(*arguments, columns=80):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(report, [str(a) for a in arguments])


def test_tables_fit_and_the_last_line_is_the_page(out):
    result = call(out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.rstrip("\n").split("\n")
    assert lines[-1] == str(out / "report.html")
    assert max(len(line) for line in lines[:-1]) <= 80
    assert "\x1b" not in result.stdout and "…" not in result.stdout
    row = next(line for line in lines if line.lstrip().startswith("MUL-3")).split()
    assert row[0] == "MUL-3" and row[-2] == "no" and row[-1].endswith("%")
    text = " ".join(result.stdout.split())
    assert "Claims of arXiv:2602.15997, v4" in text
    # Claims come first, then key numbers and task-levels.
    places = [text.index(words) for words in ("✓ holds", "Floors below the initial value 4/4")]
    assert places == sorted(places) and places[1] < text.index("MUL-3")


def test_two_sweeps_against_another_version(out, tmp_path):
    other = write(tmp_path / "other", sweep(tasks=["MOD"], levels=[1], seed=1))
    result = call(out, "--compare", other, "--against", "v1", columns=120)
    assert result.exit_code == 0, result.output
    heads = next(line for line in result.stdout.split("\n") if "paper v1" in line)
    assert "other" in heads and '"120+" events' in result.stdout
    assert "\nother: " in result.stdout  # how many of its claims hold


def test_json(out, tmp_path):
    result = call(out, "--json", "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    value = read_json(result.stdout)
    assert set(value) == {
        "generator", "name", "notes",
        "against", "paper", "claims", "settings", "summary", "lines", "cells", "top_down",
        "gradient_ranks", "hessian", "llc", "measures", "depth", "compare", "rates", "paths",
    }  # fmt: skip
    assert value["paths"]["html"] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").exists()
    assert {"name", "verdict", "value", "low", "high", "n", "paper"} <= set(value["claims"][0])
    assert {"count", "of"} <= set(value["summary"]["emerged"])
    cell = value["cells"][0]
    assert {"run", "scale", "seed", "task", "level"} <= set(cell)
    assert {"initial", "floor", "floor_step", "recovery_step", "final", "emerged_step"} <= set(cell)
    assert value["cells"][1]["emerged_step"] is None
    assert isinstance(cell["collapsed"], bool) and isinstance(cell["level"], int)
    assert value["top_down"][0]["verdict"] == "top-down"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such"),
        (["."], "no records"),
        ([".", "--against", "v2"], "v2"),
        ([".", "--compare", "."], "OUT itself"),
        ([], "OUT"),
    ],
)
def test_bad_usage_is_2(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2 and words in result.stderr and not result.stdout


def test_a_file_that_cannot_be_read_is_1(out, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "step-0.rankme.parquet").write_bytes(b"not parquet")
    result = call(tmp_path)
    assert result.exit_code == 1 and "step-0.rankme.parquet" in result.stderr


def test_records_that_contradict_each_other_are_1_and_listed(tmp_path):
    frame = sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4])
    twice = frame[(frame["step"] == 2) & (frame["measure"] == "accuracy")]
    result = call(write(tmp_path, join(frame, twice.assign(value=0.25))))
    assert result.exit_code == 1 and "joint-nano-seed0, step 2, MOD-1, accuracy" in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_missing_package_is_1_and_says_what_to_install(out, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    result = call(out)
    assert result.exit_code == 1 and 'pip install "geomfast[report]"' in result.stderr
