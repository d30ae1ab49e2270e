"""Results of many files as one table: no value twice, and nothing unlike in one curve."""

import json
import math
from typing import Any

import pytest

from geomfast.harness.collected import Collected, collect, error, size, sizes
from geomfast.harness.names import Naming
from geomfast.harness.sources import Source
from geomfast.runs.errors import PlanError
from tests.harness.result_files import DATE, lines, new, old, sample


def source(value: Any, name: str = "a.json", root: str = "") -> Source:
    return Source(name, value if isinstance(value, bytes) else json.dumps(value).encode(), "", root)


def collected(*values: Any, **how: Any) -> Collected:
    files = [v if isinstance(v, Source) else source(v, f"{i}.json") for i, v in enumerate(values)]
    return collect(files, how.pop("naming", Naming()), **how)


def changed(value: dict[str, Any], part: str, told: Any) -> dict[str, Any]:
    value[part]["t"] = told
    return value


def answers(right: int, n: int, choices: int) -> bytes:
    """Samples of n questions, of which some are answered right."""
    logprobs = [-1.0, *[-2.0] * (choices - 1)]
    return lines([sample(i, logprobs, 0 if i < right else 1) for i in range(n)])


def test_tasks_of_one_checkpoint_are_put_together() -> None:
    found = collected(new({"a": 0.1}), new({"b": 0.2}), new({"a": 0.3}, step=2))
    assert found.files == 3 and found.tasks == ["a", "b"]
    assert [(c.step, sorted(t)) for c, t in found.checkpoints.items()] == [
        (2, ["a"]),
        (1000, ["a", "b"]),
    ]


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (new({"t": 0.5}), new({"t": 0.5}), "step 1000, t: twice acc,none 0.5"),
        (new({"t": 0.5}), new({"t": 0.6}), "acc,none 0.5 and acc,none 0.6"),
        (old({"t": 0.5}), old({"t": 0.5}), "twice acc 0.5 "),
        (new({"t": 0.5}), new({"t": 0.5}, shots=5), "acc,none 0.5 and acc,none 0.5"),
        (new({"t": 0.5}), new({"t": 0.5}, step=2, shots=5), "t: 0 and 5"),
        (new({"t": 0.5}), changed(new({"t": 0.5}, step=2), "versions", 2.0), "versions 1 and 2"),
        (
            new({"t": {"exact_match,strict-match": 0.5}}),
            new({"t": {"exact_match,flexible-extract": 0.5}}, step=2),
            "exact_match,flexible-extract and exact_match,strict-match as accuracy",
        ),
        (
            new({"t": {"acc,none": 0.5}}),
            new({"t": {"mc1,none": 0.5}}, step=2),
            "acc and mc1 as accuracy",
        ),
        (new({"t": 0.5}, choices=2), new({"t": 0.5}, step=2, choices=4), "chances 0.25 and 0.5"),
        (new({"t": 0.5}, model="A/m"), new({"t": 0.5}, model="B/m", step=2), "m: A/m and B/m"),
    ],
)
def test_what_makes_no_curve_is_refused_by_name(one: Any, other: Any, why: str) -> None:
    with pytest.raises(PlanError) as refused:
        collected(one, other)
    assert why in str(refused.value)


def test_two_models_that_one_pattern_makes_one_run_are_refused() -> None:
    files = [new({"t": 0.5}, model=f"o/{name}-70m", step=i) for i, name in enumerate("ab")]
    naming = Naming(runs="pythia-{scale}", files="{scale}.json")
    named = [source(value, f"{i}/70m.json") for i, value in enumerate(files)]
    with pytest.raises(PlanError, match="one run, and several models"):
        collected(*named, naming=naming)


def test_old_and_new_names_of_one_metric_are_one() -> None:
    """Nor is a version that a file does not tell another one."""
    before, after = old({"t": 0.5}), new({"t": 0.5}, step=2)
    before["versions"] = {}
    assert len(collected(before, after).checkpoints) == 2


def test_one_local_path_and_the_hub_are_one_model() -> None:
    found = collected(new({"t": 0.5}), new({"t": 0.5}, model="/data/pythia-70m", step=2))
    assert {c.run for c in found.checkpoints} == {"pythia-70m"}
    assert found.models == {"pythia-70m": {"EleutherAI/pythia-70m"}}


