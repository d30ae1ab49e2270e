"""The whole report on synthetic records: what is written, and that it stands alone."""

import re
from html.parser import HTMLParser

import pytest

from geomfast import records
from geomfast.report import MissingExtra, assemble, build, figures, style
from tests.analysis.synthetic import join, read_json, sweep, write

_SAVE = assemble._bytes
NAMES = ("collapse", "collapse-grid", "timeline", "layers", "top-down")


class References(HTMLParser):
    """Everything an element points to, and the text of every element but scripts."""

    def __init__(self):
        super().__init__()
        self.found, self.text, self.inside = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    frame = sweep(tasks=["PAR", "MOD"], levels=[1, 2])
    out = write(tmp_path_factory.mktemp("small"), frame, command="geomfast sweep <OUT>")
    return out, build(out)


def test_everything_is_written(small):
    out, result = small
    for name in NAMES:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "figures" / f"{name}.svg").read_text()
    assert {p.name for p in (out / "tables").iterdir()} == {"cells.csv", "top_down.csv"}
    assert len((out / "tables" / "cells.csv").read_text().splitlines()) == 1 + 4
    assert result["paths"]["html"] == str(out / "report.html")
    assert not [p for p in out.rglob("*") if p.name.startswith(".tmp")]


def test_the_json_file_is_what_was_returned(small):
    out, result = small
    expected = {name: value for name, value in result.items() if name != "paths"}
    assert read_json((out / "report.json").read_text()) == expected
    assert result["summary"]["collapsed"] == {"count": 4, "of": 4}
    assert result["summary"]["mod_floor"]["value"] == pytest.approx(2.0, abs=0.1)
    assert result["summary"]["mod_floor"]["low"] is None  # one run has no interval
    assert result["settings"]["command"] == "geomfast sweep <OUT>"


def test_the_page_needs_no_network(small):
    out, _ = small
    page = References()
    page.feed((out / "report.html").read_text())
    assert page.found
    assert all(ref.startswith(("data:", "#")) for ref in page.found), page.found[:5]
    html = (out / "report.html").read_text()
    assert "default-src 'none'" in html
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert "http://" not in own and "https://" not in own
    text = " ".join(page.text)
    assert "MOD-2" in text and "geomfast sweep <OUT>" in text and "2602.15997" in text


