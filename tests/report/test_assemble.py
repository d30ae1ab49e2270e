"""The whole report on synthetic records: what is written, and that it stands alone."""

import os
import re
import signal
from html.parser import HTMLParser

import pandas as pd
import pytest

from geomfast.analysis import CLAIMS
from geomfast.files import write_json
from geomfast.records import RecordsError
from geomfast.report import MissingExtra, build, drawing, extras
from tests.analysis.synthetic import join, read_json, sweep, write
from tests.report.whole import whole_sweep

COMMAND = "geomfast sweep <OUT>"


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


def parsed(path):
    page = References()
    page.feed(path.read_text())
    return page.found, " ".join(" ".join(page.text).split())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two runs of one task with every measure, all claims and all figures, of which one as PNG."""
    frame = whole_sweep(("nano",), (0, 1), ["MOD"], (1, 2), dear=9)
    out = write(tmp_path_factory.mktemp("small"), frame, command=COMMAND)
    for run in set(frame["run"]):
        write_json(out / "records" / run / "wall.json", {"training": 60.0, "writing": 1.0})
    save = drawing.as_bytes

    def as_bytes(figure, kind, caption="", **look):
        if kind == "png" and len(figure.axes) > 1:
            return b"left out"
        return save(figure, kind, caption, **look)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(drawing, "as_bytes", as_bytes)
        return out, build(out)


def test_everything_is_written(small):
    out, result = small
    folder = out / "figures"
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {
        "collapse", "by-scale", "events", "order", "lead-lag", "precursors", "prediction",
        "probe-first", "wall-time",
    }  # fmt: skip
    of_run = {path.stem for path in (folder / "joint-nano-seed0").glob("*.svg")}
    assert of_run == {
        "collapse", "collapse-grid", "timeline", "layers", "top-down", "gradient-ranks", "hessian",
        "llc", "probes", "glance",
    }  # fmt: skip
    # Of one scale one seed is drawn.
    assert not (folder / "joint-nano-seed1").exists()
    assert {str(path) for path in folder.rglob("*.*")} == set(result["paths"]["figures"])
    assert {p.with_suffix(".png") for p in folder.rglob("*.svg")} == set(folder.rglob("*.png"))
    assert (folder / "order.png").exists()
    tables = {path.name for path in (out / "tables").iterdir()}
    assert tables == {"claims", "claims.csv", "cells.csv", "top_down.csv", "hessian.csv", "llc.csv"}
    assert len(pd.read_csv(out / "tables" / "cells.csv")) == 2 * 2
    assert not [p for p in out.rglob("*") if p.name.startswith(".tmp")]


def test_the_json_file_is_what_was_returned(small):
    out, result = small
    expected = {name: value for name, value in result.items() if name != "paths"}
    assert read_json((out / "report.json").read_text()) == expected
    assert [claim["name"] for claim in result["claims"]] == [c.__name__ for c in CLAIMS]
    mod = next(claim for claim in result["claims"] if claim["name"] == "mod_floor")
    assert mod["value"] == pytest.approx(2.0, abs=0.1) and mod["paper"]["v1"] == 2.0
    assert result["settings"]["command"] == COMMAND and result["compare"] is None


def test_the_page_needs_no_network(small):
    out, _ = small
    found, text = parsed(out / "report.html")
    assert found and all(ref.startswith(("data:", "#")) for ref in found), found[:5]
    html = (out / "report.html").read_text()
    assert "default-src 'none'" in html
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert "http://" not in own and "https://" not in own
    assert "MOD-2" in text and COMMAND in text and "2602.15997" in text


def test_claims_stand_before_all_pictures(small):
    out, result = small
    html = (out / "report.html").read_text()
    table = html[html.index('<table class="claims">') : html.index("<img ")]
    _, text = parsed(out / "report.html")
    for claim in result["claims"]:
        assert f'id="claim-{claim["name"]}"' in table
        for words in (claim["title"], claim["verdict"], claim["reason"], claim["criterion"]):
            assert " ".join(words.split()) in text


def test_every_figure_says_how_it_was_measured(small):
    out, _ = small
    html = (out / "report.html").read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, flags=re.S)
    assert len(captions) == 18 and all(text[0].isupper() for text in captions)
    # Where the time went is no measure.
    (unmeasured,) = [text for text in captions if "n = " not in text]
    assert "bar" in unmeasured and "how it was measured" not in unmeasured


def test_the_same_records_give_the_same_files(tmp_path, only):
    only("timeline")
    frame = sweep(tasks=["MOD"], levels=[1, 2])
    outs = [write(tmp_path / name / "out", frame, command=COMMAND) for name in "ab"]
    for out in outs:
        build(out)
    files = [path.relative_to(outs[0]) for path in outs[0].rglob("*.*") if path.is_file()]
    # Settings, records, page, JSON and list of files, figure, tables.
    assert len(files) == 1 + 1 + 3 + 2 + 6
    for name in files:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name


def test_drawn_by_several_processes_the_files_are_the_same(tmp_path):
    frames = [sweep(scale=scale, tasks=["MOD"], levels=[1]) for scale in ("nano", "micro", "mini")]
    outs = [write(tmp_path / name / "out", join(*frames)) for name in "ab"]
    for out, processes in zip(outs, (1, 2), strict=True):
        build(out, processes=processes)
    files = [path.relative_to(outs[0]) for path in outs[0].rglob("*.*") if path.is_file()]
    assert len({name.parent for name in files if name.suffix == ".svg"}) == 1 + 3
    for name in files:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name


def test_a_process_that_is_killed_while_it_draws_is_said(tmp_path, monkeypatch):
    out = write(tmp_path, join(*(sweep(scale=s, tasks=["MOD"]) for s in ("nano", "micro", "mini"))))
    monkeypatch.setattr(drawing, "_of_run", kill_oneself)
    with pytest.raises(OSError, match="killed, perhaps for want of memory"):
        build(out, processes=2)


def kill_oneself(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_large_figure_is_a_picture_of_pixels_on_the_page(tmp_path, only, monkeypatch):
    only("timeline")
    out = write(tmp_path, sweep(tasks=["MOD"], levels=[1]))
    build(out)
    assert 'src="data:image/svg+xml' in (out / "report.html").read_text()
    assert (out / "figures" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(drawing, "LARGEST_SVG", 100)
    build(out)
    html = (out / "report.html").read_text()
    assert 'src="data:image/svg+xml' not in html and 'src="data:image/png' in html


def test_runs_that_are_drawn(tmp_path, only):
    only("layers")
    runs = [("nano", 2, 0), ("nano", 2, 1), ("micro", 4, 0)]
    frame = join(*(sweep(scale=s, blocks=b, seed=k, tasks=["MOD"], levels=[1]) for s, b, k in runs))
    page = tmp_path / "else" / "page.html"
    result = build(write(tmp_path, frame), page, against="v1")
    drawn = tmp_path / "figures"
    folders = {path.name for path in drawn.iterdir() if path.is_dir()}
    assert folders == {"joint-nano-seed0", "joint-micro-seed0"}
    assert result["cells"][0]["run"] == "joint-nano-seed0" and result["against"] == "v1"
    html = page.read_text()
    assert html.count('<option value="joint-') == 3 and html.count("<img ") == 2
    assert "to figures/joint-nano-seed1" in html
    build(tmp_path, every_run=True)
    assert (drawn / "joint-nano-seed1" / "layers.svg").exists()
    assert (tmp_path / "report.html").read_text().count("<img ") == 2


def test_training_loss_and_missing_settings_are_no_obstacle(tmp_path, only):
    only()
    frame = sweep(tasks=["MOD"], levels=[1])
    loss = frame[frame["measure"] == "accuracy"].assign(measure="loss", task="", level=0)
    write(tmp_path, join(frame, loss))
    (tmp_path / "settings.json").unlink()
    result = build(tmp_path)
    assert [row["task"] for row in result["cells"]] == ["MOD"]
    assert result["settings"] == {} and result["summary"]["task_levels"] == 1
    assert result["paths"]["figures"] == []


def test_text_from_outside_cannot_break_the_page(tmp_path, only):
    only("collapse")
    run = "</script><b>bad"
    frame = sweep(tasks=["MOD"], levels=[1]).assign(run=run.replace("/", "-"))
    write(tmp_path, frame, command="</script><script>alert(1)</script>", nested={"a": {"b": 1}})
    build(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<-script><b>bad" in parsed(tmp_path / "report.html")[1]
    own = html[html.index("<body>") :]
    assert "<script>alert" not in own
    assert own.count("</script>") == 1


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        build(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no records"):
        build(tmp_path)
    write(tmp_path, sweep(tasks=["MOD"], levels=[1]).assign(measure="llc", layer=""))
    with pytest.raises(ValueError, match="version"):
        build(tmp_path, against="v2")
    with pytest.raises(ValueError, match="itself"):
        build(tmp_path, compare_with=tmp_path / ".." / tmp_path.name)


def test_records_without_a_task_level(tmp_path):
    frame = sweep(tasks=["MOD"], levels=[1])
    write(tmp_path, frame[frame["measure"] == "accuracy"].assign(measure="llc"))
    with pytest.raises(RecordsError, match="neither"):
        build(tmp_path)


def test_records_that_contradict_each_other_are_listed(tmp_path):
    frame = sweep(tasks=["MOD"], levels=[1])
    again = frame[(frame["step"] == 4) & (frame["measure"] == "accuracy")].assign(value=0.75)
    write(tmp_path, join(frame, again))
    with pytest.raises(RecordsError, match=r"joint-nano-seed0, step 4, MOD-1, accuracy: .* 0\.75"):
        build(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_missing_package_is_named_before_any_work(small, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r'pip install "geomfast\[report\]"'):
        build(small[0])
