"""Tables of outcomes, from files and from records."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geomfast.analysis.population import (
    TableError,
    from_records,
    outcomes,
    read_table,
    resolution_of,
)
from geomfast.analysis.population.table import COLUMNS
from tests.analysis.populations import population_records, table


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_points_of_an_axis_are_in_the_order_of_their_numbers() -> None:
    names = [f"1x8-decay{d}-positions-{p}" for p in ("rotary", "alibi") for d in ("0.3", "1e-05")]
    names += [f"1x8-length{n}" for n in (10, 9, 3)]
    frame = pd.DataFrame({"scale": names, "seed": 0, "score": 0.5, "parameters": 100})
    assert outcomes(frame)["scale"].tolist() == [
        "1x8-decay1e-05-positions-alibi",
        "1x8-decay1e-05-positions-rotary",
        "1x8-decay0.3-positions-alibi",
        "1x8-decay0.3-positions-rotary",
        "1x8-length3",
        "1x8-length9",
        "1x8-length10",
    ]


def test_the_least_table(tmp_path: Path) -> None:
    found = read_table(write(tmp_path / "a.csv", "scale,seed,score\n10,1,0.5\n2,0,0.25\n2,1,\n"))
    assert list(found.columns) == COLUMNS
    assert found["scale"].tolist() == ["2", "2", "10"]
    assert found["score"].tolist()[0::2] == [0.25, 0.5]
    assert np.isnan(found["score"][1])
    assert found["length"].unique().tolist() == [0]


def test_parquet_equals_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"scale": ["b", "a", "b"], "seed": [1, 0, 0], "score": [0.1, 0.2, 0.3], "more": "x"}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    one, two = read_table(tmp_path / "a.parquet"), read_table(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(one, two)
    assert one[["scale", "seed"]].to_numpy().tolist() == [["b", 0], ["b", 1], ["a", 0]]


def test_scales_are_ordered_by_size_where_it_is_known() -> None:
    rows = {"seed": 0, "score": 0.5}
    sized = pd.DataFrame(
        [{"scale": s, "parameters": p} | rows for s, p in (("l", 9e6), ("s", 1e6), ("m", 4e6))]
    )
    assert outcomes(sized)["scale"].tolist() == ["s", "m", "l"]
    assert outcomes(sized.drop(columns="parameters"))["scale"].tolist() == ["l", "s", "m"]


def test_tasks_and_lengths_are_populations_of_their_own(tmp_path: Path) -> None:
    text = "scale,seed,score,task,length\na,0,0.1,count,30\na,0,0.9,count,20\na,0,0.2,add,20\n"
    found = read_table(write(tmp_path / "a.csv", text))
    keys = found[["task", "length"]].to_numpy().tolist()
    assert keys == [["add", 20], ["count", 20], ["count", 30]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,seed,acc\n1,2,3\n", "no column scale, score in size,seed,acc; expected the header"),
        ("scale,seed,score\n", "no rows; expected the header scale,seed,score"),
        ("", "expected the header scale,seed,score"),
        ("scale,seed,score\na,0,high\n", "row 1: score is not a number: 'high'"),
        ("scale,seed,score\na,0.5,1\n", "row 1: seed is not a whole number: 0.5"),
        ("scale,seed,score\na,0,1\na,,1\n", "row 2: seed is not a whole number: nothing"),
        ("scale,seed,score\na,0,inf\n", "row 1: score is inf"),
        ("scale,seed,score\na,0,1\na,0,2\n", "row 2: scale a, seed 0 is there twice"),
        ("scale,seed,score\n,0,1\n", "row 1: no scale"),
        (
            "scale,seed,score,parameters\na,0,1,10\na,1,1,20\n",
            "scale a has several values of parameters: 10, 20",
        ),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(TableError, match=r"is a \.csv or \.parquet file"):
        read_table(write(tmp_path / "a.txt", "x"))
    with pytest.raises(TableError, match="expected the header"):
        read_table(write(tmp_path / "a.parquet", "not parquet"))
    (tmp_path / "b.csv").write_bytes(b"scale,seed,score\n\xff\xfe,0,1\n")
    with pytest.raises(TableError, match="not text in UTF-8"):
        read_table(tmp_path / "b.csv")


def test_records_give_the_last_step_at_every_length() -> None:
    scores = {"2x32": np.array([0.1, 0.9, 0.3]), "1x8": np.array([0.0, 0.5])}
    found = from_records(population_records(scores))
    long = found[found["length"] == 16]
    assert long["scale"].tolist() == ["1x8", "1x8", "2x32", "2x32", "2x32"]
    assert long["score"].tolist() == [0.0, 0.5, 0.1, 0.9, 0.3]
    assert long["parameters"].tolist() == [768.0] * 2 + [24576.0] * 3
    assert long["loss"].to_numpy() == pytest.approx(1.0 - long["score"], abs=0.2)
    assert (found.loc[found["length"] == 8, "score"] == 1.0).all()
    assert (found["n"] == 200).all()
    sized = from_records(population_records(scores), {"1x8": 5e6, "2x32": 1e6})
    assert sized["scale"].iloc[0] == "2x32"


def test_a_member_without_a_last_step_has_not_finished() -> None:
    records = population_records({"1x8": np.array([0.1, 0.9, 0.3])})
    frozen = (records["seed"] == 1) & (records["step"] == 1000)
    found = from_records(records[~frozen])
    assert found.loc[found["seed"] == 1, "score"].isna().all()
    assert found.loc[found["seed"] != 1, "score"].notna().all()
    # Of a population that is still in training nobody has.
    assert from_records(records, last_step=2000)["score"].isna().all()
    with pytest.raises(TableError, match="hold no accuracy"):
        from_records(records[records["measure"] == "rankme"])


def test_resolution() -> None:
    assert resolution_of(table({"a": [0.1, 0.3]}, n=50)) == 0.02
    assert resolution_of(table({"a": [0.1, 0.3, 0.3, 0.35]})) == pytest.approx(0.05)
    assert resolution_of(table({"a": [0.1, 0.3, 0.35]})) == 0.0
    assert resolution_of(table({"a": [0.3, 0.3]})) == 0.0
