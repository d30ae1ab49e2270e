// Python module geomfast._cpu: integer addresses in, no tensor library, the GIL released.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "spectra_cpu.h"
#include "spectra_on_host.h"

namespace {

using geomfast::SpectraJob;
using geomfast::SpectraKernel;

const SpectraKernel& kernel_for(const std::string& isa) {
  const SpectraKernel* kernel = geomfast::spectra_kernel(isa.c_str());
  if (kernel == nullptr) {
    throw std::invalid_argument("instruction set '" + isa + "' cannot run on this processor");
  }
  return *kernel;
}

std::pair<long, int> singular_values(std::uintptr_t data, int dtype, long batch, long rows,
                                     long cols, long batch_stride, long row_stride,
                                     std::uintptr_t out, int threads, const std::string& isa) {
  const SpectraKernel& kernel = kernel_for(isa);
  if (dtype != 0 && dtype != 1) throw std::invalid_argument("dtype must be 0 or 1");
  if (batch < 0 || rows < 1 || cols < 1) throw std::invalid_argument("empty matrix");
  pybind11::gil_scoped_release release;
  if (batch == 0) return {-1, geomfast::kOk};
  std::vector<geomfast::Status> status(batch, geomfast::kOk);
  SpectraJob job{reinterpret_cast<const void*>(data),
                 static_cast<geomfast::DType>(dtype),
                 batch,
                 rows,
                 cols,
                 batch_stride,
                 row_stride,
                 reinterpret_cast<double*>(out),
                 nullptr,
                 status.data()};
  geomfast::singular_values(job, kernel, threads);
  for (long i = 0; i < batch; ++i) {
    if (status[i] != geomfast::kOk) return {i, status[i]};
  }
  return {-1, geomfast::kOk};
}

void spectra_on_host(std::uintptr_t gram, long batch, int n, int threads, int groups, int order,
                     bool packed, double eps, std::uintptr_t values, std::uintptr_t rankme) {
  if (batch < 0 || n < 1) throw std::invalid_argument("empty matrix");
  if (threads < 32 || threads % 32 != 0 || groups < 1 || order < 0 || order > 2) {
    throw std::invalid_argument("threads must come in whole warps, groups from 1, order 0 to 2");
  }
  pybind11::gil_scoped_release release;
  geomfast::spectra_on_host({reinterpret_cast<const double*>(gram), batch, n, threads, groups,
                             order, packed, eps, reinterpret_cast<double*>(values),
                             reinterpret_cast<double*>(rankme)});
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "Native CPU kernels of geomfast; called by geomfast.kernels only.";
  module.def("isa", [](const std::string& isa) { return std::string(kernel_for(isa).name); },
             pybind11::arg("isa") = "",
             "Name of the instruction set in use: avx512, avx2 or portable.");
  module.def("isas", [] {
    std::vector<std::string> names;
    for (const char* isa : {"avx512", "avx2", "portable"}) {
      if (geomfast::spectra_kernel(isa) != nullptr) names.emplace_back(isa);
    }
    return names;
  }, "Instruction sets that run on this processor, best first.");
  module.def("singular_values", &singular_values, pybind11::arg("data"), pybind11::arg("dtype"),
             pybind11::arg("batch"), pybind11::arg("rows"), pybind11::arg("cols"),
             pybind11::arg("batch_stride"), pybind11::arg("row_stride"), pybind11::arg("out"),
             pybind11::arg("threads"), pybind11::arg("isa") = "",
             "Descending singular values of (batch, rows, cols) with contiguous rows, float32 (0)\n"
             "or float64 (1), into float64 (batch, min(rows, cols)). Returns the index of the\n"
             "first matrix that failed, or -1, and why: 1 not finite, 2 not converged.");
  module.def("spectra_on_host", &spectra_on_host, pybind11::arg("gram"), pybind11::arg("batch"),
             pybind11::arg("n"), pybind11::arg("threads"), pybind11::arg("groups"),
             pybind11::arg("order"), pybind11::arg("packed"), pybind11::arg("eps"),
             pybind11::arg("values"), pybind11::arg("rankme"),
             "For tests: the algorithm of the CUDA kernels, run by one CPU thread. The threads of\n"
             "a phase run forward (order 0), backward (1) or shuffled (2), on a packed triangle as\n"
             "in shared memory or a square matrix as in global memory.");
}
