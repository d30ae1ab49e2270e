"""What the site takes from the code, made without mkdocs; and the site, where mkdocs is here."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from geomfast.measures import catalog, spec_of
from tests.measures.plugin import install

ROOT = Path(__file__).resolve().parents[2]
_FOUND = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
assert _FOUND is not None and _FOUND.loader is not None
HOOKS = importlib.util.module_from_spec(_FOUND)
_FOUND.loader.exec_module(HOOKS)
OWN = [name for name, spec in catalog().specs.items() if not spec.plugin]


@pytest.mark.parametrize("name", OWN)
def test_a_page_says_what_the_catalogue_says(name):
    spec = spec_of(name)
    page = HOOKS.measure_page(spec, (ROOT / f"docs/measures/{name}.md").read_text())
    assert spec.unit in page and spec.summary in page
    for column in spec.columns:
        assert f"`{column.name}`" in page
    for setting, default in spec.defaults.items():
        (said,) = re.findall(
            rf"^\| `{setting}` \| `{re.escape(repr(default))}` \| (.*) \|$", page, re.M
        )
        assert said, f"{name}: nothing is said of {setting}"


def test_a_measure_without_prose_fails():
    with pytest.raises(ValueError, match=r"docs/measures/rankme\.md is missing"):
        HOOKS.measure_page(spec_of("rankme"), None)
    with pytest.raises(ValueError, match="no section 'When not to trust it'"):
        HOOKS.measure_page(spec_of("rankme"), "# R\n\n## What it is\n\n## High and low\n")


def test_the_tasks_are_those_of_the_testbed():
    table = HOOKS.task_table()
    assert table.count("\n") == 9
    assert re.search(r"\| MOD \| .* \| 0\.143 \| `\[MOD\] \d , \d , 7 \[=\] \d \[eos\]` \|", table)


@pytest.mark.parametrize(
    ("markdown", "origin", "expected"),
    [
        ("[a](cost.md#x)", "docs/index.md", "[a](cost.md#x)"),
        ("[a](../index.md)", "docs/guides/cnn.md", "[a](../index.md)"),
        ("![a](figures/map.png)", "docs/index.md", ValueError),
        ("[a](../nothing.md)", "docs/index.md", ValueError),
        ("`[a](../nothing.md)`", "docs/index.md", "`[a](../nothing.md)`"),
        ("[the file](../setup.py)", "docs/index.md", "the file (`setup.py`)"),
        ("[x](../experiments/nano-cpu)", "docs/faq.md", "[x](experiments/nano-cpu.md)"),
        ("[c](../../CONTRIBUTING.md)", "docs/design/README.md", "[c](../CONTRIBUTING.md)"),
        ("[d](docs/threat-model.md)", "CONTRIBUTING.md", "[d](threat-model.md)"),
        ("[p](https://a.b/c)", "docs/index.md", "[p](https://a.b/c)"),
    ],
)
def test_links(markdown, origin, expected):
    if expected is ValueError and not markdown.startswith("!"):
        with pytest.raises(ValueError, match=r"no file nothing\.md to link to"):
            HOOKS.linked(markdown, origin, None)
    elif expected is ValueError:  # below docs/, mkdocs looks for it
        assert HOOKS.linked(markdown, origin, None) == markdown
    else:
        assert HOOKS.linked(markdown, origin, None) == expected
    told = HOOKS.linked("[s](../setup.py)", "docs/index.md", "https://example.org/blob/main")
    assert told == "[s](https://example.org/blob/main/setup.py)"


class Page(HTMLParser):
    """Headings, pictures and addresses that a page loads."""

    def __init__(self, html: str):
        super().__init__()
        self.headings: list[int] = []
        self.without_text: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.without_text += [str(given.get("src"))] if not given.get("alt") else []
        if tag in ("script", "img", "iframe") or (
            tag == "link" and given.get("rel") != "canonical"
        ):
            self.loaded.append(given.get("src") or given.get("href") or "")


def test_the_site_builds_and_has_a_page_for_a_measure_of_another_package(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    site = tmp_path / "site"
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(install(tmp_path)), str(ROOT)])
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip(), done.stdout + done.stderr
    for name in [*OWN, "participation"]:
        assert f"{name}.html" in (site / "measures/index.html").read_text()
    other = (site / "measures/participation.html").read_text()
    assert "From the package" in other and "participation ratio of every layer" in other
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for path in pages:
        page = Page(path.read_text())
        if path.name != "404.html":
            assert page.headings.count(1) == 1, path
        assert not page.without_text, (path, page.without_text)
        assert not [one for one in page.loaded if "//" in one], (path, page.loaded)
    reference = (site / "reference/python.html").read_text()
    for name in __import__("geomfast").__all__:
        assert name == "__version__" or f'id="geomfast.{name}"' in reference, name
    assert (
        ":class:" not in reference and ":func:" not in reference and "arithmatex" not in reference
    )
