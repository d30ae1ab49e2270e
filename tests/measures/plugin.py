"""A little package with measures of its own, installed beside for a test."""

import subprocess
import sys
from pathlib import Path

_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{package}"
version = "1.0"
[project.entry-points."geomfast.measures"]
{package} = "{package}:MEASURE"
[tool.setuptools]
py-modules = ["{package}"]
"""
#: A measure of a spectrum: an estimator, and what the catalogue is told of it.
PARTICIPATION = '''
from dataclasses import dataclass
from geomfast.measures import Column, MeasureSpec, Need

@dataclass(frozen=True)
class Settings:
    power: float = 2.0

def participation(x, power):
    """sum(s)^p / sum(s^p) over the singular values s of x (..., N, d)."""
    import torch
    s = torch.linalg.svdvals(x.double())
    return s.sum(-1) ** power / (s**power).sum(-1)

MEASURE = MeasureSpec(
    name="participation",
    summary="participation ratio of every layer's activations",
    unit="dimensions",
    settings=Settings,
    need=Need.ACTIVATIONS,
    columns=(Column("participation", 0.0),),
    compute=lambda x, settings: participation(x, settings.power),
    label="participation ratio",
    meaning="about {value:.3g} directions take part",
    per_layer=True,
)
'''


def install(folder: Path, *, package: str = "little", source: str = PARTICIPATION) -> Path:
    """Builds and installs the package with pip, and returns the folder it is importable from."""
    project, target = folder / f"{package}-source", folder / "site"
    project.mkdir(parents=True)
    (project / "pyproject.toml").write_text(_PROJECT.format(package=package))
    (project / f"{package}.py").write_text(source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(project)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def lay_down(site: Path, package: str, source: str = PARTICIPATION) -> None:
    """What pip leaves of such a package in a folder, without the seconds that it takes."""
    told = site / f"{package}-1.0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    point = f"[geomfast.measures]\n{package} = {package}:MEASURE\n"
    (told / "entry_points.txt").write_text(point)
    (site / f"{package}.py").write_text(source)
