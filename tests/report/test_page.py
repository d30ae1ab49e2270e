"""The page on any screen: contrast, texts of pictures, folds, and no more bytes than it needs."""

import base64
import gzip
import re

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from geomfast.report import build, figures
from geomfast.report.colours import INK, RED_TEXT, SOFT
from geomfast.report.page import library
from tests.analysis.synthetic import sweep, write

HASH = "0123456789abcdef"


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    own = {"data": HASH, "steps": 300}
    write(out, sweep(tasks=["MOD"], levels=[1]), settings=own, hashes={HASH: {"measure": "x"}})
    with pytest.MonkeyPatch.context() as monkeypatch:
        for group in ("FIGURES", "OVERVIEW"):
            few = [p for p in getattr(figures, group) if p.name in ("timeline", "by-scale")]
            monkeypatch.setattr(figures, group, tuple(few))
        build(out)
    return (out / "report.html").read_text()


def luminance(colour):
    colour = colour.lstrip("#")
    colour = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("style", [0, 1], ids=["light", "dark"])
def test_all_text_has_the_contrast_of_level_aa(html, style):
    root = re.findall(r":root \{(.*?)\}", html, flags=re.S)[style]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]+)", root))
    pairs = [(text, on) for text in ("ink", "soft", "blue") for on in ("paper", "wash")]
    pairs += [(name, f"{name}-wash") for name in ("holds", "partly", "not")]
    for text, background in [*pairs, ("ink", "partly-wash")]:
        assert contrast(colour[text], colour[background]) >= 4.5, (text, background)


@pytest.mark.parametrize("colour", [INK, SOFT, RED_TEXT])
def test_text_of_figures_has_it_too(colour):
    assert contrast(colour, "#ffffff") >= 4.5


def test_pictures_say_in_words_what_they_show_and_what_to_see(html):
    assert html.count("<img ") == 1
    assert 'alt="Collapse, recovery, emergence. joint-nano-seed0; RankMe of n = 200' in html
    assert re.search(r' width="\d+" height="\d+"></div>', html)
    (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", html, flags=re.S)
    assert caption.startswith("Each row is a task-level") and "n = 200" in caption


def test_what_needs_more_data_takes_one_line(html):
    table = html[html.index('<table class="claims">') :]
    table, rest = table.split("</table>", 1)
    fold = rest[rest.index("<details") : rest.index("</details>")]
    assert "not enough data" not in table and "? not enough data: " in fold
    assert 'id="claim-scale_invariant_floors"' in fold and "needs two scales" in fold
    assert "Too little in these records for: Collapse at every scale." in html


def test_headers_of_tables_say_what_they_head(html):
    heads = re.findall(r"<th\b[^>]*>", html)
    assert heads and all('scope="' in head for head in heads)


def test_settings_are_behind_a_fold_without_hashes(html):
    settings = html[html.index('<h2 id="settings">') :]
    assert settings.index('<details class="fold">') < settings.index("<dt>settings</dt>")
    assert "steps 300" in settings and HASH not in html


def test_plotly_is_compressed_and_only_on_pages_that_draw_with_it(html):
    packed = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', html)
    assert packed == [library()] and len(library()) < 2_000_000
    assert gzip.decompress(base64.b64decode(library())).decode() == get_plotlyjs()


def test_without_scripts_all_is_there_but_the_chart(html):
    assert "<noscript>" in html and "need JavaScript" in html
    # Parts of a run are hidden by the script alone.
    assert not re.findall(r"<div [^>]*data-run[^>]* hidden", html)
