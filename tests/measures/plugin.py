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
{point} = "{module}:MEASURE"
[tool.setuptools]
py-modules = ["{module}"]
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
    module = package.replace("-", "_")
    project, target = folder / f"{package}-source", folder / "site"
    project.mkdir(parents=True)
    text = _PROJECT.format(package=package, module=module, point=module)
    (project / "pyproject.toml").write_text(text)
    (project / f"{module}.py").write_text(source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(project)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target
