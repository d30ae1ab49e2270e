"""Records and behaviour.json: what is known stays, and nothing is overwritten or half written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from geomfast.files import DamagedFile, write_sealed
from geomfast.harness import folder
from geomfast.harness.collected import Collected, collect
from geomfast.harness.folder import RECORDS, geometry_runs, read_behaviour, write
from geomfast.harness.names import Naming
from geomfast.harness.sources import Source
from geomfast.records import COLUMNS, load_records, part_files, write_part
from geomfast.runs.errors import PlanError
from tests.analysis.synthetic import rows
from tests.harness.result_files import DATE, lines, new, old, sample


def collected(*values: Any, **how: Any) -> Collected:
    files = [
        v if isinstance(v, Source) else Source(f"{i}.json", json.dumps(v).encode())
        for i, v in enumerate(values)
    ]
    return collect(files, how.pop("naming", Naming()), **how)


def add(out: Path, *values: Any, **how: Any) -> dict[str, Any]:
    return write(out, collected(*values), {"command": "x"}, **how)


def content(out: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(out)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_records_of_results(tmp_path: Path) -> None:
    told = add(tmp_path, new({"arc_easy": 0.3, "t": {"acc,none": 0.4, "acc_norm,none": 0.5}}))
    assert (told["checkpoints"], told["values"], told["known"]) == (1, 3, 0)
    frame = load_records(tmp_path / RECORDS)
    assert list(frame) == [name for name, _, _ in COLUMNS]
    found = {(r.task, r.measure): (r.value, r.stderr, r.n) for r in frame.itertuples()}
    assert found["arc_easy", "accuracy"] == (0.3, pytest.approx(math.sqrt(0.21 / 399)), 400)
    # Without an error of its own that of independent samples.
    assert found["t", "accuracy_by_size"] == (0.5, pytest.approx(0.025), 400)
    assert set(frame["run"]) == {"pythia-70m"} and set(frame["step"]) == {1000}
    tasks = read_behaviour(tmp_path)["tasks"]
    assert (tasks["arc_easy"]["chance"], tasks["arc_easy"]["chance_from"]) == (0.25, "table")
    assert (tasks["t"]["chance"], tasks["t"]["kind"]) == (None, "other")
    assert tasks["t"]["metrics"] == ["acc,none", "acc_norm,none"]


def test_the_same_once_more_writes_no_value(tmp_path: Path) -> None:
    add(tmp_path, new({"t": 0.3}), new({"t": 0.3}, step=2))
    before = content(tmp_path)
    told = add(tmp_path, new({"t": 0.3}), new({"t": 0.3}, step=2))
    assert (told["checkpoints"], told["values"], told["known"]) == (0, 0, 2)
    after = content(tmp_path)
    assert {k: v for k, v in after.items() if k.endswith("parquet")} == {
        k: v for k, v in before.items() if k.endswith("parquet")
    }
    assert len(read_behaviour(tmp_path)["calls"]) == 2


def test_more_steps_and_more_tasks_are_added(tmp_path: Path) -> None:
    add(tmp_path, new({"a": 0.1}))
    told = add(tmp_path, new({"a": 0.1, "b": 0.2}), new({"a": 0.3}, step=2))
    assert (told["checkpoints"], told["values"], told["known"]) == (2, 2, 1)
    assert len(load_records(tmp_path / RECORDS)) == 3


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (new({"t": 0.6}), "step 1000, t, accuracy: 0.5 before, 0.6 now"),
        (new({"t": 0.6}, step=2, shots=5), "t: shots 0 before, 5 now"),
        (new({"t": {"mc1,none": 0.5}}, step=2), "t: acc and mc1 as accuracy"),
        (new({"t": 0.6}, step=2, model="B/pythia-70m"), "B/pythia-70m and EleutherAI/pythia-70m"),
        (old({"t": 0.6}, step=2), "t: version 1 before, 0 now"),
    ],
)
def test_what_contradicts_an_earlier_command_is_refused_and_changes_nothing(
    tmp_path: Path, later: Any, why: str
) -> None:
    add(tmp_path, new({"t": 0.5}))
    before = content(tmp_path)
    with pytest.raises(PlanError) as refused:
        add(tmp_path, later)
    assert why in str(refused.value) and content(tmp_path) == before


def test_other_shots_are_refused_from_either_side(tmp_path: Path) -> None:
    add(tmp_path, new({"t": 0.5}, shots=5))
    with pytest.raises(PlanError, match="shots 5 before, 0 now"):
        add(tmp_path, new({"t": 0.6}, step=2))


def test_what_is_given_stays_and_choices_come_before_the_table(tmp_path: Path) -> None:
    def told() -> tuple[Any, ...]:
        task = read_behaviour(tmp_path)["tasks"]["arc_easy"]
        return task["chance"], task["chance_from"], task["kind"]

    add(tmp_path, new({"arc_easy": 0.5}))
    assert told() == (0.25, "table", "facts")
    add(tmp_path, new({"arc_easy": 0.5}, step=2, choices=5))
    assert told() == (0.2, "choices", "facts")
    add(tmp_path, new({"arc_easy": 0.5}, step=3))
    assert told() == (0.2, "choices", "facts")
    given = {"chances": {"arc*": 0.3}, "kinds": {"arc*": "syntax"}}
    add(tmp_path, new({"arc_easy": 0.5}, step=3), **given)
    add(tmp_path, new({"arc_easy": 0.5}, step=4, choices=5))
    assert told() == (0.3, "given", "syntax")
    add(tmp_path, new({"arc_easy": 0.5}, step=4), chances={"arc_easy": 0.2})
    assert told() == (0.2, "given", "syntax")


def test_number_of_samples_that_is_known_stays(tmp_path: Path) -> None:
    add(tmp_path, old({"t": 0.3}))
    add(tmp_path, old({"t": 0.0}, step=0))
    assert read_behaviour(tmp_path)["tasks"]["t"]["n"] == 400


@pytest.mark.parametrize("option", ["chances", "kinds"])
def test_a_rate_or_kind_of_no_task_is_refused(tmp_path: Path, option: str) -> None:
    value: Any = {"arc_esay": 0.3} if option == "chances" else {"arc_esay*": "facts"}
    with pytest.raises(PlanError, match="arc_esay"):
        add(tmp_path, new({"arc_easy": 0.5}), **{option: value})
    assert not list(tmp_path.iterdir())


def test_samples_are_a_record_of_their_own(tmp_path: Path) -> None:
    answers = [sample(i, [-1.0, -2.0], i % 2) for i in range(40)]
    found = collected(
        Source(f"results_{DATE}.json", json.dumps(new({"t": 0.5}, n=40)).encode()),
        Source(f"samples_t_{DATE}.jsonl", lines(answers)),
    )
    write(tmp_path, found, {})
    frame = load_records(tmp_path / RECORDS).set_index("measure")
    assert frame.loc["choice_probability", "value"] == pytest.approx(0.5)
    assert read_behaviour(tmp_path)["tasks"]["t"]["chance"] == 0.5


def test_an_error_of_zero_is_that_of_independent_samples(tmp_path: Path) -> None:
    add(tmp_path, new({"t": {"acc,none": 0.5, "acc_stderr,none": 0.0}}))
    assert load_records(tmp_path / RECORDS)["stderr"].tolist() == [pytest.approx(0.025)]


def test_results_join_geometry_by_its_scale_and_seed(tmp_path: Path) -> None:
    frame = rows("rankme", [0, 1], [2.0, 3.0], layer="final", scale="70m", seed=3)
    own = frame.assign(run="pythia-70m")
    write_part(tmp_path / "records" / "pythia-70m" / "all.parquet", own.to_dict("records"))
    assert geometry_runs(tmp_path) == {"pythia-70m": ("70m", 3)}
    add(tmp_path, new({"t": 0.5}))
    found = load_records(tmp_path / RECORDS)
    assert found[["scale", "seed"]].drop_duplicates().values.tolist() == [["70m", 3]]
    assert len(load_records(tmp_path)) == 2  # records of measures alone


def test_a_command_that_is_killed_while_it_writes_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [new({"t": 0.5}, step=step) for step in range(4)]
    written = []

    def dying(path: Path, own: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_part(path, own)

    monkeypatch.setattr(folder, "write_part", dying)
    with pytest.raises(KeyboardInterrupt):
        add(tmp_path, *files)
    monkeypatch.undo()
    assert read_behaviour(tmp_path)["tasks"]
    told = add(tmp_path, *files)
    assert (told["values"], told["known"]) == (2, 2)
    assert len(load_records(tmp_path / RECORDS)) == 4


def test_an_edited_or_foreign_behaviour_json_is_refused(tmp_path: Path) -> None:
    add(tmp_path, new({"arc_easy": 0.5}))
    path = tmp_path / "behaviour.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0.25", b"0.10"))
    with pytest.raises(DamagedFile, match="has changed"):
        read_behaviour(tmp_path)
    path.write_bytes(whole[:100])
    with pytest.raises(DamagedFile):
        read_behaviour(tmp_path)
    for value in ({"format": "geomfast sweep 1"}, {**json.loads(whole), "tasks": []}):
        write_sealed(path, value)
        with pytest.raises(PlanError, match="not of geomfast behaviour"):
            read_behaviour(tmp_path)
    path.unlink()
    assert read_behaviour(tmp_path) == {}


def test_a_damaged_part_is_refused_by_its_name(tmp_path: Path) -> None:
    add(tmp_path, new({"t": 0.5}))
    (part,) = part_files(tmp_path / RECORDS)
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(Exception, match=part.name):
        add(tmp_path, new({"t": 0.5}))
