"""Names of others, in file names, figures, pages, tables and terminals."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from geomfast.cli.report import report
from geomfast.report import build
from geomfast.report.chart import script_json
from geomfast.report.drawing import as_bytes
from geomfast.report.figures.measures import gradient_ranks, hessian_figure
from geomfast.report.names import in_spreadsheet, in_terminal, labels, one_line, slug, slugs
from geomfast.report.population import assemble
from geomfast.report.population import build as build_population
from geomfast.report.tables import write_csv
from geomfast.testbed.tasks.names import task_level
from tests.analysis.synthetic import join, rows, sweep, write

#: Names that some medium would obey, lose or mix up with another's.
AWKWARD = [
    "1b[chat]", "1b[instruct]", "[/]", "$a_$", "$", "<b>x</b>", "a & b", "'quoted'", '"twice"',
    "NA", "null", "None", "nan", "GSM8K", "gsm8k", "a b", "a/b", "a\\b", "../up", "con", "NUL.txt",
    "x" * 500, "x" * 499 + "y", "\x1b[31mred\x1b[0m", "two\nlines", "two\\nlines",
    "tab\tin", "=1+1", "+1", "-1", "@x", ":smile:", "{{ 7 * 7 }}", "é", "e\u0301",
    "\u202eltr", "%{y}", "</script>",
]  # fmt: skip


def test_file_names_keep_apart_and_fit():
    found = slugs([*AWKWARD, "\ud800", ".", "..", ""])
    assert len({name.casefold() for name in found.values()}) == len(AWKWARD) + 4
    for name in found.values():
        assert 0 < len(name.encode()) <= 120 and not name.startswith(".")
        assert not re.search(r"[/\\\x00-\x1f:*?\"<>|\s]", name)
        assert name.split(".")[0].lower() not in ("con", "nul")
    assert slug("joint-nano-seed0") == "joint-nano-seed0"
    # The order does not matter.
    assert slugs(["a/b", "a b"]) == dict(reversed(slugs(["a b", "a/b"]).items()))


def test_short_labels_keep_apart():
    found = labels(AWKWARD, 40)
    assert len(set(found.values())) == len(AWKWARD)
    assert all(len(text) <= 56 and text.isprintable() for text in found.values())
    assert found["NA"] == "NA" and found["$a_$"] == "$a_$"


def test_terminals_and_spreadsheets_obey_nothing():
    assert in_terminal("1b[chat] \x1b[2J :smile:").plain == r"1b[chat] \x1b[2J :smile:"
    assert one_line("a\nb\tc\ud800") == r"a\nb\tc\ud800"
    for text in ("=1+1", "+1", "-1", "@x", "\tx", "\rx"):
        assert in_spreadsheet(text).startswith("'") or in_spreadsheet(text).startswith("\\x0d")
    assert in_spreadsheet(-1.0) == -1.0 and in_spreadsheet("a=b") == "a=b"


def test_formulas_in_tables(tmp_path):
    frame = pd.DataFrame({"=name": ["=cmd()", "x", None], "value": [-1.0, 2.0, np.nan]})
    text = write_csv(tmp_path / "a.csv", frame).read_text()
    assert text.split("\n")[:3] == ["'=name,value", "'=cmd(),-1.0", "x,2.0"]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A table with every awkward name as a task and as a scale, and its report."""
    folder = tmp_path_factory.mktemp("awkward")
    generator = np.random.default_rng(0)
    lines = [("", scale, i, generator.random()) for scale in AWKWARD for i in range(10)]
    lines += [(t, s, i, generator.random()) for t in AWKWARD for s in "ab" for i in range(2)]
    table = pd.DataFrame(lines, columns=["task", "scale", "seed", "score"])
    table.to_csv(folder / "data.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "MOST_DRAWN", 1)
        called = CliRunner().invoke(report, [str(folder / "data.csv")])
        assert called.exit_code == 0, called.output
        return folder / "data", called.stdout


def test_every_task_and_scale_is_there(reported):
    out, _ = reported
    value = json.loads((out / "report.json").read_text())
    names = [population["task"] for population in value["populations"]]
    assert len(set(names)) == len(names) == len(AWKWARD) + 1
    assert {"NA", "null", "None", "nan", "GSM8K", "gsm8k"} <= set(names)
    scales = [row["scale"] for row in value["populations"][names.index("")]["summary"]]
    assert len(set(scales)) == len(AWKWARD)
    folders = [path.name for path in (out / "tables").iterdir()]
    assert len({name.casefold() for name in folders}) == len(AWKWARD) + 1
    assert len(list((out / "figures").iterdir())) == 1


def test_nothing_is_obeyed_by_terminal_page_or_spreadsheet(reported):
    out, printed = reported
    page = (out / "report.html").read_text()
    assert "\x1b" not in printed + page and "\u202e" not in printed + page
    assert "1b[chat]" in printed and "1b[instruct]" in printed and "😄" not in printed
    assert "<b>x</b>" not in page and "&lt;b&gt;x" in page and "49" not in re.findall("7 . 7", page)
    assert "the first 1 of 39 tasks" in " ".join(page.split())
    assert "the first 1 of 39 tasks" in " ".join(printed.split())
    for path in out.rglob("*.csv"):
        for cell in re.findall(r"(?:^|,)\"?([=@\t\r][^,]*)", path.read_text(), flags=re.M):
            raise AssertionError(f"{path}: {cell}")


def test_two_scales_of_many_digits(tmp_path):
    lines = [f"{s},{i},0.{i}" for s in ("1234567.0", "1234568.0") for i in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(["scale,seed,score", *lines]))
    table = pd.read_csv(tmp_path / "a.csv")
    table.to_parquet(tmp_path / "b.parquet")
    for name in ("a.csv", "b.parquet"):
        result = build_population(tmp_path / name)
        found = [row["scale"] for row in result["populations"][0]["summary"]]
        assert found == ["1234567", "1234568"]


def test_a_sweep_with_awkward_names(tmp_path, only):
    only("timeline", "collapse")
    runs = [n for n in AWKWARD if "/" not in n and len(n) < 100][:12]
    frames = [
        sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4, 8, 16]).assign(run=name, scale=name)
        for name in runs
    ]
    frame = join(*frames)
    for index, (_, part) in enumerate(frame.groupby("run")):
        write(tmp_path / "out", part.assign(run=f"r{index}"))
    (tmp_path / "again").mkdir()
    from geomfast import records

    records.write_part(tmp_path / "again/records/all.parquet", frame.to_dict("records"))  # pyright: ignore[reportArgumentType]
    called = CliRunner().invoke(report, [str(tmp_path / "again"), "--every-run"])
    assert called.exit_code == 0 and "1b[chat]" in (tmp_path / "again/report.html").read_text()
    result = json.loads((tmp_path / "again/report.json").read_text())
    folders = [p.name for p in (tmp_path / "again" / "figures").iterdir() if p.is_dir()]
    assert len({name.casefold() for name in folders}) == len(runs)
    assert {row["run"] for row in result["cells"]} == set(runs)


