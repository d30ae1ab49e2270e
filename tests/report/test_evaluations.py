"""The report on benchmarks, alone and beside geometry: what is on it, and that it stays plain."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from geomfast.files import write_json
from geomfast.harness.folder import RECORDS
from geomfast.records import RecordsError, write_part
from geomfast.report import evaluations
from geomfast.report.evaluations import assemble, figures, tables
from geomfast.report.evaluations.data import Evaluations, read
from tests.analysis.synthetic import join, read_json, rows
from tests.harness.result_files import behaviour, new, put, training
from tests.report.looks import cut_off, texts
from tests.report.test_assemble import parsed

STEPS = [0, *(2**i for i in range(10)), *range(1000, 14_001, 1000)]
COUNT = len(STEPS)
SECTIONS = ("numbers", "figures", "rises", "claims", "methods")


def rise(at: int, low: float = 0.25, high: float = 0.6) -> list[float]:
    return [low if i < at else high for i in range(COUNT)]


def folder(
    root: Path,
    models: Mapping[str, Mapping[str, Sequence[Any]]],
    *arguments: str,
    steps: Sequence[int] = STEPS,
    **how: Any,
) -> Path:
    """An OUT of results: accuracy by model, task and step."""
    for model, curves in models.items():
        training(root / "results", curves, steps, model=model, **how)
    result = behaviour(root / "out", root / "results", *arguments)
    assert result.exit_code == 0, result.output
    return root / "out"


def build(out: Path) -> tuple[dict[str, Any], str]:
    """What the report tells, read strictly, and the text of its page."""
    told = evaluations.build(out)
    read_json(Path(told["paths"]["json"]).read_text())
    json.dumps(told, allow_nan=False)
    return told, parsed(Path(told["paths"]["html"]))[1]


@pytest.fixture
def drawn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "FIGURES", ())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    small = {"arc_easy": rise(12), "piqa": rise(9, 0.5, 0.8), "sciq": rise(10), "mine": rise(5)}
    small |= {f"mmlu_{i}": [0.25] * COUNT for i in ("anatomy", "virology")}
    large = small | {"arc_easy": rise(8), "piqa": rise(11, 0.5, 0.8), "mmlu_anatomy": rise(15)}
    models = {"o/p-70m": small, "o/p-160m": large, "o/p-1.4b": large}
    out = folder(tmp_path_factory.mktemp("alone"), models, "--names", "p-{scale}")
    return out, *build(out)


def test_a_page_of_its_own_has_every_section(alone: tuple[Path, dict[str, Any], str]) -> None:
    out, told, text = alone
    page = (out / "report.html").read_text()
    for section in (*SECTIONS, "swaps"):
        assert f'id="{section}"' in page and f'href="#{section}"' in page, section
    assert 'id="geometry"' not in page and not (out / "behaviour.html").exists()
    assert "6 tasks at 25 checkpoints up to step 14,000" in text
    assert "70m, 160m, 1.4b" in text and "MMLU, all 2 tasks" in text
    assert {path.stem for path in (out / "tables").iterdir()} == {
        "counts", "rises", "rises_by_a_tenth", "order", "suddenness", "scaling",
        "checkpoints_needed", "swapped",
    }  # fmt: skip
    assert "not known of 1 tasks, the first mine" in " ".join(told["notes"])
    assert {claim["verdict"] for claim in next(iter([told["claims"]]))} == {"not enough data"}


def test_nothing_on_the_page_is_fetched(alone: tuple[Path, dict[str, Any], str]) -> None:
    references, _ = parsed(alone[0] / "report.html")
    assert all(r.startswith(("#", "data:")) or "arxiv.org" in r for r in references if r)


def test_numbers_are_those_of_the_curves(alone: tuple[Path, dict[str, Any], str]) -> None:
    out, told, _ = alone
    rises = pd.read_csv(out / "tables" / "rises.csv").set_index(["scale", "task"])["step"]
    assert rises["70m", "arc_easy"] == STEPS[12] and rises["1.4b", "mmlu_anatomy"] == STEPS[15]
    assert rises["1.4b", "MMLU"] == STEPS[15] and math.isnan(rises["70m", "MMLU"])
    order = pd.read_csv(out / "tables" / "order.csv")
    assert order["swapped"].tolist() == [3, 3, 0]  # all of arc_easy, piqa and sciq
    assert [row[0] for row in told["count_rows"]] == ["70m", "160m", "1.4b"]
    assert told["count_rows"][0][1:4] == ["5", "3", "3"]
    lines = {label: value for label, value, _ in told["lines"]}
    assert lines["Tasks that leave chance"] == "4 of 5"


def test_every_figure_is_drawn_and_nothing_is_cut_off(
    alone: tuple[Path, dict[str, Any], str],
) -> None:
    found = read(alone[0])
    for picture in figures.FIGURES:
        figure = picture.draw(found)
        assert (figure is None) == (picture.name == "what-leads")
        assert figure is None or cut_off(figure) == [], picture.name
    marks = [text for text, _ in texts(figures.emergence_map(found))]
    assert marks.count("·") == 2 and "256" in marks and "1k" in marks


def test_written_twice_it_is_the_same(alone: tuple[Path, dict[str, Any], str]) -> None:
    before = (alone[0] / "report.json").read_bytes()
    evaluations.build(alone[0])
    assert (alone[0] / "report.json").read_bytes() == before


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    curves = {"blimp": rise(9, 0.5, 0.8), "arc_easy": rise(11), "mine": rise(14)}
    out = folder(tmp_path_factory.mktemp("joined"), {"o/p-70m": curves}, "--chance", "mine=0.25")
    generator = np.random.default_rng(2)
    frames = []
    for task, at in (("syntax", 6), ("facts", 11)):
        values = np.where(np.arange(COUNT) < at, 5, 10) + 0.05 * generator.standard_normal(COUNT)
        frames.append(rows("rankme", STEPS, values.tolist(), task=task, layer="final"))
    frame = join(*frames).assign(run="p-70m", scale="another", seed=7)
    write_part(out / "records" / "p-70m" / "all.parquet", frame.to_dict("records"))
    write_json(out / "settings.json", {"chance": {}})
    return out, *build(out)


def test_beside_geometry_it_is_a_second_page(joined: tuple[Path, dict[str, Any], str]) -> None:
    out, told, text = joined
    page = (out / "behaviour.html").read_text()
    for section in (*SECTIONS, "geometry"):
        assert f'id="{section}"' in page and f'href="#{section}"' in page, section
    assert not (out / "report.html").exists() and (out / "behaviour-report.json").is_file()
    assert "Geometry before behaviour" in text
    names = {path.stem for path in (out / "tables" / "behaviour").iterdir()}
    assert {"beside", "leads", "precursors"} <= names
    found = pd.read_csv(out / "tables" / "behaviour" / "beside.csv")
    assert found["task"].tolist() == ["arc_easy", "blimp"] and set(found["why"]) == {"kind"}
    assert "no independent evidence" in " ".join(told["notes"])
    assert figures.what_leads(read(out)) is not None


def test_scale_and_seed_are_those_of_geometry(joined: tuple[Path, dict[str, Any], str]) -> None:
    found = pd.read_csv(joined[0] / "tables" / "behaviour" / "leads.csv")
    rank = found[found["measure"] == "rankme"].set_index("task")["outcome"]
    assert rank.to_dict() == {"arc_easy": "tie", "blimp": "lead"}
    assert set(found["scale"]) == {"another"} and set(found["seed"]) == {7}
    assert read(joined[0]).runs == ["p-70m"]


# Awkward folders

FLAT = {"arc_easy": [0.25] * COUNT}
AWKWARD: dict[str, Mapping[str, Sequence[Any]]] = {
    "one checkpoint": {"arc_easy": [0.25]},
    "two checkpoints": {"arc_easy": [0.25, 0.9]},
    "all at chance": FLAT,
    "none right": {"arc_easy": [0.0] * COUNT},
    "all right": {"arc_easy": [1.0] * COUNT},
    "none and then all": {"arc_easy": rise(9, 0.0, 1.0)},
    "unknown chance": {"mine": rise(9)},
    "no errors": {"arc_easy": [{"acc,none": v, "acc_stderr,none": "N/A"} for v in rise(9)]},
    "like a collection": {"MMLU": rise(9), "mmlu_anatomy": rise(9), "mmlu_virology": rise(9)},
    "perplexity": {
        "lambada": [{"acc,none": 0.1, "perplexity,none": 9.0 - i / 4} for i in range(25)]
    },
}


@pytest.mark.usefixtures("drawn_nothing")
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_curves_make_a_page(tmp_path: Path, name: str) -> None:
    curves = AWKWARD[name]
    steps = STEPS[: len(next(iter(curves.values())))]
    told, text = build(folder(tmp_path, {"o/p-70m": curves}, steps=steps))
    risen = name in ("none and then all", "no errors", "like a collection")
    assert [row[2][0] != "0" for row in told["count_rows"]] == [risen] and "Methods" in text


def test_all_figures_of_awkward_curves(tmp_path: Path) -> None:
    """Of single checkpoints, flat and empty curves some have nothing to draw."""
    for number, (name, curves) in enumerate(AWKWARD.items()):
        steps = STEPS[: len(next(iter(curves.values())))]
        found = read(folder(tmp_path / str(number), {"o/p-70m": curves}, steps=steps))
        for picture in figures.FIGURES:
            figure = picture.draw(found)
            assert figure is None or figure.axes, (name, picture.name)


NAMES = ["<script>alert(1)</script>", "a$b$c_{d}^", "x=y", "../..", "a\nb\x1b[31m", "%s \\frac{"]
NAMES += ["[red]z[/red]", "éß" * 30, " ", "=1+1"]


def test_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    curves = {name: rise(9) for name in NAMES}
    out = folder(tmp_path, {"o/<b>$x$": curves}, "--chance", "*=0.25")
    told, text = build(out)
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page and "<b>$x$" not in page and "<b>$x$" in text
    assert told["count_rows"][0][2] == str(len(NAMES)) and "\x1b" not in page
    table = (out / "tables" / "rises.csv").read_text()
    assert "'=1+1" in table and not re.search(r"(^|,)=1", table, re.MULTILINE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "results"]


@pytest.mark.usefixtures("drawn_nothing")
def test_two_runs_of_one_scale_are_told_apart_by_their_seeds(tmp_path: Path) -> None:
    models = {f"o/p-70m-seed{seed}": {"arc_easy": rise(8 + seed)} for seed in (1, 2)}
    told, _ = build(folder(tmp_path, models, "--names", "p-{scale}-seed{seed}"))
    assert [row[0] for row in told["count_rows"]] == ["70m, seed 1", "70m, seed 2"]


@pytest.mark.usefixtures("drawn_nothing")
def test_what_may_have_risen_before_is_noted(tmp_path: Path) -> None:
    late = [step + 1000 for step in STEPS]
    out = folder(tmp_path, {"o/p-70m": {"piqa": [0.7] * COUNT, "sciq": rise(9)}}, steps=late)
    told, _ = build(out)
    assert "1 curves of tasks are above chance from their first checkpoint" in told["notes"][0]
    marks = [text for text, _ in texts(figures.emergence_map(read(out)))]
    assert "1.26k" in marks


def test_a_run_of_which_only_perplexity_is_known_is_left_out(tmp_path: Path) -> None:
    other = {"wikitext": [{"word_perplexity,none": 9.0}] * COUNT}
    found = read(folder(tmp_path, {"o/p-70m": {"sciq": rise(9)}, "o/p-14m": other}))
    assert found.runs == ["p-70m"] and len(tables.count_rows(found)) == 1
    nothing = folder(tmp_path / "more", {"o/p-14m": other})
    with pytest.raises(RecordsError, match="no accuracy of any task"):
        read(nothing)


def test_folders_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    out = folder(tmp_path, {"o/p-70m": FLAT})
    assert evaluations.has_behaviour(out) and not evaluations.has_behaviour(tmp_path)
    whole = (out / "behaviour.json").read_bytes()
    (out / "behaviour.json").unlink()
    assert evaluations.has_behaviour(out)
    with pytest.raises(RecordsError, match=r"has no behaviour\.json"):
        read(out)
    (out / "behaviour.json").write_bytes(whole)
    more = rows("accuracy", [1], [0.5], task="unheard of").assign(run="p-70m")
    write_part(out / RECORDS / "p-70m" / "more.parquet", more.to_dict("records"))
    with pytest.raises(RecordsError, match="does not know the task 'unheard of'"):
        read(out)


def test_a_folder_whose_measures_are_still_to_come_has_its_page(tmp_path: Path) -> None:
    out = folder(tmp_path, {"o/p-70m": FLAT})
    (out / "records").mkdir()
    assert read(out).geometry.empty


@pytest.mark.usefixtures("drawn_nothing")
def test_thousands_of_tasks(tmp_path: Path) -> None:
    """Of which there are millions of pairs."""
    generator = np.random.default_rng(3)
    few = STEPS[::3]
    for model in ("70m", "160m"):
        at = generator.integers(1, 2 * len(few), 800)
        for i, step in enumerate(few):
            scores = {f"t{t}": 0.25 if i < a else 0.6 for t, a in enumerate(at)}
            put(tmp_path / "r" / model / f"{i}.json", new(scores, step=step, model=f"o/p-{model}"))
    assert behaviour(tmp_path / "out", tmp_path / "r", "--chance", "t*=0.25").exit_code == 0
    found: Evaluations = read(tmp_path / "out")
    assert found.order["pairs"].tolist() == [800 * 799 // 2]
    assert len(found.swapped) == found.order["swapped"].sum() > 10_000
    assert len(tables.rise_rows(found)[1]) == tables.MOST_ROWS
