"""What a release would hand out: the sdist, a wheel built of it, and that wheel put to work.

    .venv/bin/python .ci/release.py

The wheel is built from the unpacked sdist, as `pip install geomfast-X.tar.gz` builds it, so one
compilation shows both. It is then installed into a new environment where no compiler is found, and
runs what README.md tells a reader to run: its commands, at a tiny size, and its Python. torch and
the other requirements are those of the environment that runs this: nothing is downloaded.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Made by the build, so in the wheel and not in the checkout.
BUILT = {"_build_report.json"}
#: Files at the top of the checkout without which an sdist cannot be built, used or cited.
TOP = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "pyproject.toml")
#: What is added to the README's `geomfast sweep`, which takes minutes as it stands there.
TINY = "--tasks COPY --levels 1 --steps 40 --checkpoints 9 --samples 20 --threads 1"

_started = time.perf_counter()


def step(said: str) -> None:
    print(f"   {said} ({time.perf_counter() - _started:.0f} s)", flush=True)


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Output of a command, which is printed only where the command fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{shlex.join(map(str, words))} ended with {done.returncode}")
    return done.stdout


def package_files() -> set[str]:
    """Everything under geomfast/ that somebody wrote, as a wheel names it."""
    found = {path for path in (ROOT / "geomfast").rglob("*") if path.is_file()}
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if "__pycache__" not in path.parts
        and path.suffix not in (".so", ".pyc")
        and path.name not in BUILT
    }


def backend(call: str, cwd: Path, out: Path) -> Path:
    """The file that a call of the build backend makes, in this environment: no isolation."""
    code = f"from setuptools import build_meta as b; print('\\n' + b.{call}({str(out)!r}))"
    return out / run(sys.executable, "-c", code, cwd=cwd).splitlines()[-1]


def check_sdist(sdist: Path, into: Path) -> Path:
    """Unpacks an sdist, which must hold each file of the build as it is here; its folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    (folder,) = into.iterdir()
    sources = {f"csrc/{path.name}" for path in (ROOT / "csrc").iterdir() if path.is_file()}
    for name in sorted({*package_files(), *sources, *TOP, "setup.py"}):
        there = folder / name
        assert there.is_file(), f"the sdist lacks {name}"
        assert there.read_bytes() == (ROOT / name).read_bytes(), f"{name} differs in the sdist"
    others = {path.name for path in folder.iterdir()} & {"tests", "bench", "experiments", "out"}
    assert not others, f"the sdist has {sorted(others)}"
    return folder


def check_wheel(wheel: Path) -> None:
    """A wheel holds the package, its modules and its data, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        report = json.loads(archive.read("geomfast/_build_report.json"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    has_nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    modules = {"_cpu": bool(shutil.which("c++") or shutil.which("g++")), "_cuda": bool(has_nvcc)}
    for name, expected in modules.items():
        built = report[f"geomfast.{name}"]["built"]
        assert built == (f"geomfast/{name}{suffix}" in names), f"{name} and its report disagree"
        assert built or not expected, f"{name}: {report[f'geomfast.{name}']['reason']}"
    inside = {name for name in names if not name.startswith(f"{info}/")}
    lacking, wanted = package_files() - inside, {f"geomfast/{name}" for name in BUILT}
    wanted |= {f"geomfast/{name}{suffix}" for name in modules}
    assert not lacking, f"the wheel lacks {sorted(lacking)}"
    added = inside - package_files() - wanted
    assert not added, f"the wheel also has {sorted(added)}"
    assert {"geomfast/py.typed", "geomfast/report/templates/page.html.j2"} <= inside
    assert f"{info}/licenses/LICENSE" in names
    assert metadata["License-Expression"] == PROJECT["license"]
    assert set(metadata.get_all("Classifier", [])) == set(PROJECT["classifiers"])
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()


class Clean:
    """A new environment with one wheel in it, and no compiler on its PATH."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        self.cwd = folder / "work"
        self.cwd.mkdir()
        kept = {"HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"}
        self.env = {name: value for name, value in os.environ.items() if name in kept}
        self.env |= {"PATH": str(self.bin), "OMP_NUM_THREADS": "1"}
        for compiler in ("c++", "g++", "gcc", "cc", "clang", "nvcc"):
            assert shutil.which(compiler, path=self.env["PATH"]) is None
        run(
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python),
            *("install", "-q", "--no-deps", "--no-index", wheel),
            cwd=self.cwd,
        )
        # The requirements come from here, without the .pth files that would bring this checkout.
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
        where = self.say("import geomfast; print(geomfast.__file__)").strip()
        assert Path(where).is_relative_to(site), f"geomfast was imported from {where}"

    def say(self, code: str) -> str:
        return run(self.python, "-c", code, cwd=self.cwd, env=self.env)

    def geomfast(self, *words: str) -> str:
        return run(self.bin / "geomfast", *words, cwd=self.cwd, env=self.env)


def readme(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def follow_readme(clean: Clean) -> None:
    lines = [line for block in readme("") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("geomfast ")]
    assert [words[0] for words in commands] == ["sweep", "report"], commands
    for words in commands:
        clean.geomfast(*words, *(shlex.split(TINY) if words[0] == "sweep" else ()))
        step(f"geomfast {shlex.join(words)}")
    assert (clean.cwd / "out" / "demo" / "report.html").stat().st_size > 1_000_000


def follow_python(clean: Clean) -> None:
    found = json.loads(clean.geomfast("doctor", "--json"))
    assert found["geomfast"] in clean.geomfast("--version")
    assert found["compilers"] == {"c++": None, "nvcc": None}, found["compilers"]
    assert all(test["passed"] for test in found["self_tests"]), found["self_tests"]
    step("geomfast doctor")
    blocks = readme("python")
    assert len(blocks) == 2, "the Python of README.md"
    said = clean.say("\n".join(blocks))
    assert "rankme" in said and "llc" in said, said
    clean.geomfast("report", "out/mine")
    step("the Python of README.md, and geomfast report out/mine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="put the sdist and the wheel into this folder")
    parser.add_argument("--wheel", type=Path, help="put this wheel to work instead of a new one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geomfast-release-") as name:
        folder = Path(name)
        dist = folder / "dist"
        dist.mkdir()
        wheel = given.wheel.resolve() if given.wheel else build(folder, dist)
        clean = Clean(folder / "venv", wheel)
        step("installed where there is no compiler")
        with ThreadPoolExecutor(2) as pool:  # two chains, one core each
            for chain in [pool.submit(follow, clean) for follow in (follow_readme, follow_python)]:
                chain.result()
        if given.keep:
            shutil.copytree(dist, given.keep, dirs_exist_ok=True)


def build(folder: Path, dist: Path) -> Path:
    """The sdist of a copy of this checkout, and the wheel of that sdist; the wheel."""
    source = folder / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", *BUILT)
    for part in ("geomfast", "csrc"):
        shutil.copytree(ROOT / part, source / part, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copyfile(path, source / path.name)
    sdist = backend("build_sdist", source, dist)
    unpacked = check_sdist(sdist, folder / "unpacked")
    step(f"{sdist.name}: complete, {sdist.stat().st_size / 1e6:.1f} MB")
    wheel = backend("build_wheel", unpacked, dist)
    check_wheel(wheel)
    step(f"{wheel.name}: built of it, complete, {wheel.stat().st_size / 1e6:.1f} MB")
    return wheel


if __name__ == "__main__":
    main()
