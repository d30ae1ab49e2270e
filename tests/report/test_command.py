"""``geomfast report`` as a user and another program see it."""

import pytest
from click.testing import CliRunner

from geomfast.cli.report import report
from geomfast.report import figures, style
from tests.analysis.synthetic import read_json, sweep, write


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    frame = sweep(tasks=["MUL", "MOD"], levels=[1, 3])
    return write(tmp_path_factory.mktemp("a-rather-long-name-of-a-folder" * 3), frame)


@pytest.fixture(autouse=True)
def one_figure(monkeypatch):
    """The figures have their own tests."""
    monkeypatch.setattr(figures, "FIGURES", figures.FIGURES[2:3])


def call(*arguments, columns=80):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(report, [str(a) for a in arguments])


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_and_the_last_line_is_the_page(out, columns):
    result = call(out, columns=columns)
    assert result.exit_code == 0, result.output
    lines = result.stdout.rstrip("\n").split("\n")
    assert lines[-1] == str(out / "report.html")
    assert max(len(line) for line in lines[:-1]) <= columns
    assert "\x1b" not in result.stdout and "…" not in result.stdout
    row = next(line for line in lines if line.lstrip().startswith("MUL-3")).split()
    assert row[0] == "MUL-3" and row[-2] == "no" and row[-1].endswith("%")
    text = " ".join(result.stdout.split())
    assert "Emergence events so far 3/4 paper v4: 144 combinations" in text
    assert "Floors below the initial value 4/4" in text


@pytest.mark.parametrize(
    ("version", "words"), [("v1", "32/32"), ("v3", "119 of 120"), ("v4", "144 combinations")]
)
def test_against(out, version, words):
    result = call(out, "--against", version, columns=120)
    assert result.exit_code == 0 and f"paper {version}: " in result.stdout
    assert words in result.stdout


def test_json(out, tmp_path):
    result = call(out, "--json", "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    value = read_json(result.stdout)
    assert set(value) == {
        "against", "paper", "settings", "summary", "lines", "cells", "top_down",
            "gradient_ranks", "hessian", "llc", "paths",
    }  # fmt: skip
    assert value["paths"]["html"] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").exists()
    assert {"count", "of"} <= set(value["summary"]["emerged"])
    assert {"value", "low", "high", "n", "by_scale"} == set(value["summary"]["mod_floor"])
    assert {"count", "of", "verdicts", "p_value"} <= set(value["summary"]["top_down_tasks"])
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


def test_a_missing_package_is_1_and_says_what_to_install(out, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(style.importlib, "import_module", absent)
    result = call(out)
    assert result.exit_code == 1 and 'pip install "geomfast[report]"' in result.stderr
