"""The other Pythons that pyproject.toml promises: what of them can be shown here, in seconds.

    .venv/bin/python .ci/pythons.py                 # every one that is found
    .venv/bin/python .ci/pythons.py PATH/TO/python  # this one

Each compiles every file with warnings as errors, and runs `geomfast --help`, which needs no torch.
One that has torch and pytest also builds the C++ module in a copy and runs quick tests; the test
suite takes the Python of .venv, since a second torch is gigabytes.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("geomfast", "csrc", "tests", "bench", "docs")
QUICK = "tests/test_files.py tests/test_losses.py tests/test_records.py "
QUICK += "tests/estimators/test_spectra.py"
CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)$")


def promised() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [CLASSIFIER.match(classifier) for classifier in project["classifiers"]]
    return [match[1] for match in found if match]


def interpreter(version: str) -> Path | None:
    """A Python of this version that starts: on PATH, of uv, or of pyenv."""
    home = Path.home()
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python"))
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    candidates = [
        *filter(None, [shutil.which(f"python{version}")]),
        *sorted(uv.glob(f"*python-{version}.*/bin/python3")),
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python3")),
    ]
    return next((Path(path) for path in candidates if version_of(path) == version), None)


def version_of(python: str | Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def run(python: Path, *words: str, cwd: Path, **env: str) -> None:
    done = subprocess.run(
        [python, *words],
        cwd=cwd,
        env={**os.environ, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{python} {' '.join(words)} ended with {done.returncode}")


def has(python: Path, modules: str) -> bool:
    return not subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode


def check(python: Path, folder: Path) -> str:
    """What was shown; ends the script where something fails."""
    copy = folder / "copy"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_report.json")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copyfile(path, copy / path.name)
    run(python, "-W", "error", "-m", "compileall", "-q", *PARTS, "setup.py", cwd=copy)
    # click is pure Python, so that of this environment can be used.
    packages = os.pathsep.join([str(copy), sysconfig.get_path("purelib")])
    run(python, "-W", "error", "-m", "geomfast", "--help", cwd=folder, PYTHONPATH=packages)
    if not has(python, "torch, numpy, pandas, pyarrow, scipy, pytest, hypothesis"):
        return "every file compiles and `geomfast --help` runs; it has no torch, so no test was run"
    packages = "" if has(python, "setuptools, pybind11") else sysconfig.get_path("purelib")
    run(python, "setup.py", "-q", "build_ext", "--inplace", cwd=copy, PYTHONPATH=packages)
    run(python, "-m", "pytest", *QUICK.split(), "-p", "no:benchmark", cwd=copy, OMP_NUM_THREADS="1")
    return "every file compiles, the C++ module builds, and quick tests pass"


def main() -> None:
    given = [Path(word).absolute() for word in sys.argv[1:]]
    here = version_of(sys.executable)
    pythons = {version_of(python): python for python in given} or {
        version: interpreter(version) for version in promised() if version != here
    }
    for version, python in pythons.items():
        if python is None:
            print(f"   {version}: no interpreter was found, so nothing of it is shown")
            continue
        with tempfile.TemporaryDirectory(prefix="geomfast-python-") as folder:
            print(f"   {version}: {check(python, Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
