"""Many models by one pattern, and what their names say of scale and seed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from geomfast.cli.main import main
from geomfast.records import load_records
from geomfast.runs.errors import PlanError
from geomfast.series.hub import HubSeries
from geomfast.series.patterns import Named, compiled, expanded, named
from geomfast.series.plan import default_out, remove_partial_writes, series_of, shared_settings
from tests.lm.language_models import WORDS, save

HUB = "EleutherAI/pythia-{14m,70m}-seed{1..3}"


def test_braces_expand_as_in_a_shell() -> None:
    assert expanded("a/b") == ["a/b"] and expanded("a{7}b") == ["a7b"]
    assert expanded("x-{a, b}-{08..10}") == [f"x-{w}-{n}" for w in "ab" for n in ("08", "09", "10")]
    assert len(expanded(HUB)) == 6 and expanded(HUB)[-1] == "EleutherAI/pythia-70m-seed3"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a{1..", None),
        ("a{1,{2,3}}", "braces"),
        ("a{3..1}", "ascends"),
        ("a{1..2000}", "at most"),
        ("a{,b}", "neither a list nor a range"),
        ("a{b,b}", "there twice"),
        ("a{1..999}{1,2}", "more than 1,000"),
    ],
)
def test_patterns_that_are_none(pattern: str, said: str | None) -> None:
    if said is None:
        assert expanded(pattern) == [pattern]
        return
    with pytest.raises(PlanError, match=said):
        expanded(pattern)


def test_names_say_scale_and_seed() -> None:
    assert named(["pythia-1.4b-seed12"]) == [Named("pythia-1.4b", 12)]
    read = named(["s7_of_tiny.v1", "s8_of_tiny.v1"], "s{seed}_of_{scale}")
    assert read == [Named("tiny.v1", 7), Named("tiny.v1", 8)]
    for names, pattern, said in (
        (["a-seed1"], "{scale}", "each once"),
        (["a-seed1"], "{scale}{seed}{seed}", "each once"),
        (["a-1"], "{scale}-seed{seed}", "a-1 is not named like"),
        (["a-seed1", "a-seed01"], "{scale}-seed{seed}", "both scale a, seed 1"),
    ):
        with pytest.raises(PlanError, match=said):
            named(names, pattern)


def test_models_of_the_hub_are_series_of_their_own(tmp_path: Path) -> None:
    series = series_of(HUB, ("step0", "step1000"), tmp_path, {}, probes=("syntax",))
    assert [(one.run, one.scale, one.seed) for one in series[:2]] == [
        ("pythia-14m-seed1", "pythia-14m", 1),
        ("pythia-14m-seed2", "pythia-14m", 2),
    ]
    assert all(isinstance(one, HubSeries) for one in series)
    places = {one.downloads for one in series if isinstance(one, HubSeries)}
    assert len(places) == 6 and tmp_path / "downloads" / "pythia-70m-seed3" in places
    assert shared_settings(series)["source"] == "EleutherAI/*"
    assert shared_settings(series) == shared_settings(series[:1])
    assert default_out(HUB) == Path("measured/EleutherAI--pythia-_14m_70m_-seed_1..3_")
    with pytest.raises(PlanError, match="is not named like"):
        series_of("someone/{a,b}", (), tmp_path, {}, probes=("syntax",))
    remove_partial_writes(tmp_path, [])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a tiny model and one of another, which is larger and comes first by name."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        save(folder / f"tiny-small-seed{seed}", "GPTNeoX", scale=1.0 + seed)
    save(folder / "tiny-large-seed0", "GPTNeoX", width=32)
    return folder


def test_seeds_of_language_models_are_a_population(models: Path, tmp_path: Path) -> None:
    out, probes = tmp_path / "out", tmp_path / "own.jsonl"
    rows = [
        {"prompt": WORDS[i], "choices": [WORDS[i + 1], WORDS[i + 2]], "answer": i % 2}
        for i in range(12)
    ]
    probes.write_text("\n".join(map(json.dumps, rows)))

    def call(pattern: str, *more: str):
        asked = ["measure", f"{models}/{pattern}", "--out", str(out), "--probes", str(probes)]
        return CliRunner().invoke(main, [*asked, "--threads", "1", *more])

    first = call("tiny-small-seed{0..1}")
    assert first.exit_code == 0, first.output
    assert f"report {out} --population" in " ".join(first.output.split())
    before = load_records(out)
    grown = call("tiny-large-seed0", "--names", "{scale}-seed{seed}")
    assert grown.exit_code == 0, grown.output
    records = load_records(out)
    members = {("tiny-small", 0), ("tiny-small", 1), ("tiny-large", 0)}
    assert set(zip(records["scale"], records["seed"], strict=True)) == members
    old = records[records["run"].isin(before["run"])].reset_index(drop=True)
    assert old["value"].equals(before["value"])
    reported = CliRunner().invoke(main, ["report", str(out), "--population", "--json"])
    assert reported.exit_code == 0, reported.output
    (found,) = json.loads(reported.stdout)["populations"]
    assert (found["task"], found["length"], found["members"]) == ("own", 0, 3)
    assert found["success"] == 0.75  # halfway from a half to 1
    told = json.loads((out / "settings.json").read_text())["sizes"]
    assert 0 < told["tiny-small"] < told["tiny-large"]
    scales = [(row["scale"], row["seeds"], row["parameters"]) for row in found["summary"]]
    sizes = told["tiny-small"], told["tiny-large"]
    assert scales == [("tiny-small", 2, sizes[0]), ("tiny-large", 1, sizes[1])]


def test_fields_of_a_pattern_and_all_else_as_it_is() -> None:
    wanted = compiled("a.{scale}_seed{seed}", "--names", ("scale",), ("seed",))
    found = wanted.fullmatch("a.b_seed07")
    assert found is not None and found.groupdict() == {"scale": "b", "seed": "07"}
    assert wanted.fullmatch("axb_seed7") is None and wanted.fullmatch("a.b_seedx") is None
    one = compiled("{scale}", "--names", ("scale",), ("seed",))
    assert one.groupindex == {"scale": 1} and one.fullmatch("a-b/c") is not None


@pytest.mark.parametrize("pattern", ["", "{seed}", "{scale}{scale}", "{scale}{step}", "{Scale}"])
def test_a_field_that_is_missing_twice_or_unknown_is_refused(pattern: str) -> None:
    with pytest.raises(PlanError, match="--names"):
        compiled(pattern, "--names", ("scale",), ("seed",))
