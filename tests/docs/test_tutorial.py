"""The tutorial: its script runs, shortened, and its page is of this script."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs/tutorial"
SCRIPT, PAGE = FOLDER / "grokking.py", FOLDER / "grokking.md"
_FOUND = importlib.util.spec_from_file_location("render", FOLDER / "render.py")
assert _FOUND is not None and _FOUND.loader is not None
RENDER = importlib.util.module_from_spec(_FOUND)
_FOUND.loader.exec_module(RENDER)


def test_the_script_runs_and_makes_its_page(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("TUTORIAL_STEPS", "40")
    monkeypatch.setenv("TUTORIAL_SEEDS", "1")
    made = RENDER.render(SCRIPT, tmp_path).read_text()
    assert (tmp_path / "grokking-1.png").stat().st_size > 10_000
    assert "trained (99%)" in made and "1404 pairs for training" in made


@pytest.mark.parametrize("is_text", [True, False])
def test_the_page_is_of_this_script(is_text):
    page = PAGE.read_text()
    for text, body in RENDER.cells(SCRIPT.read_text()):
        if text == is_text:
            assert body in page, f"run docs/tutorial/render.py again: {body[:80]}"
