"""Native modules of geomfast. Everything else is declared in pyproject.toml.

The C++ module is always tried. Where it cannot be built the install still succeeds: the reason
goes into geomfast/_build_report.json, which the package reads to explain itself.
"""

import json
import platform
import re
import shutil
import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

ON_X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
AVX512 = "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mprefer-vector-width=512"
ISA_FLAGS = {"_avx512": AVX512.split(), "_avx2": ["-mavx2", "-mfma"]}
REPORT = Path("geomfast", "_build_report.json")

# No contraction: a lane must give the same bits in every copy of a loop. Kernels say fma where
# they mean it.
FLAGS = ["-O3", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]


def isa_of(source: str) -> str:
    """The file's instruction-set suffix, "" for the baseline."""
    match = re.search(r"(_avx512|_avx2)\.cpp$", source)
    return match.group(1) if match else ""


def cpu_extension() -> Pybind11Extension:
    sources = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    return Pybind11Extension(
        "geomfast._cpu",
        [source for source in sources if ON_X86 or not isa_of(source)],
        depends=[str(path) for pattern in ("*.h", "*.inl") for path in Path("csrc").glob(pattern)],
        define_macros=[] if ON_X86 else [("GEOMFAST_NO_X86", "1")],
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
    )


class BuildExtensions(build_ext):
    """Adds flags per file, and turns a failed build into a report instead of a failed install."""

    def build_extensions(self):
        compile_one = self.compiler._compile

        def compile_with_isa(obj, src, ext, cc_args, extra_postargs, pp_opts):
            flags = [*extra_postargs, *ISA_FLAGS.get(isa_of(src), [])]
            return compile_one(obj, src, ext, cc_args, flags, pp_opts)

        self.compiler._compile = compile_with_isa
        self.outcome = {}
        super().build_extensions()
        report = Path(self.build_lib, REPORT)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(self.outcome, indent=2) + "\n")

    def build_extension(self, ext):
        try:
            if self.compiler.compiler_type == "msvc":
                raise RuntimeError("needs GCC or Clang: the kernels use their vector extensions")
            super().build_extension(ext)
            self.outcome[ext.name] = {"built": True, "reason": ""}
        except Exception as error:  # a missing compiler shows in many ways
            reason = self.why(error)
            self.outcome[ext.name] = {"built": False, "reason": reason}
            self.warn(f"{ext.name} was not built, slower paths will serve. {reason}")
            ext.optional = True  # later steps skip the missing file

    def why(self, error):
        compiler = self.compiler.compiler_so[0] if hasattr(self.compiler, "compiler_so") else ""
        if compiler and not shutil.which(compiler):
            return f"there is no C++ compiler: {compiler} was not found"
        # The whole command line says nothing to a reader; `pip install -v` shows it.
        said = re.sub(r"[Cc]ommand '?\[?.*\]?' (?=returned|failed)", "", str(error))
        return f"{compiler} {said}" if compiler else f"{type(error).__name__}: {said}"

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        shutil.copyfile(Path(self.build_lib, REPORT), REPORT)


setup(ext_modules=[cpu_extension()], cmdclass={"build_ext": BuildExtensions})