def test_shots_choose_among_results() -> None:
    files = [new({"t": 0.1 * (1 + shots)}, shots=shots) for shots in (0, 5)]
    found = collected(*files, shots=5)
    (entry,) = found.of("t")
    assert entry.result.shots == 5 and found.tasks_left_out == {"t": "with 0 shots"}
    nothing = collected(*files, shots=3)
    assert not nothing.checkpoints


def test_files_of_other_runs_are_left_out_by_name() -> None:
    found = collected(new({"t": 0.5}), new({"t": 0.5}, model="o/other"), runs={"pythia-70m"})
    assert found.left_out == {"1.json": "of other, and the folder is of pythia-70m"}
    assert len(found.checkpoints) == 1


@pytest.mark.parametrize("model", ["..", "o/..", ".hidden", "a" * 300])
def test_models_that_no_folder_can_be_named_by_are_left_out(model: str) -> None:
    found = collected(new({"t": 0.5}, model=model))
    assert not found.checkpoints and found.left_out["0.json"].startswith("run ")


def test_a_run_by_a_pattern_cannot_lead_elsewhere() -> None:
    found = collected(new({"t": 0.5}), naming=Naming(runs="../../{scale}"))
    assert not found.checkpoints and "is not a name" in found.left_out["0.json"]


def test_samples_belong_to_the_results_of_their_folder_and_date() -> None:
    files = []
    for root, step, right in (("A", 1, 30), ("B", 2, 10)):
        results = new({"t": right / 40}, n=40, step=step)
        files.append(source(results, f"m/results_{DATE}.json", f"/{root}/m"))
        files.append(source(answers(right, 40, 4), f"m/samples_t_{DATE}.jsonl", f"/{root}/m"))
    found = collected(*files)
    told = [entry.samples.probability for entry in found.of("t") if entry.samples]
    odds = [math.exp(-1.0), math.exp(-2.0)]
    whole = odds[0] + 3 * odds[1]
    wanted = [(r * odds[0] + (40 - r) * odds[1]) / (40 * whole) for r in (30, 10)]
    assert told == pytest.approx(wanted) and [entry.rate for entry in found.of("t")] == [0.25] * 2


def test_samples_of_fewer_questions_than_the_results_are_left_out() -> None:
    files = [source(new({"t": 0.75}, n=40), f"results_{DATE}.json")]
    found = collected(*files, source(answers(15, 20, 4), f"samples_t_{DATE}.jsonl"))
    (entry,) = found.of("t")
    (why,) = found.left_out.values()
    assert entry.samples is None and why == "its sample file has 20 questions, and its results 40"


def test_other_files_are_left_out_by_their_reason() -> None:
    found = collected(
        new({"t": 0.5}), source(b"{}", "x.jsonl"), source(b"{", "y.json"), Source("z", b"", "why")
    )
    assert found.left_out["x.jsonl"] == "no file of the harness" and found.left_out["z"] == "why"
    assert found.left_out["y.json"].startswith("no JSON") and found.files == 1


def test_a_long_list_of_what_is_wrong_is_shortened() -> None:
    many = {f"t{i}": 0.5 for i in range(25)}
    with pytest.raises(PlanError, match="and 15 more"):
        collected(new(many), new(many))


@pytest.mark.parametrize(("value", "n"), [(0.3, 400), (0.5, 17), (0.999, 5000), (0.01, 1267)])
def test_an_error_of_the_old_format_tells_the_number_of_samples(value: float, n: int) -> None:
    (entry,) = collected(old({"t": value}, n=n)).of("t")
    assert size(entry) == n


@pytest.mark.parametrize("stderr", [0.0, 1e-200, 1e-8, math.nan])
def test_an_error_that_cannot_be_tells_none(stderr: float) -> None:
    value = old({"t": 0.3})
    value["results"]["t"]["acc_stderr"] = stderr
    assert size(collected(value).of("t")[0]) == 0


def test_number_of_samples_of_a_task_that_some_checkpoints_do_not_tell() -> None:
    found = collected(*(old({"t": value}, step=i) for i, value in enumerate((0.0, 0.3, 0.4, 1.0))))
    assert sizes(found) == {"t": 400}
    assert sizes(collected(old({"t": 0.0}))) == {"t": 0}


def test_an_error_is_its_own_or_that_of_independent_samples() -> None:
    assert error(0.5, 0.1, 100) == 0.1
    assert error(0.5, math.nan, 100) == pytest.approx(0.05)
    assert math.isnan(error(0.5, math.nan, 0))
