"""Tables and options that no report can use: one line says which, and what is wrong with it."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from geomfast.analysis.population import TableError, outcomes, read_table
from geomfast.analysis.population import table as module
from geomfast.cli.report import report
from geomfast.report.population import assemble
from geomfast.report.population import build as build_population


def call(*arguments):
    return CliRunner().invoke(report, [str(a) for a in arguments])


def refused(result, *words):
    """One line of words, no traceback."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.csv"
    rows = [f"{scale},{seed},0.{seed}" for scale in "ab" for seed in range(3)]
    path.write_text("\n".join(["scale,seed,score", *rows]) + "\n")
    return path


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_success_that_is_no_score(good, value):
    refused(call(good, f"--success={value}"), "--success", "is not a score")
    with pytest.raises(ValueError, match="success must be a number"):
        build_population(good, success=float(value))


@pytest.mark.parametrize("path", ["x" * 300, "x" * 300 + ".csv", "/".join(["x" * 200] * 40)])
def test_paths_that_are_too_long(tmp_path, good, path):
    from geomfast.cli.main import main

    for arguments in ([str(tmp_path / path)], [str(good), "--html", str(tmp_path / path)]):
        result = CliRunner().invoke(main, ["report", *arguments])
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
        assert result.stderr.startswith(("Error: ", "Usage: "))


def csv(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale,seed,score\na,0,0.5,extra\n", "rows of more columns than the header"),
        ("scale,seed,score\na,0,0.5\na,1,0.5,extra\n", "Expected 3 fields in line 3, saw 4"),
        ("scale,seed,score,n\na,0,0.5,0\n", "row 1: n is 0.0, not positive"),
        ("scale,seed,score,n\na,0,0.5,5\na,1,0.5,-5\n", "row 2: n is -5.0, not positive"),
        ("scale,seed,score,n\na,0,0.5,inf\n", "row 1: n is inf, not positive"),
        ("scale,seed,score,parameters\na,0,0.5,-1\n", "row 1: parameters is -1.0, not positive"),
        (
            "scale,seed,score\na,0,1\na,9223372036854775808,1\n",
            "row 2: seed is beyond the whole numbers of 64 bits: 9223372036854775808",
        ),
        ("scale,seed,score\na,-9223372036854775809,1\n", "row 1: seed is beyond"),
        ("scale,seed,score\na,1e400,1\n", "row 1: seed is beyond"),
        ("scale,seed,score\n" + "x" * 1_001 + ",0,1\n", "a name of more than 1,000 letters"),
    ],
)
def test_rows_that_are_refused(tmp_path, text, message):
    path = csv(tmp_path, text)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    result = call(path)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)


def test_the_largest_seeds_are_exact(tmp_path):
    seeds = [-(2**63), 2**63 - 2, 2**63 - 1, 2**53, 2**53 + 1]
    rows = "".join(f"a,{seed},0.5\n" for seed in seeds)
    assert read_table(csv(tmp_path, "scale,seed,score\n" + rows))["seed"].tolist() == sorted(seeds)


def test_columns_twice_and_columns_of_lists(tmp_path):
    values = [pa.array(["a", "a"]), pa.array([0, 1]), pa.array([0.5, 0.5])]
    twice = pa.table([*values, values[2]], names=["scale", "seed", "score", "score"])
    pa.parquet.write_table(twice, tmp_path / "twice.parquet")
    lists = pa.table({"scale": [["a"], ["b"]], "seed": [0, 1], "score": [0.5, 0.5]})
    pa.parquet.write_table(lists, tmp_path / "lists.parquet")
    with pytest.raises(TableError, match="score"):
        read_table(tmp_path / "twice.parquet")
    with pytest.raises(TableError, match="column scale holds lists"):
        read_table(tmp_path / "lists.parquet")
    for name in ("twice", "lists"):
        assert isinstance(call(tmp_path / f"{name}.parquet").exception, SystemExit)
    with pytest.raises(TableError, match="column score is there twice"):
        outcomes(pd.DataFrame([["a", 0, 1.0, 1.0]], columns=["scale", "seed", "score", "score"]))


def test_infinite_losses_are_reported_without_statistics(tmp_path):
    rows = [f"a,{i},0.{i:02},{'inf' if i == 3 else i}\n" for i in range(12)]
    result = build_population(csv(tmp_path, "scale,seed,score,loss\n" + "".join(rows)))
    (row,) = result["populations"][0]["summary"]
    assert row["loss"] is None and row["loss_dip"] is None and row["mean"] is not None


def test_a_parquet_that_expands_is_refused_by_its_footer(tmp_path, monkeypatch):
    frame = pa.table({"scale": ["a"] * 2_000, "seed": range(2_000), "score": [0.5] * 2_000})
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(frame, path)
    monkeypatch.setattr(pa.parquet, "read_table", lambda *_, **__: pytest.fail("was read"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "LARGEST_ROWS", 1_999)
        with pytest.raises(TableError, match="2,000 rows, at most 1,999"):
            read_table(path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "LARGEST_BYTES", 1_000)
        with pytest.raises(TableError, match="GiB when read, at most"):
            read_table(path)


def test_tables_of_many_tasks_are_together(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "MOST_DRAWN", 1)
    monkeypatch.setattr(assemble, "MOST_FOLDERS", 8)
    rows = [(t, s, i, i / 12) for t in range(10) for s in "ab" for i in range(12)]
    table = pd.DataFrame(rows, columns=["task", "scale", "seed", "score"])
    table.to_csv(tmp_path / "a.csv", index=False)
    result = call(tmp_path / "a.csv")
    assert result.exit_code == 0, result.output
    files = {path.name for path in (tmp_path / "a" / "tables").iterdir()}
    assert {"outcomes.csv", "summary.csv", "distances.csv"} <= files and "curves.csv" not in files
    summary = pd.read_csv(tmp_path / "a" / "tables" / "summary.csv")
    assert summary[["task", "scale"]].to_numpy().tolist() == [
        [t, s] for t in range(10) for s in "ab"
    ]
    assert len(pd.read_csv(tmp_path / "a" / "tables" / "outcomes.csv")) == len(rows)
    said = " ".join(result.stdout.split())
    assert "2 more tasks and lengths, not printed" in said
    assert "tables of all tasks and lengths are together" in said