def test_the_same_records_give_the_same_files(small, tmp_path):
    out, _ = small
    write(tmp_path, records.load_records(out), command="geomfast sweep <OUT>")
    build(tmp_path)
    for name in ("report.html", "report.json", "figures/collapse.svg", "tables/cells.csv"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


@pytest.fixture
def few_figures(monkeypatch):
    """The headline and the map of the layers only, where the figures are not the subject."""
    monkeypatch.setattr(figures, "FIGURES", (figures.FIGURES[0], figures.FIGURES[3]))


def test_several_runs(tmp_path, few_figures):
    runs = [("nano", 2, 0), ("nano", 2, 1), ("micro", 4, 0)]
    frame = join(*(sweep(scale=s, blocks=b, seed=k, tasks=["MOD"], levels=[1]) for s, b, k in runs))
    result = build(write(tmp_path, frame), tmp_path / "else" / "page.html", against="v1")
    assert (tmp_path / "figures" / "collapse.png").exists()
    for scale, _, seed in runs:
        assert (tmp_path / "figures" / f"joint-{scale}-seed{seed}" / "layers.svg").exists()
    assert result["cells"][0]["run"] == "joint-nano-seed0"
    assert result["summary"]["runs"] == 3
    assert result["summary"]["top_down_tasks_4_blocks"]["of"] == 1
    html = (tmp_path / "else" / "page.html").read_text()
    assert html.count("<option>joint-") == 3
    assert "lie in figures/joint-nano-seed1" in html  # its scale shows seed 0


def only(monkeypatch, *names):
    monkeypatch.setattr(figures, "FIGURES", [f for f in figures.FIGURES if f[0] in names])


def test_gradient_ranks_have_a_figure_a_table_and_lines(tmp_path, monkeypatch):
    only(monkeypatch, "gradient-ranks")
    frame = sweep(tasks=["PAR", "MOD"], levels=[1, 2])
    ranks = frame[frame["measure"] == "accuracy"].assign(stderr=float("nan"))
    names = ("fisher_rank", "fisher_rank_first_50k", "gradient_covariance_rank")
    extra = [
        ranks.assign(measure=name, value=(40.0 - i) / (1.0 + ranks["value"]))
        for i, name in enumerate(names)
    ]
    result = build(write(tmp_path, join(frame, *extra)))
    assert (tmp_path / "figures" / "gradient-ranks.svg").stat().st_size > 10_000
    assert [row["measure"] for row in result["gradient_ranks"]] == ["fisher_rank"] * 4
    assert len((tmp_path / "tables" / "gradient_ranks.csv").read_text().splitlines()) == 1 + 4
    line = next(line for line in result["lines"] if line[0].startswith("Fisher rank"))
    assert line[1] == "0.975" and "4 cells; correlation 1.00" in line[2]


def test_the_hessian_has_a_figure_a_table_and_lines(tmp_path, monkeypatch):
    only(monkeypatch, "hessian")
    frame = sweep(tasks=["PAR", "MOD"], levels=[1, 2])
    base = frame[frame["measure"] == "accuracy"]
    extra = [
        base.assign(measure="hessian_top", value=1.0 + 20.0 * base["value"], stderr=0.01),
        base.assign(measure="hessian_trace", value=90.0 * base["value"] - 20.0, stderr=4.0),
    ]
    result = build(write(tmp_path, join(frame, *extra)))
    assert (tmp_path / "figures" / "hessian.svg").stat().st_size > 10_000
    assert [row["measure"] for row in result["hessian"]][:4] == ["hessian_top", "hessian_trace"] * 2
    assert len((tmp_path / "tables" / "hessian.csv").read_text().splitlines()) == 1 + 8
    lines = {label: (value, remark) for label, value, remark in result["lines"]}
    assert lines["Top eigenvalue of the Hessian"][1].startswith("median of 4 cells at the end; ")
    assert "at step" in lines["Trace of the Hessian"][1]


def with_llc(frame):
    """Coefficients of every task-level and of the mixture; some in doubt, one lost."""
    steps = frame[frame["measure"] == "accuracy"]
    whole = steps[(steps["task"] == "MOD") & (steps["level"] == 1)].assign(task="", level=0)
    base = join(steps, whole)
    value = (30.0 * base["value"] - 1.0).mask((base["task"] == "PAR") & (base["step"] == 40))
    beside = {
        "diverged": 4.0 * value.isna(),
        "rhat": 1.0 + 0.2 * (base["step"] == 20),
        "ess": 100.0,
        "step_bias": 0.0,
        "acceptance": 0.5,
    }
    beside = [base.assign(measure=f"llc_{name}", value=v) for name, v in beside.items()]
    return join(frame, base.assign(measure="llc", value=value, stderr=0.5), *beside)


def test_coefficients_have_a_figure_a_table_and_a_line(tmp_path, monkeypatch):
    only(monkeypatch, "llc")
    frame = with_llc(sweep(tasks=["PAR", "MOD"], levels=[1, 2]))
    result = build(write(tmp_path, frame))
    assert (tmp_path / "figures" / "llc.svg").stat().st_size > 10_000
    assert [(row["task"], row["level"]) for row in result["llc"]] == [
        ("PAR", 1), ("PAR", 2), ("MOD", 1), ("MOD", 2), ("", 0),
    ]  # fmt: skip
    assert len((tmp_path / "tables" / "llc.csv").read_text().splitlines()) == 1 + 5
    label, value, remark = result["lines"][-1]
    assert label == "LLC of the mixture" and float(value) == pytest.approx(29.0, abs=0.5)
    assert "± 0.500 at the end" in remark and "2 diverged" in remark and "5 too few draws" in remark
    # What is of the mixture is no task-level.
    assert result["summary"]["task_levels"] == 4 and len(result["cells"]) == 4


def test_coefficients_that_were_all_lost_have_no_figure(tmp_path, monkeypatch):
    only(monkeypatch, "llc")
    frame = with_llc(sweep(tasks=["MOD"], levels=[1], steps=[0, 2]))
    frame.loc[frame["measure"] == "llc", "value"] = float("nan")
    result = build(write(tmp_path, frame))
    assert result["paths"]["figures"] == []
    assert [row["diverged"] for row in result["llc"]] == [2, 2]
    assert result["lines"][-1][1] == "-"


def without(frame, measure=None, layer=None):
    keep = frame["measure"] != measure if measure else frame["layer"] != layer
    return frame[keep]


ODD = {
    "one block": sweep(blocks=1, tasks=["MOD"], levels=[1]),
    "one checkpoint": sweep(tasks=["MOD"], levels=[1], steps=[0]),
    "two checkpoints": sweep(tasks=["MOD"], levels=[1], steps=[0, 2]),
    "starts late": sweep(tasks=["MOD"], levels=[1], steps=[100, 200, 300]),
    "no final state": without(sweep(tasks=["MOD"], levels=[1]), layer="final"),
    "no behaviour": sweep(tasks=["MOD"], levels=[1]).query("measure == 'rankme'"),
    "no geometry": without(sweep(tasks=["MOD"], levels=[1]), measure="rankme"),
    "half of the rows": sweep(tasks=["ADD", "MOD"], levels=[1, 3]).sample(frac=0.5, random_state=0),
    "unknown task": sweep(tasks=["DUPLICATE"], levels=[1, 2, 3, 4]),
    "a level missing": sweep(tasks=["ADD", "MOD"], levels=[1, 2]).query(
        "not (task == 'ADD' and level == 2)"
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_records(name, tmp_path, monkeypatch):
    # Each figure drawn once is enough here.
    monkeypatch.setattr(
        assemble, "_bytes", lambda figure, kind: _SAVE(figure, "svg") if kind == "svg" else b""
    )
    result = build(write(tmp_path, ODD[name]))
    assert (tmp_path / "report.html").exists()
    assert all(row["task"] for row in result["cells"])
    assert len(result["paths"]["figures"]) == 10


def test_training_loss_and_missing_settings_are_no_obstacle(tmp_path, few_figures):
    frame = sweep(tasks=["MOD"], levels=[1])
    loss = frame[frame["measure"] == "accuracy"].assign(measure="loss", task="", level=0)
    write(tmp_path, join(frame, loss))
    (tmp_path / "settings.json").unlink()
    result = build(tmp_path)
    assert [row["task"] for row in result["cells"]] == ["MOD"]
    assert result["settings"] == {} and result["summary"]["task_levels"] == 1


def test_text_from_outside_cannot_break_the_page(tmp_path, few_figures):
    run = "</script><b>bad"
    frame = sweep(tasks=["MOD"], levels=[1]).assign(run=run.replace("/", "-"))
    write(tmp_path, frame, command="</script><script>alert(1)</script>", nested={"a": {"b": 1}})
    build(tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = References()
    page.feed(html)
    assert "<-script><b>bad" in " ".join(page.text)
    own = html[html.index("<body>") :]
    assert "<script>alert" not in own
    assert own.count("</script>") == 1


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        build(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no records"):
        build(tmp_path)
    write(tmp_path, sweep(tasks=["MOD"], levels=[1]).assign(measure="llc"))
    with pytest.raises(records.RecordsError, match="neither"):
        build(tmp_path)
    with pytest.raises(ValueError, match="version"):
        build(tmp_path, against="v2")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(records.RecordsError, match=r"settings\.json"):
        build(tmp_path)


def test_a_missing_package_is_named_before_any_work(small, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(style.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r'pip install "geomfast\[report\]"'):
        build(small[0])