def test_data_cannot_leave_its_script():
    text = script_json({"<!--<script>": "</script>"})
    assert "<" not in text and json.loads(json.loads(text)) == {"<!--<script>": "</script>"}


def test_lone_surrogates_of_settings_are_shown(tmp_path, only):
    only("timeline")
    out = write(tmp_path / "out", sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4, 8, 16]))
    (out / "settings.json").write_text('{"note": "\\ud800 x", "chance": {}}')
    build(out)
    assert "\\ud800 x" in (out / "report.html").read_text()


def test_names_of_task_levels_differ():
    several = [
        ("", 0), ("mixture", 1), ("mixture", 0), ("MOD", 1), ("MOD-1", 1), ("MOD-1", 2), ("A", 1),
        ("A", 2), ("A-2", 1), ("A (level 2)", 1), ("A (level 2)", 2), ("A-2 (level 1)", 1),
    ]  # fmt: skip
    assert len({task_level(*each) for each in several}) == len(several)
    assert task_level("MOD", 1) == "MOD-1" and task_level("A-2", 1) == "A-2"


def test_runs_that_javascript_has_a_use_for(tmp_path, only):
    only()
    names = ["__proto__", "constructor", "toString"]
    frames = [
        sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4, 8, 16], seed=seed).assign(run=name)
        for seed, name in enumerate(names)
    ]
    build(write(tmp_path / "out", join(*frames)))
    page = (tmp_path / "out" / "report.html").read_text()
    (text,) = re.findall(r"const DATA = JSON\.parse\((.*)\);", page)
    runs = json.loads(json.loads(text))["runs"]
    assert list(runs) == names
    assert all(run["cells"]["MOD-1"]["layers"] for run in runs.values())


def test_ticks_of_logarithmic_axes_are_plain(reported):
    steps = [0, 2, 4, 8]
    run = join(
        rows("fisher_rank", steps, [1.0, 30.0, 0.004, 2000.0]),
        rows("hessian_top", steps, [-50.0, 0.0, 3.0, 4000.0]),
    )
    drawn = [as_bytes(draw(run, run), "svg").decode() for draw in (gradient_ranks, hessian_figure)]
    drawn += [path.read_text() for path in reported[0].rglob("*.svg")]
    texts = [re.findall("<text [^>]*>([^<]*)</text>", each) for each in drawn]
    assert len(drawn) > 5 and all(len(each) > 5 for each in texts)
    assert not [text for each in texts for text in each if "mathdefault" in text]
