"""Native modules of geomfast. Everything else is declared in pyproject.toml.

The C++ module is always tried, the CUDA module where nvcc is. The install succeeds without them:
why one was not built goes into geomfast/_build_report.json, with which the package explains itself.
"""

import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

ON_X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
AVX512 = "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mprefer-vector-width=512"
ISA_FLAGS = {"_avx512.cpp": AVX512.split(), "_avx2.cpp": ["-mavx2", "-mfma"]}
REPORT = Path("geomfast", "_build_report.json")

# No contraction: every copy of a loop must give the same bits. Kernels say fma where they mean it.
FLAGS = ["-O3", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]

# Machine code for A100 and H100, PTX for later ones; the runtime is linked in, not to be installed.
NVCC = "-O3 -std=c++17 --threads=0 -shared -cudart=static -Xcompiler=-fPIC,-fvisibility=hidden"
NVCC += " -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=[sm_90,compute_90]"


def files(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path("csrc").glob(pattern))


def isa_flags(source: str) -> list[str]:
    return next((flags for end, flags in ISA_FLAGS.items() if source.endswith(end)), [])


class BuildExtensions(build_ext):
    """Adds flags per file, and turns a failed build into a report instead of a failed install."""

    def build_extensions(self):
        compile_one = self.compiler._compile

        def compile_with_isa(obj, src, ext, cc_args, extra_postargs, pp_opts):
            return compile_one(obj, src, ext, cc_args, [*extra_postargs, *isa_flags(src)], pp_opts)

        self.compiler._compile = compile_with_isa
        self.outcome = {}
        self.parallel = self.parallel or 2  # nvcc beside the C++ compiler: minutes on one core
        super().build_extensions()
        Path(self.build_lib, REPORT.parent).mkdir(parents=True, exist_ok=True)
        Path(self.build_lib, REPORT).write_text(json.dumps(self.outcome, indent=2) + "\n")

    def build_extension(self, ext):
        try:
            if self.compiler.compiler_type == "msvc":
                raise RuntimeError("needs GCC or Clang: the kernels use their vector extensions")
            (self.build_with_nvcc if ext is CUDA else super().build_extension)(ext)
            self.outcome[ext.name] = {"built": True, "reason": ""}
        except Exception as error:  # a missing compiler shows in many ways
            self.outcome[ext.name] = {"built": False, "reason": self.why(error, ext)}
            self.warn(f"{ext.name} was not built, slower paths will serve. {self.why(error, ext)}")
            ext.optional = True  # later steps skip the missing file

    def build_with_nvcc(self, ext):
        """One call compiles and links: nvcc knows where its own headers and libraries are."""
        home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        if (nvcc := shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")) is None:
            raise RuntimeError("nvcc was not found on PATH or under CUDA_HOME")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        include = [f"-I{path}" for path in [*ext.include_dirs, *self.include_dirs]]
        self.spawn([nvcc, *NVCC.split(), *include, *ext.sources, "-o", str(target)])

    def why(self, error, ext):
        compiler = "nvcc" if ext is CUDA else getattr(self.compiler, "compiler_so", [""])[0]
        if ext is not CUDA and not shutil.which(compiler):
            return f"there is no C++ compiler: {compiler} was not found"
        # The whole command line says nothing to a reader; `pip install -v` shows it.
        said = re.sub(r"[Cc]ommand '?\[?.*\]?' (?=returned|failed)", "", str(error))
        return said if said.startswith(compiler) else f"{compiler} {said}"

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        shutil.copyfile(Path(self.build_lib, REPORT), REPORT)


CPU = Pybind11Extension(
    "geomfast._cpu",
    [f for f in files("*.cpp") if "_cuda" not in f and (ON_X86 or not isa_flags(f))],
    depends=files("*.h", "*.inl"),
    extra_compile_args=[*FLAGS, *([] if ON_X86 else ["-DGEOMFAST_NO_X86"])],
    extra_link_args=["-pthread"],
)
CUDA = Pybind11Extension("geomfast._cuda", files("*_cuda.cpp", "*.cu"))
ParallelCompile("GEOMFAST_BUILD_JOBS").install()  # every core compiles a file
setup(ext_modules=[CPU, CUDA], cmdclass={"build_ext": BuildExtensions})
