"""A report overwrites what geomfast wrote, and nothing else."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from geomfast.cli.report import report
from geomfast.files import UnsafeName
from geomfast.report import build
from geomfast.report.place import JOURNAL, NotOurs, is_ours
from geomfast.report.population import assemble
from geomfast.report.population import build as build_population
from tests.analysis.synthetic import sweep, write


@pytest.fixture(autouse=True)
def one_figure(only, monkeypatch):
    only("timeline")
    monkeypatch.setattr(assemble, "FIGURES", assemble.FIGURES[1:2])


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    rows = [f"{s},{i},{generator.random():.3f}" for s in ("70m", "160m") for i in range(12)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["scale,seed,score", *rows]) + "\n")
    return path


@pytest.fixture
def out(tmp_path):
    return write(tmp_path / "out", sweep(tasks=["MOD"], levels=[1], steps=[0, 2, 4, 8, 16]))


def call(*arguments):
    return CliRunner().invoke(report, [str(a) for a in arguments])


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name", ["report.html", "report.json", "figures/scaling.png", "tables/summary.csv", JOURNAL]
)
def test_a_table_beside_a_folder_of_others_is_reported_elsewhere(table, name):
    mine = table.with_suffix("") / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"name": "mine"}')
    for _ in range(2):
        result = call(table)
        assert result.exit_code == 0, result.output
        assert everything(table.with_suffix("")) == {
            mine.relative_to(table.with_suffix("")): b'{"name": "mine"}'
        }
        page = table.with_name("data-report") / "report.html"
        assert result.stdout.rstrip().split("\n")[-1] == str(page) and is_ours(page)
        assert "did not write" in result.stdout and "data-report" in page.read_text()


def test_a_file_or_a_sweep_of_the_tables_name_is_left_alone(table, out):
    table.with_suffix("").write_text("a file")
    assert build_population(table)["paths"]["html"].endswith("data-report/report.html")
    assert table.with_suffix("").read_text() == "a file"
    table.with_name("out.csv").write_text(table.read_text())
    before = everything(out)
    assert "out-report" in build_population(table.with_name("out.csv"))["paths"]["html"]
    assert everything(out) == before


def test_no_folder_is_left(table):
    for end in ("", "-report", *(f"-report-{n}" for n in range(2, 20))):
        table.with_name(f"data{end}").write_text("mine")
    result = call(table)
    assert result.exit_code == 2 and len(result.stderr.strip().split("\n")) == 1


@pytest.mark.parametrize("name", ["report.html", "report.json", JOURNAL])
def test_a_sweep_with_a_page_of_others_is_refused(out, name):
    (out / name).write_text("<html>mine</html>")
    before = everything(out)
    result = call(out)
    assert result.exit_code == 2 and str(out / name) in result.stderr.replace("\n", "")
    assert everything(out) == before


@pytest.mark.parametrize("name", ["figures/timeline.svg", "tables/cells.csv"])
def test_a_sweep_with_a_figure_or_table_of_others_keeps_it(out, name):
    (out / name).parent.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(NotOurs, match=name):
        build(out)
    assert (out / name).read_text() == "mine"
    (out / name).unlink()
    build(out)
    build(out)  # its own are overwritten


def test_a_page_elsewhere(out, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>mine</title>")
    result = call(out, "--html", page)
    assert result.exit_code == 2 and "page.html" in result.stderr
    assert page.read_text() == "<!doctype html><title>mine</title>"
    page.unlink()
    page.symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotOurs):
        build(out, page)
    page.unlink()
    for _ in range(2):
        assert call(out, "--html", page).exit_code == 0
    with pytest.raises(NotOurs):
        build(out, out / "settings.json")


def test_pages_of_older_versions_are_known(out, tmp_path):
    build(out)
    (out / JOURNAL).unlink()
    html = (out / "report.html").read_text()
    (out / "report.html").write_text(
        html.replace('<meta name="generator" content="geomfast report">\n', "")
    )
    value = json.loads((out / "report.json").read_text())
    del value["generator"], value["notes"]
    (out / "report.json").write_text(json.dumps(value))
    build(out)
    assert "generator" in (out / "report.html").read_text()
    # Another page is not, whatever its title.
    other = tmp_path / "other.html"
    other.write_text("<title>geomfast: notes</title>")
    assert not is_ours(other)


def test_a_report_that_was_killed_is_known(out, monkeypatch):
    from geomfast.report import page

    with monkeypatch.context() as patch:
        patch.setattr(page, "render", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(out)
    assert (out / "figures" / "timeline.png").exists() and not (out / "report.html").exists()
    build(out)


def test_links_out_of_the_folder_are_refused(out, table, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (out / "figures").symlink_to(victim)
    with pytest.raises(UnsafeName, match="figures"):
        build(out)
    table.with_suffix("").mkdir()
    (table.with_suffix("") / "tables").symlink_to(victim)
    assert call(table).exit_code in (0, 2)
    assert not list(victim.iterdir())
