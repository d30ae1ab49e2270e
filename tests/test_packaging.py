"""What an install needs, and what must never be among it."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import geomfast

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in requirements}


def test_building_needs_setuptools_and_pybind11_only() -> None:
    assert names(PROJECT["build-system"]["requires"]) == {"setuptools", "pybind11"}
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        for alias in (
            node.names
            if isinstance(node, ast.Import)
            else [ast.alias(node.module or "")]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "torch" not in imported
    assert len((ROOT / "setup.py").read_text().splitlines()) < 100


def test_native_sources_do_not_include_torch() -> None:
    sources = [p for p in (ROOT / "csrc").iterdir() if p.suffix in {".h", ".cpp", ".inl"}]
    assert sources
    for source in sources:
        assert not re.search(r"#include\s*[<\"](torch|ATen|c10)/", source.read_text()), source


def test_every_direct_dependency_is_pinned_for_ci() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = names([line.replace("_", "-") for line in lines if "==" in line])
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = names(PROJECT["project"]["dependencies"]).union(*map(names, extras.values()))
    assert wanted - {"geomfast"} <= pinned


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "geomfast", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert geomfast.__version__ in said


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {geomfast.__version__}\n" in (ROOT / "CITATION.cff").read_text()
