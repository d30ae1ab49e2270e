"""What the site takes from the code: pages of measures, tasks, links into the repository.

A hook of mkdocs; what it makes can be made without mkdocs too, so that the tests see the same.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import posixpath
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import geomfast
from geomfast.cli.measures import measures
from geomfast.measures import MeasureSpec, Need, catalog
from geomfast.testbed import tasks
from geomfast.testbed.tasks.vocabulary import text

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: What the page of every measure of ours has to say.
SECTIONS = ("What it is", "High and low", "When not to trust it", "Cost", "Reference")
#: Where a measure can be taken, by what it is computed from.
_TAKEN = {Need.ANSWERS: "sweeps, and series of their checkpoints"}
_LINK = re.compile(r"(?<!\\)(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(^ *(`{3,}).*?^ *\2\s*?$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":(?:class|func|mod|data|meth|attr|exc):(<code>)~?(?:\w+\.)*(\w+</code>)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


@cache
def costs() -> dict[str, str]:
    """What every measure takes, in the words of ``geomfast measures``."""
    printed = CliRunner().invoke(measures, ["--json"], catch_exceptions=False).output
    return {one["name"]: one["costs"] for one in json.loads(printed)["measures"]}


def facts(spec: MeasureSpec) -> str:
    """What the catalogue says of a measure, as a table of facts and one of settings."""
    columns = ", ".join(f"`{c.name}`" for c in spec.columns)
    layers = "a value for every layer" if spec.per_layer else "one value for the model"
    taken = _TAKEN.get(spec.need, "everywhere")
    if spec.need is Need.ACTIVATIONS:
        taken = "everywhere, populations included"
    rows = [
        ("Unit", spec.unit),
        ("Values", layers + ("; analysed on a log scale" if spec.logarithmic else "")),
        ("Computed from", str(spec.need)),
        ("Takes", costs()[spec.name]),
        ("In records as", columns),
        ("Available in", taken),
        *([("From the package", f"`{spec.plugin}`")] if spec.plugin else []),
    ]
    lines = [
        f"| Measure | {_cell(spec.summary)} |",
        "|---|---|",
        *(f"| {name} | {_cell(said)} |" for name, said in rows),
    ]
    settings = dataclasses.fields(spec.settings)
    if settings:
        said = _attributes(spec.settings)
        lines += ["", "| setting | default | |", "|---|---|---|"]
        lines += [
            f"| `{one.name}` | `{spec.defaults[one.name]!r}` | {_cell(said.get(one.name, ''))} |"
            for one in settings
        ]
        first = settings[0].name
        given = f"{spec.name}={{{first!r}: {spec.defaults[first]!r}}}"
        lines += [
            "",
            f"Change them with `gf.measure(model, loss_fn, data, {spec.name!r}, {given})`.",
        ]
    return "\n".join(lines)


def measure_page(spec: MeasureSpec, prose: str | None) -> str:
    """The page of a measure: its facts under the title, then what was written by hand.

    Raises:
        ValueError: a measure of ours without prose, or prose that lacks one of :data:`SECTIONS`.
    """
    if prose is None:
        if not spec.plugin:
            raise ValueError(f"docs/measures/{spec.name}.md is missing: every measure has a page")
        source = f"From the installed package `{spec.plugin}`, which says of it what stands here."
        return f"# {_cell(spec.label)}\n\n{source}\n\n{facts(spec)}\n"
    if lacking := [one for one in SECTIONS if f"\n## {one}\n" not in prose]:
        raise ValueError(f"docs/measures/{spec.name}.md has no section {lacking[0]!r}")
    title, rest = prose.split("\n", 1)
    return f"{title}\n\n{facts(spec)}\n{rest}"


def measure_table() -> str:
    """Every measure in a line, with a link to its page."""
    lines = ["| measure | what | unit | takes |", "|---|---|---|---|"]
    for spec in catalog().specs.values():
        what = spec.summary + (f" (package {spec.plugin})" if spec.plugin else "")
        row = (f"[`{spec.name}`]({spec.name}.md)", what, spec.unit, costs()[spec.name])
        lines.append("| " + " | ".join(map(_cell, row)) + " |")
    return "\n".join(lines)


def task_table() -> str:
    """The eight tasks: sizes, chance, and the first diagnostic example of level 1."""
    lines = [
        "| task | what | level 1 / 2 / 3 | chance at level 1 | first sample of level 1 |",
        "|---|---|---|---|---|",
    ]
    for task in tasks.TASKS.values():
        shown = text(tasks.examples(task, 1, tasks.DIAGNOSTIC_STREAM, 0, 1).tokens[0])
        row = (task.name, task.summary, " / ".join(task.sizes), f"{task.chance(1):.3g}")
        lines.append("| " + " | ".join([*map(_cell, row), f"`{shown}`"]) + " |")
    return "\n".join(lines)


def settings_table() -> str:
    """Settings of every measure with their defaults."""
    lines = ["| measure | settings and defaults |", "|---|---|"]
    for spec in catalog().specs.values():
        told = ", ".join(f"`{name}={value!r}`" for name, value in spec.defaults.items())
        lines.append(f"| [`{spec.name}`](../measures/{spec.name}.md) | {told or 'none'} |")
    return "\n".join(lines)


#: What a line ``<!-- NAME -->`` of a page is replaced by.
GENERATED: dict[str, Callable[[], str]] = {
    "measure-table": measure_table,
    "task-table": task_table,
    "settings-table": settings_table,
}


def included() -> dict[str, str]:
    """Path -> path on the site, of files outside docs/ that are pages or figures of it."""
    pages = [
        *(ROOT / "experiments").glob("*/README.md"),
        *(ROOT / "geomfast/kernels").glob("*/README.md"),
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "bench/README.md",
    ]
    figures = (ROOT / "experiments").glob("*/figures/**/*.png")
    paths = [path.relative_to(ROOT).as_posix() for path in (*sorted(pages), *sorted(figures))]
    return {path: path.removeprefix("geomfast/").replace("/README", "") for path in paths}


def linked(markdown: str, origin: str, repository: str | None) -> str:
    """The page with its links to other files made links of the site, of the repository, or paths.

    Args:
        markdown: of the page; links in code are left alone.
        origin: path of the page in the repository.
        repository: address that a path is put behind; None for paths as text.

    Raises:
        ValueError: a link to a file that is not there.
    """
    on_site = included()
    here = posixpath.dirname(on_site.get(origin, origin.removeprefix("docs/")))

    def one(found: re.Match[str]) -> str:
        image, label, target, anchor = found.groups()
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        page = on_site.get(path) or on_site.get(f"{path}/README.md")
        if path.startswith("docs/"):
            page = path.removeprefix("docs/")  # mkdocs checks that it is there
        if page:
            return f"{image}[{label}]({posixpath.relpath(page, here or '.')}{anchor or ''})"
        if image or not (ROOT / path).exists():
            raise ValueError(f"{origin}: no file {path} to link to")
        if repository:
            return f"[{label}]({repository.rstrip('/')}/{path}{anchor or ''})"
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    parts = _FENCED.split(markdown)[::3]
    code = [found[0] for found in _FENCED.finditer(markdown)]
    done = [_LINK.sub(one, part) for part in parts]
    return "".join(a + b for a, b in zip(done, [*code, ""], strict=True))


def _cell(said: str) -> str:
    return said.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _attributes(settings: type) -> dict[str, str]:
    """What is said of each setting, by the function the class names, or by the class itself."""
    doc = inspect.cleandoc(settings.__doc__ or "")
    said = _entries(doc, "Attributes:\n")
    if named := re.search(r":func:`geomfast\.(\w+)`", doc):
        said |= _entries(inspect.getdoc(getattr(geomfast, named[1])) or "", "Args:\n")
    return said


def _entries(doc: str, heading: str) -> dict[str, str]:
    """Names and texts of a section of a docstring."""
    section = doc.partition(heading)[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}([\w, ]+): (.+(?:\n {8,}.+)*)", section, re.MULTILINE)
    return {
        name: re.sub(r"\s+", " ", said) for names, said in entries for name in names.split(", ")
    }


# What mkdocs calls.


def on_config(config: Any) -> Any:
    """Puts every measure, experiment and kernel into the navigation."""
    pages = {
        page: path.split("/")[-2]
        for path, page in included().items()
        if path.endswith("/README.md")
    }
    more = {
        "Measures": {
            f"measures/{name}.md": spec.label[:1].upper() + spec.label[1:]
            for name, spec in catalog().specs.items()
        },
        "Experiments": {page: name for page, name in pages.items() if page.startswith("exp")},
        "Kernels": {page: name for page, name in pages.items() if page.startswith("kernels")},
    }
    for entry in config.nav:
        for title, found in more.items():
            if title in entry:
                entry[title] += [{name: page} for page, name in found.items()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds pages from outside docs/, and one for each measure that has none: of other packages."""
    from mkdocs.structure.files import File

    for path, page in included().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for name, spec in catalog().specs.items():
        if files.get_file_from_path(path := f"measures/{name}.md") is None:
            files.append(File.generated(config, path, content=measure_page(spec, None)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fills in what is generated, and links into the repository."""
    path = page.file.src_uri
    name = Path(path).stem
    origin = next((o for o, p in included().items() if p == path), f"docs/{path}")
    if path.startswith("measures/") and name in catalog().specs and page.file.abs_src_path:
        markdown = measure_page(catalog().specs[name], markdown)
    for marker, made in GENERATED.items():
        if (line := f"<!-- {marker} -->") in markdown:
            markdown = markdown.replace(line, made())
    return linked(markdown, origin, config.repo_url and f"{config.repo_url}/blob/main")


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Makes formulas MathML, which browsers show without a script, and roles of docstrings code.

    Options without a default have click's own word for that in mkdocs-click 0.9: it is left out.
    """
    from html import unescape

    from latex2mathml.converter import convert

    def formula(found: re.Match[str]) -> str:
        return convert(unescape(found[2]), display="inline" if found[1] == "span" else "block")

    html = _ROLE.sub(r"\1\2", _MATH.sub(formula, html)).replace("::</p>", ":</p>")
    return html.replace("<code>Sentinel.UNSET</code>", "")
